//! The limiter traits and their decisions.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate_limit::{InvalidLimit, RateLimit};
use super::subject::SubjectLimits;
use crate::clock::Now;

/// Tracks the rate limit usage of keys and owners.
///
/// Implement [`attach`](Self::attach), and [`LimitHandle`] for the handle that it returns. Neither trait is async:
/// a handle with remote state returns [`LimitResponse::Pending`] with a boxed future. The feature `conformance` has a test
/// suite for limiters.
///
/// The layer attaches the limits of a key and its owner when it loads the key from the store, and calls the
/// [`LimitHandle`] on every request. A key is identified by its [lineage](crate::key::Key::lineage), so that rotation
/// neither resets nor doubles its usage.
pub trait Limiter: Send + Sync + 'static {
    /// Attaches the limits of one or more different subjects, which are then decided together. A subject may have no
    /// limits: a key is always attached together with its owner, if it has one.
    ///
    /// Usage belongs to a subject and is kept by limit name: handles with limits of the same subject and name share it,
    /// counted in requests if their rates differ. The limits belong to the handle: attaching does not affect other
    /// handles.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] if a limit is invalid; [`LimitError::AtCapacity`] if there is no capacity for another
    /// subject.
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError>;

    /// The state of a limiter whose limits are shared between processes. By default, `None`: they are not.
    fn health(&self) -> Option<LimiterHealth> {
        None
    }
}

/// The state of a limiter whose limits are shared between processes, as seen by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimiterHealth {
    /// Whether the backend of the limiter is available, as far as is known.
    pub is_available: bool,
    /// The number of times that it has become unavailable.
    pub failures: u64,
}

impl LimiterHealth {
    /// The state of a limiter.
    pub fn new(is_available: bool, failures: u64) -> Self {
        Self {
            is_available,
            failures,
        }
    }
}

/// The attached limits of a request's subjects. Only [`acquire`](Self::acquire) is required.
pub trait LimitHandle: Send + Sync + fmt::Debug {
    /// Consumes `cost` from every limit, and from limits of the same subjects and names in other handles; or from none
    /// if one of the limits of this handle is exceeded. A cost of zero consumes nothing and is always allowed.
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse;

    /// Replaces the cost of an admitted request: `charged`, which was consumed at `charged_at`, is returned, and `cost`
    /// consumed instead, from every limit or from none. If a limit is exceeded, `charged` stays returned. Capacity
    /// that time has restored since `charged_at` must not be returned twice. With shared state, another process that has
    /// seen the higher usage may still reject requests by it for a second.
    ///
    /// By default, consumes only the difference of a higher cost, and does not return anything.
    fn recharge(&self, charged: u32, charged_at: Now, cost: u32, now: Now) -> LimitResponse {
        let _ = charged_at;
        self.acquire(cost.saturating_sub(charged), now)
    }

    /// The status of the limits, without consuming anything.
    fn peek(&self, now: Now) -> LimitResponse {
        self.acquire(0, now)
    }
}

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[deny(clippy::missing_trait_methods)]
        impl<L: Limiter + ?Sized> Limiter for $pointer<L> {
            fn attach(
                &self,
                subjects: &[SubjectLimits<'_>],
                now: Now,
            ) -> Result<Arc<dyn LimitHandle>, LimitError> {
                (**self).attach(subjects, now)
            }

            fn health(&self) -> Option<LimiterHealth> {
                (**self).health()
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);

/// The response of a limiter: immediate if its state is in the process, or a future.
pub enum LimitResponse {
    /// The decision.
    Ready(Decision),
    /// A future decision. It is dropped after
    /// [`ApiKeyLayer::limiter_timeout`](crate::ApiKeyLayer::limiter_timeout).
    Pending(PendingDecision),
}

/// A future that resolves to a decision.
pub type PendingDecision = Pin<Box<dyn Future<Output = Result<Decision, LimitError>> + Send>>;

impl fmt::Debug for LimitResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(decision) => f.debug_tuple("Ready").field(decision).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// An error of a limiter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// A limit is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidLimit),
    /// The capacity for subjects with usage, or for different limits of one subject, is exhausted.
    #[error("the limiter is at capacity")]
    AtCapacity,
    /// The backend of the limiter failed.
    #[error("the limiter is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The limiter did not respond within the timeout.
    #[error("the limiter timed out")]
    Timeout,
}

/// The status of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitStatus {
    /// The cost that can be consumed immediately.
    pub remaining: u32,
    /// Seconds until the limit is fully restored, rounded up.
    pub reset_secs: u32,
}

/// The decision on a request, and the status of each limit after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Decision {
    statuses: [LimitStatus; Self::MAX_STATUSES],
    len: u8,
    /// A bit for each exceeded limit.
    violated: u16,
    /// The exceeded limit with the longest wait.
    longest: u8,
    wait: Option<Duration>,
}

impl Decision {
    /// The maximum number of limits of a request: those of a key and of its owner.
    pub const MAX_STATUSES: usize = RateLimit::MAX_PER_KEY + RateLimit::MAX_PER_OWNER;

    /// A decision that allows the request, with the status of each limit after it, in the order in which the limits
    /// were attached. Statuses beyond [`MAX_STATUSES`](Self::MAX_STATUSES) are ignored.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use keytally::limit::{Decision, LimitStatus};
    ///
    /// let minute = LimitStatus { remaining: 0, reset_secs: 12 };
    /// let day = LimitStatus { remaining: 40, reset_secs: 80_000 };
    /// let mut decision = Decision::new([minute, day]);
    /// assert!(decision.is_allowed());
    /// decision.deny(0, Some(Duration::from_secs(12)));
    /// assert!(decision.is_exceeded(0) && !decision.is_exceeded(1));
    /// assert_eq!(decision.retry_after_secs(), Some(12));
    /// ```
    pub fn new(statuses: impl IntoIterator<Item = LimitStatus>) -> Self {
        let mut decision = Self::default();
        for status in statuses.into_iter().take(Self::MAX_STATUSES) {
            decision.push(status);
        }
        decision
    }

    /// A decision that allows the request by a single limit.
    #[inline]
    pub(crate) fn single(status: LimitStatus) -> Self {
        let mut statuses = [LimitStatus::default(); Self::MAX_STATUSES];
        statuses[0] = status;
        Self {
            statuses,
            len: 1,
            ..Self::default()
        }
    }

    /// Appends the status of the next limit and returns its index. At capacity, the status is dropped.
    pub(crate) fn push(&mut self, status: LimitStatus) -> usize {
        let index = usize::from(self.len);
        if let Some(slot) = self.statuses.get_mut(index) {
            *slot = status;
            self.len += 1;
        }
        index
    }

    /// Denies the request because the limit at this index is exceeded. An index out of range counts as the last limit,
    /// so that the request is denied in any case. `wait` is the time until the limit would allow the request; `None` if
    /// it never would.
    pub fn deny(&mut self, index: usize, wait: Option<Duration>) {
        let last = self.len.saturating_sub(1);
        let index = u8::try_from(index).map_or(last, |index| index.min(last));
        // `None`, never, is the longest wait.
        let is_longest = match (self.wait, wait) {
            _ if self.violated == 0 => true,
            (Some(longest), Some(wait)) => wait > longest,
            (longest, None) => longest.is_some(),
            (None, Some(_)) => false,
        };
        self.violated |= 1 << index;
        if is_longest {
            self.wait = wait;
            self.longest = index;
        }
    }

    /// Whether every limit allows the request.
    pub fn is_allowed(&self) -> bool {
        self.violated == 0
    }

    /// The statuses, in the order of the limits.
    pub fn statuses(&self) -> &[LimitStatus] {
        &self.statuses[..usize::from(self.len)]
    }

    /// The limit to report to clients, and its index: of the exceeded limits, the one with the longest wait;
    /// otherwise the one with the least remaining and, among those, the longest reset.
    pub(crate) fn tightest(&self) -> Option<(usize, LimitStatus)> {
        let mut statuses = self.statuses().iter().copied().enumerate();
        if self.is_allowed() {
            statuses.min_by_key(|(_, it)| (it.remaining, std::cmp::Reverse(it.reset_secs)))
        } else {
            statuses.nth(self.longest.into())
        }
    }

    /// Whether the limit at this index is exceeded.
    pub fn is_exceeded(&self, index: usize) -> bool {
        index < Self::MAX_STATUSES && self.violated & (1 << index) != 0
    }

    /// The time after which the request would be allowed if nothing else is consumed. `None` if it is allowed or
    /// never will be.
    pub fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// The wait as `Retry-After`: in whole seconds, rounded up, at least 1.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.wait.map(whole_secs)
    }
}

/// A wait in whole seconds, rounded up, at least 1.
pub(crate) fn whole_secs(wait: Duration) -> u64 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    whole.max(1)
}

/// The serialized form of a decision.
#[derive(Serialize, Deserialize)]
struct Wire {
    statuses: Vec<LimitStatus>,
    violated: u16,
    #[serde(default)]
    longest: u8,
    wait: Option<Duration>,
}

impl From<Decision> for Wire {
    fn from(decision: Decision) -> Self {
        Self {
            statuses: decision.statuses().into(),
            violated: decision.violated,
            longest: decision.longest,
            wait: decision.wait,
        }
    }
}

impl From<Wire> for Decision {
    fn from(wire: Wire) -> Self {
        let mut decision = Self::new(wire.statuses);
        // Only states that `deny` can produce; it sets the first bit if there are no limits.
        decision.violated = wire.violated & (u16::MAX >> (16 - decision.len.max(1)));
        decision.wait = wire.wait.filter(|_| !decision.is_allowed());
        let longest = usize::from(wire.longest);
        decision.longest = if decision.is_exceeded(longest) {
            wire.longest
        } else {
            decision.violated.trailing_zeros() as u8 & 15
        };
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod sufficient_retry_after {
        use super::*;

        #[test]
        fn retry_after_is_rounded_up_and_at_least_one() {
            for (nanos, secs) in [(0, 1), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
                let mut decision = Decision::new([LimitStatus::default()]);
                decision.deny(0, Some(Duration::from_nanos(nanos)));
                assert_eq!(decision.retry_after_secs(), Some(secs), "{nanos}");
            }
        }
    }

    #[test]
    fn wait_is_the_longest_and_never_is_longer_than_any() {
        let mut decision = Decision::default();
        for wait in [Some(5), Some(9), Some(7)] {
            let index = decision.push(LimitStatus::default());
            decision.deny(index, wait.map(Duration::from_secs));
        }
        assert_eq!(decision.wait(), Some(Duration::from_secs(9)));
        let index = decision.push(LimitStatus::default());
        decision.deny(index, None);
        assert_eq!(decision.wait(), None);
        assert!(!decision.is_allowed() && decision.is_exceeded(3) && !decision.is_exceeded(4));
    }

    #[test]
    fn tightest_limit_has_the_longest_wait_or_the_least_remaining() {
        let decide = |limits: &[(u32, u32, Option<Option<u64>>)]| {
            let mut decision = Decision::default();
            for &(remaining, reset_secs, exceeded) in limits {
                let index = decision.push(LimitStatus {
                    remaining,
                    reset_secs,
                });
                if let Some(wait) = exceeded {
                    decision.deny(index, wait.map(Duration::from_secs));
                }
            }
            let json = serde_json::to_string(&decision).unwrap();
            assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
            decision.tightest().map(|(index, _)| index)
        };
        assert_eq!(decide(&[]), None);
        assert_eq!(decide(&[(3, 9, None), (2, 1, None), (4, 0, None)]), Some(1));
        assert_eq!(decide(&[(2, 1, None), (2, 9, None)]), Some(1));
        // The sixth request with 5 per second and 5 per hour.
        let sixth = [(0, 1, Some(Some(1))), (0, 3_600, Some(Some(720)))];
        assert_eq!(decide(&sixth), Some(1));
        assert_eq!(decide(&[(0, 9, None), (1, 2, Some(Some(1)))]), Some(1));
        assert_eq!(
            decide(&[(0, 1, Some(None)), (0, 2, Some(Some(9)))]),
            Some(0)
        );
        assert_eq!(
            decide(&[(0, 2, Some(Some(9))), (0, 1, Some(None))]),
            Some(1)
        );
    }

    #[test]
    fn decision_round_trips_through_json() {
        let first = LimitStatus {
            remaining: 3,
            reset_secs: 7,
        };
        let mut decision = Decision::new([first, LimitStatus::default()]);
        decision.deny(1, Some(Duration::from_millis(1_500)));
        let json = serde_json::to_string(&decision).unwrap();
        assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
        // Excess limits are cut off.
        let many =
            serde_json::json!({ "statuses": vec![LimitStatus::default(); 99], "violated": 0 });
        let many: Decision = serde_json::from_value(many).unwrap();
        assert_eq!(many.statuses().len(), Decision::MAX_STATUSES);
    }

    #[test]
    fn violations_of_missing_limits_are_ignored() {
        let read = |len, violated: u16| {
            let statuses = vec![LimitStatus::default(); len];
            let wait = Some(Duration::from_secs(1));
            let json = serde_json::json!({
                "statuses": statuses, "violated": violated, "wait": wait,
            });
            serde_json::from_value::<Decision>(json).unwrap()
        };
        let two = read(2, 0b1111_1111_1110);
        assert!(!two.is_allowed() && !two.is_exceeded(0) && two.is_exceeded(1));
        assert!((2..Decision::MAX_STATUSES).all(|index| !two.is_exceeded(index)));
        let all = read(99, u16::MAX);
        assert!((0..Decision::MAX_STATUSES).all(|index| all.is_exceeded(index)));
        assert!(!all.is_exceeded(Decision::MAX_STATUSES));
        for allowed in [read(2, 0b0000_0100), read(2, 0), read(0, 0b0000_0010)] {
            assert!(allowed.is_allowed());
            assert_eq!((allowed.wait(), allowed.retry_after_secs()), (None, None));
        }
        let mut bare = Decision::default();
        bare.deny(0, None);
        let json = serde_json::to_string(&bare).unwrap();
        assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), bare);
    }
}
