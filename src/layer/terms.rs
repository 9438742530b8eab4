//! The terms of a key: what a gate makes of its limits, kept with the cached key until that is read
//! anew.

use std::ops::Deref;
use std::sync::Arc;

use super::answer::LimitHeaders;
use super::gate::Gate;
use crate::clock::Now;
use crate::key::CachedKey;
use crate::limit::{Allowance, LimitError};

pub(super) struct Terms {
    /// The gate that made them; another one has other defaults and another limiter.
    gate: u64,
    /// What the key may still spend; nothing to ask where it has no limits.
    pub(super) allowance: Result<Option<Arc<dyn Allowance>>, LimitError>,
    pub(super) headers: Option<LimitHeaders>,
    /// The limits' names.
    pub(super) names: Vec<Arc<str>>,
}

/// Terms from the cache's entry, or made for the moment because another gate's are kept there.
pub(super) enum TermsRef<'a> {
    Kept(&'a Terms),
    Own(Box<Terms>),
}

impl Terms {
    #[inline]
    pub(super) fn of<'a>(gate: &Gate, entry: &'a CachedKey, now: Now) -> TermsRef<'a> {
        let kept = entry
            .derived
            .get_or_init(|| Arc::new(Self::make(gate, entry, now)))
            .downcast_ref::<Self>();
        match kept {
            Some(terms) if terms.gate == gate.id => TermsRef::Kept(terms),
            _ => TermsRef::Own(Box::new(Self::make(gate, entry, now))),
        }
    }

    #[cold]
    fn make(gate: &Gate, entry: &CachedKey, now: Now) -> Self {
        let limits = gate.limits_of(&entry.key);
        let (allowance, headers) = if limits.is_empty() {
            (Ok(None), None)
        } else {
            let allowance = gate.limiter.attach(entry.key.line, limits, now);
            (allowance.map(Some), LimitHeaders::of(limits))
        };
        Self {
            gate: gate.id,
            allowance,
            headers,
            names: limits.iter().map(|limit| limit.name().into()).collect(),
        }
    }
}

impl Deref for TermsRef<'_> {
    type Target = Terms;

    #[inline]
    fn deref(&self) -> &Terms {
        match self {
            Self::Kept(terms) => terms,
            Self::Own(terms) => terms,
        }
    }
}
