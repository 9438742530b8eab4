//! The subjects whose usage limits count.

use std::fmt;

use super::rate_limit::{InvalidLimit, RateLimit};
use crate::id::KeyId;

/// The subject whose usage a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject<'a> {
    /// A key, by its [lineage](crate::key::Key::lineage).
    Key(KeyId),
    /// All keys of an owner together.
    Owner(&'a str),
}

impl From<KeyId> for Subject<'_> {
    fn from(lineage: KeyId) -> Self {
        Self::Key(lineage)
    }
}

/// The lineage of a key, or `owner:` and the owner.
impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(lineage) => f.write_str(lineage.as_str()),
            Self::Owner(owner) => write!(f, "owner:{owner}"),
        }
    }
}

/// A subject and its limits.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SubjectLimits<'a> {
    /// The subject.
    pub subject: Subject<'a>,
    /// Its limits.
    pub limits: &'a [RateLimit],
}

impl<'a> SubjectLimits<'a> {
    /// The limits of a subject.
    pub fn new(subject: impl Into<Subject<'a>>, limits: &'a [RateLimit]) -> Self {
        Self {
            subject: subject.into(),
            limits,
        }
    }

    /// Checks that the subject can have these limits together.
    ///
    /// # Errors
    ///
    /// The first violation found: an invalid limit, too many limits, or a duplicate name.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        let max = match self.subject {
            Subject::Key(_) => RateLimit::MAX_PER_KEY,
            Subject::Owner(_) => RateLimit::MAX_PER_OWNER,
        };
        RateLimit::validate_up_to(max, self.limits)
    }

    /// The limits of these subjects as clients see them: the names of an owner's limits begin with `owner-`.
    pub(crate) fn reported(subjects: &[Self]) -> Vec<RateLimit> {
        let reported = |one: &Self| -> Vec<RateLimit> {
            let is_owner = matches!(one.subject, Subject::Owner(_));
            let limits = one.limits.iter().cloned();
            let named = limits.map(|limit| match is_owner {
                true => {
                    let name = format!("owner-{}", limit.name());
                    limit.with_name(name)
                }
                false => limit,
            });
            named.collect()
        };
        subjects.iter().flat_map(reported).collect()
    }

    /// Checks the limits of several subjects.
    ///
    /// # Errors
    ///
    /// The first violation found. Two entries of one subject have duplicate names.
    pub(super) fn validate_all(subjects: &[Self]) -> Result<(), InvalidLimit> {
        for (index, one) in subjects.iter().enumerate() {
            one.validate()?;
            if subjects[..index]
                .iter()
                .any(|other| other.subject == one.subject)
            {
                return Err(InvalidLimit::Duplicate);
            }
        }
        Ok(())
    }
}
