//! Attached rate limits, stored with the cached key.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::HeaderValue;

use super::limiter::{Decision, LimitError, LimitHandle, Limiter};
use super::rate_limit::RateLimit;
use super::subject::SubjectLimits;
use crate::clock::{Clock, Now};

/// The settings of a layer that its attached limits share.
#[derive(Debug, Clone)]
pub(crate) struct LimitSettings {
    /// Identifies the combination of default limits and limiter.
    pub(crate) id: u64,
    pub(crate) clock: Clock,
    /// The timeout of a handle that responds later.
    pub(crate) timeout: Duration,
}

/// The limits of a key and its owner, as attached by one layer configuration.
#[derive(Debug)]
pub(crate) struct AttachedLimits {
    pub(crate) settings: Arc<LimitSettings>,
    /// `None` for a key without limits.
    pub(crate) handle: Option<Arc<dyn LimitHandle>>,
    headers: Option<Arc<LimitHeaders>>,
    /// The limits of the next configuration that uses the same cached key. A list suffices, because few layers are
    /// nested.
    next: OnceLock<Box<Self>>,
}

impl AttachedLimits {
    /// Attaches limits, if there are any.
    ///
    /// # Errors
    ///
    /// The error of the limiter.
    #[cold]
    pub(crate) fn attach(
        settings: &Arc<LimitSettings>,
        limiter: &dyn Limiter,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Self, LimitError> {
        let (handle, headers) = if subjects.iter().all(|one| one.limits.is_empty()) {
            (None, None)
        } else {
            let handle = limiter.attach(subjects, now)?;
            let headers = LimitHeaders::shared(&SubjectLimits::reported(subjects));
            (Some(handle), Some(headers))
        };
        Ok(Self {
            settings: settings.clone(),
            handle,
            headers,
            next: OnceLock::new(),
        })
    }

    /// The limits of the configuration with this id, attached if necessary. Errors are not cached.
    ///
    /// # Errors
    ///
    /// The error of `attach`.
    #[inline]
    pub(crate) fn get_or_attach(
        first: &OnceLock<Self>,
        id: u64,
        attach: impl Fn() -> Result<Self, LimitError>,
    ) -> Result<&Self, LimitError> {
        let mut attached = match first.get() {
            Some(attached) => attached,
            None => {
                let attached = attach()?;
                first.get_or_init(|| attached)
            }
        };
        while attached.settings.id != id {
            attached = match attached.next.get() {
                Some(next) => next,
                None => {
                    let next = Box::new(attach()?);
                    attached.next.get_or_init(|| next)
                }
            };
        }
        Ok(attached)
    }

    /// The limits of the configuration with this id, if they are attached.
    #[inline]
    pub(crate) fn get(first: &OnceLock<Self>, id: u64) -> Option<&Self> {
        let mut attached = first.get()?;
        while attached.settings.id != id {
            attached = attached.next.get()?;
        }
        Some(attached)
    }

    /// A decision about these limits, with the headers that report it; `None` for a key without limits.
    #[inline]
    pub(crate) fn reported<'a>(
        &'a self,
        decision: &'a Decision,
    ) -> Option<(&'a LimitHeaders, &'a Decision)> {
        Some((self.headers.as_ref()?, decision))
    }

    /// The names of the limits that a decision found exceeded.
    pub(crate) fn violated(&self, decision: &Decision) -> Arc<[Arc<str>]> {
        let violated = |&index: &usize| decision.is_exceeded(index);
        let names = self.headers.as_ref().map(|headers| &headers.names);
        let Some(names) = names else {
            return Arc::default();
        };
        let count = (0..names.len()).filter(violated).count();
        if count == names.len() {
            return names.clone();
        }
        let some = (0..names.len()).filter(violated);
        some.map(|index| names[index].clone()).collect()
    }
}

/// The number of different lists of limits whose headers are shared. Most services have a few plans.
const MAX_SHARED: usize = 256;

/// The constant parts of rate limit headers.
#[derive(Debug)]
pub(crate) struct LimitHeaders {
    /// `None` if a name is not valid in a header.
    pub(crate) policy: Option<HeaderValue>,
    /// `"burst";r=` for each limit.
    pub(crate) items: Vec<Box<str>>,
    pub(crate) bursts: Vec<u32>,
    names: Arc<[Arc<str>]>,
}

impl LimitHeaders {
    /// The headers of these limits, which may be those of other keys with the same limits.
    fn shared(limits: &[RateLimit]) -> Arc<Self> {
        type Known = HashMap<Box<[RateLimit]>, Arc<LimitHeaders>, RandomState>;
        static KNOWN: LazyLock<RwLock<Known>> = LazyLock::new(RwLock::default);

        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(headers) = known.get(limits) {
            return headers.clone();
        }
        if known.len() >= MAX_SHARED {
            return Arc::new(Self::new(limits));
        }
        drop(known);
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        let headers = known.entry(limits.into());
        headers
            .or_insert_with(|| Arc::new(Self::leaked(limits)))
            .clone()
    }

    pub(crate) fn new(limits: &[RateLimit]) -> Self {
        let policies = limits.iter().map(|limit| {
            let (name, (q, w)) = (limit.name(), limit.policy());
            format!("\"{name}\";q={q};w={w}")
        });
        let policy = Bytes::from(policies.collect::<Vec<_>>().join(", "));
        // `Bytes` allocates on the first clone; this avoids it on responses.
        drop(policy.clone());
        Self {
            policy: HeaderValue::from_maybe_shared(policy).ok(),
            items: limits
                .iter()
                .map(|limit| format!("\"{}\";r=", limit.name()).into())
                .collect(),
            bursts: limits.iter().map(RateLimit::burst).collect(),
            names: limits.iter().map(RateLimit::shared_name).cloned().collect(),
        }
    }

    /// With a policy that is not reference counted: on that count, all threads would contend.
    fn leaked(limits: &[RateLimit]) -> Self {
        let mut headers = Self::new(limits);
        if let Some(Ok(text)) = headers.policy.as_ref().map(HeaderValue::to_str) {
            headers.policy = Some(HeaderValue::from_static(text.to_owned().leak()));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_many_different_limits_are_not_shared() {
        let all = (1..=2 * MAX_SHARED as u32).map(|burst| {
            let limits = [RateLimit::per_second(7).with_burst(burst).with_name("many")];
            (
                burst,
                LimitHeaders::shared(&limits),
                LimitHeaders::shared(&limits),
            )
        });
        let mut shared = 0;
        for (burst, first, second) in all {
            assert_eq!(
                (&*first.bursts, &*second.bursts),
                (&[burst][..], &[burst][..])
            );
            assert_eq!(first.policy, second.policy);
            shared += usize::from(Arc::ptr_eq(&first, &second));
        }
        assert!((1..=MAX_SHARED).contains(&shared), "{shared}");
    }
}
