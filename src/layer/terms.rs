//! The terms of a key: what a gate makes of its limits, kept with the cached key until that is read
//! anew.

use std::sync::{Arc, OnceLock};

use super::answer::LimitHeaders;
use super::gate::Gate;
use super::reject::Rejection;
use crate::clock::Now;
use crate::key::CachedKey;
use crate::limit::{Decision, LimitError, LimitHandle};
use crate::usage::RejectionReason;

pub(super) struct Terms {
    /// Of what gates they are: another one may have other defaults and another limiter.
    limits_id: u64,
    /// What the key may still spend; nothing to ask where it has no limits.
    pub(super) allowance: Option<Arc<dyn LimitHandle>>,
    pub(super) headers: Option<LimitHeaders>,
    /// The limits' names.
    names: Arc<[Arc<str>]>,
    /// Those of the next gate that uses the same entry: layers that are stacked are few.
    next: OnceLock<Box<Self>>,
}

impl Terms {
    /// # Errors
    ///
    /// What the limiter says when it cannot keep the key's limits; it is asked again next time.
    #[inline]
    pub(super) fn of<'a>(
        gate: &Gate,
        entry: &'a CachedKey,
        now: Now,
    ) -> Result<&'a Self, LimitError> {
        let mut terms = match entry.terms.get() {
            Some(terms) => terms,
            None => {
                let made = Arc::new(Self::make(gate, entry, now)?);
                entry.terms.get_or_init(|| made)
            }
        }
        .downcast_ref::<Self>()
        .expect("nothing else is kept there");
        while terms.limits_id != gate.limits_id {
            terms = match terms.next.get() {
                Some(next) => next,
                None => {
                    let made = Box::new(Self::make(gate, entry, now)?);
                    terms.next.get_or_init(|| made)
                }
            };
        }
        Ok(terms)
    }

    /// What an answer is told of a decision about these limits.
    #[inline]
    pub(super) fn limited<'a>(
        &'a self,
        decision: &'a Decision,
    ) -> Option<(&'a LimitHeaders, &'a Decision)> {
        Some((self.headers.as_ref()?, decision))
    }

    /// The rejection of a request that these limits do not let pass.
    pub(super) fn rejection(&self, decision: &Decision) -> Rejection {
        let violated = |&index: &usize| decision.is_violated(index);
        let count = (0..self.names.len()).filter(violated).count();
        let names = if count == self.names.len() {
            self.names.clone()
        } else {
            let some = (0..self.names.len()).filter(violated);
            some.map(|index| self.names[index].clone()).collect()
        };
        Rejection {
            retry_after_secs: decision.retry_after_secs(),
            violated: Some(names),
            ..Rejection::new(RejectionReason::RateLimited)
        }
    }

    #[cold]
    fn make(gate: &Gate, entry: &CachedKey, now: Now) -> Result<Self, LimitError> {
        let limits = gate.limits_of(&entry.key);
        let (allowance, headers) = if limits.is_empty() {
            (None, None)
        } else {
            let allowance = gate.limiter.attach(entry.key.line, limits, now)?;
            (Some(allowance), LimitHeaders::of(limits))
        };
        Ok(Self {
            limits_id: gate.limits_id,
            allowance,
            headers,
            names: limits.iter().map(|limit| limit.name().into()).collect(),
            next: OnceLock::new(),
        })
    }
}
