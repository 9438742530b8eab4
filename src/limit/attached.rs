//! Attached rate limits, stored with the cached key.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderValue;

use super::limiter::{Decision, LimitError, LimitHandle, Limiter};
use super::rate_limit::RateLimit;
use crate::clock::Now;
use crate::id::KeyId;

/// The limits of a key, as attached by one layer configuration.
#[derive(Debug)]
pub(crate) struct AttachedLimits {
    /// The id of the configuration. Others may have different default limits and limiters.
    config: u64,
    /// `None` for a key without limits.
    pub(crate) handle: Option<Arc<dyn LimitHandle>>,
    headers: Option<LimitHeaders>,
    names: Arc<[Arc<str>]>,
    /// The limits of the next configuration that uses the same cached key. A list suffices, because few layers are
    /// nested.
    next: OnceLock<Box<Self>>,
}

impl AttachedLimits {
    /// Attaches the limits of a subject.
    ///
    /// # Errors
    ///
    /// The error of the limiter.
    #[cold]
    pub(crate) fn attach(
        config: u64,
        limiter: &dyn Limiter,
        subject: KeyId,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<Self, LimitError> {
        let (handle, headers) = if limits.is_empty() {
            (None, None)
        } else {
            let handle = limiter.attach(subject, limits, now)?;
            (Some(handle), LimitHeaders::new(limits))
        };
        Ok(Self {
            config,
            handle,
            headers,
            names: limits.iter().map(RateLimit::shared_name).cloned().collect(),
            next: OnceLock::new(),
        })
    }

    /// The limits of this configuration, attached if necessary. Errors are not cached.
    ///
    /// # Errors
    ///
    /// The error of `attach`.
    #[inline]
    pub(crate) fn get_or_attach(
        first: &OnceLock<Box<Self>>,
        config: u64,
        attach: impl Fn() -> Result<Self, LimitError>,
    ) -> Result<&Self, LimitError> {
        let mut cell = first;
        loop {
            let attached = match cell.get() {
                Some(attached) => attached,
                None => {
                    let attached = Box::new(attach()?);
                    cell.get_or_init(|| attached)
                }
            };
            if attached.config == config {
                return Ok(attached);
            }
            cell = &attached.next;
        }
    }

    /// The limits of this configuration, if they are attached.
    #[inline]
    pub(crate) fn get(first: &OnceLock<Box<Self>>, config: u64) -> Option<&Self> {
        let mut attached = first.get()?;
        while attached.config != config {
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
        let count = (0..self.names.len()).filter(violated).count();
        if count == self.names.len() {
            return self.names.clone();
        }
        let some = (0..self.names.len()).filter(violated);
        some.map(|index| self.names[index].clone()).collect()
    }
}

/// The constant parts of a key's rate limit headers.
#[derive(Debug)]
pub(crate) struct LimitHeaders {
    pub(crate) policy: HeaderValue,
    /// `"burst";r=` for each limit.
    pub(crate) items: Vec<Box<str>>,
    pub(crate) bursts: Vec<u32>,
}

impl LimitHeaders {
    pub(crate) fn new(limits: &[RateLimit]) -> Option<Self> {
        let policies = limits.iter().map(|limit| {
            let (name, (q, w)) = (limit.name(), limit.policy());
            format!("\"{name}\";q={q};w={w}")
        });
        let policy = Bytes::from(policies.collect::<Vec<_>>().join(", "));
        // `Bytes` allocates on the first clone; this avoids it on responses.
        drop(policy.clone());
        Some(Self {
            policy: HeaderValue::from_maybe_shared(policy).ok()?,
            items: limits
                .iter()
                .map(|limit| format!("\"{}\";r=", limit.name()).into())
                .collect(),
            bursts: limits.iter().map(RateLimit::burst).collect(),
        })
    }
}
