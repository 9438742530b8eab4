//! The generic cell rate algorithm (GCRA).
//!
//! The usage of a limit is the time until all of it is restored: a request adds the time in which one request is restored,
//! and is allowed if the sum does not exceed the time to restore the whole burst. The end of that time is the *theoretical
//! arrival time* of ITU-T I.371, and all of the state.

use std::time::Duration;

use super::limiter::LimitStatus;
use super::rate_limit::{InvalidLimit, RateLimit};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::limit) struct Rate {
    /// The nanoseconds in which one request is restored.
    per_request: u64,
    /// The nanoseconds in which the whole burst is restored.
    burst: u64,
}

/// The limit is exceeded.
pub(in crate::limit) struct Exceeded {
    pub(in crate::limit) status: LimitStatus,
    /// The time until the request would be allowed; `None` if its cost exceeds the burst.
    pub(in crate::limit) wait: Option<Duration>,
}

impl Rate {
    pub(in crate::limit) fn of(limit: &RateLimit) -> Result<Self, InvalidLimit> {
        let quota = limit.quota()?;
        let per_request = quota.replenish_interval().as_nanos();
        let per_request = u64::try_from(per_request).unwrap_or(u64::MAX).max(1);
        Ok(Self {
            per_request,
            // A valid window is at most a year.
            burst: per_request.saturating_mul(quota.burst_size().get().into()),
        })
    }

    /// The nanoseconds in which one request is restored.
    #[inline]
    pub(in crate::limit) fn per_request(self) -> u64 {
        self.per_request
    }

    /// The nanoseconds in which the whole burst is restored.
    #[inline]
    pub(in crate::limit) fn burst(self) -> u64 {
        self.burst
    }

    /// The usage after a request, in nanoseconds.
    #[inline]
    pub(in crate::limit) fn after(self, usage: u64, cost: u32) -> Result<u64, Exceeded> {
        let more = u64::from(cost).saturating_mul(self.per_request);
        let after = usage.saturating_add(more);
        if after <= self.burst {
            return Ok(after);
        }
        let wait = (more <= self.burst).then(|| Duration::from_nanos(after - self.burst));
        let status = self.status(usage);
        Err(Exceeded { status, wait })
    }

    /// Whether a request would be allowed.
    #[cfg(feature = "redis")]
    #[inline]
    pub(in crate::limit) fn allows(self, usage: u64, cost: u32) -> bool {
        let more = u64::from(cost).saturating_mul(self.per_request);
        usage.saturating_add(more) <= self.burst
    }

    #[inline]
    pub(in crate::limit) fn status(self, usage: u64) -> LimitStatus {
        let remaining = self.burst.saturating_sub(usage) / self.per_request;
        LimitStatus {
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset_secs: u32::try_from(usage.div_ceil(1_000_000_000)).unwrap_or(u32::MAX),
        }
    }

    /// The usage in requests, converted to nanoseconds of this rate.
    pub(in crate::limit) fn converted(self, usage: u64, from: Self) -> u64 {
        let nanos = u128::from(usage) * u128::from(self.per_request);
        let nanos = nanos.div_ceil(u128::from(from.per_request));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}
