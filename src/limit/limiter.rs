//! What the request path asks of a limiter.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate_limit::{InvalidLimit, RateLimit};
use crate::clock::Now;
use crate::id::KeyId;

/// Keeps what keys have spent of their limits.
///
/// The layer attaches a key's limits when it reads the key from the store and asks the
/// [`LimitHandle`] on every request. Everything about a key that was rotated goes on under the id of
/// the first key of its line, so that rotation neither resets nor doubles what is left.
pub trait Limiter: Send + Sync + 'static {
    /// The allowance of this subject under these limits.
    ///
    /// What is spent belongs to the subject and is kept by the limits' names: whoever holds limits
    /// of one name shares it, counted in requests where their rates differ. The limits belong to
    /// the holder: attaching changes nothing for those who hold others.
    ///
    /// # Errors
    ///
    /// When a limit cannot be kept or there is no room for another subject.
    fn attach(
        &self,
        subject: KeyId,
        limits: &[RateLimit],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError>;
}

/// What one subject may still spend of the limits it was attached with.
pub trait LimitHandle: Send + Sync + fmt::Debug {
    /// Spends `cost` of every limit, and of what other holders have of the same names; or of none
    /// when one of the own limits refuses. A cost of zero spends nothing and is never refused.
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse;

    /// Where the limits stand, without spending.
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
                subject: KeyId,
                limits: &[RateLimit],
                now: Now,
            ) -> Result<Arc<dyn LimitHandle>, LimitError> {
                (**self).attach(subject, limits, now)
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);

/// A limiter's answer: at once where the state is in the process, later where it has to be asked.
pub enum LimitResponse {
    /// The decision.
    Ready(Decision),
    /// The decision, once it is there. Nobody waits for it longer than
    /// [`ApiKeyLayer::limiter_timeout`](crate::ApiKeyLayer::limiter_timeout); it is dropped then.
    Pending(PendingDecision),
}

/// A decision that is still to come.
pub type PendingDecision = Pin<Box<dyn Future<Output = Result<Decision, LimitError>> + Send>>;

impl fmt::Debug for LimitResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(decision) => f.debug_tuple("Now").field(decision).finish(),
            Self::Pending(_) => f.write_str("Later"),
        }
    }
}

/// Why a limiter has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// One of the limits cannot be kept.
    #[error(transparent)]
    Invalid(#[from] InvalidLimit),
    /// As many subjects as the limiter has room for have something spent, or one subject has
    /// something spent of as many different limits as it has room for.
    #[error("the limiter has no room")]
    Full,
    /// The limiter's own store does not answer.
    #[error("the limiter is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The limiter answered too late.
    #[error("the limiter did not answer in time")]
    Timeout,
}

/// Where one limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitStatus {
    /// How much can be spent right now.
    pub remaining: u32,
    /// Seconds until all of it can be spent again if nothing is; rounded up.
    pub reset_secs: u32,
}

/// Whether a request may pass, and where its limits stand after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Decision {
    statuses: [LimitStatus; RateLimit::MAX_PER_KEY],
    len: u8,
    /// A bit for each limit that refuses.
    violated: u8,
    /// Of the limits that refuse, the one with the longest wait.
    longest: u8,
    wait: Option<Duration>,
}

impl Decision {
    /// Adds the standing of the next limit, in the order in which the limits were attached. More
    /// than [`RateLimit::MAX_PER_KEY`] are ignored.
    pub fn push(&mut self, standing: LimitStatus) {
        if let Some(slot) = self.statuses.get_mut(usize::from(self.len)) {
            *slot = standing;
            self.len += 1;
        }
    }

    /// Refuses the request because of the limit that was pushed last; `wait` is the time after
    /// which it would pass, `None` if it never would.
    pub fn deny(&mut self, wait: Option<Duration>) {
        let index = self.len.saturating_sub(1);
        // No wait at all is the longest.
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

    /// Whether every limit lets the request pass.
    pub fn is_allowed(&self) -> bool {
        self.violated == 0
    }

    /// The standings, in the order of the limits.
    pub fn statuses(&self) -> &[LimitStatus] {
        &self.statuses[..usize::from(self.len)]
    }

    /// The limit that a client should go by, and its place: of those that refuse, the one with the longest wait;
    /// else the one with the least left, and of several the one that takes the longest to reset.
    pub(crate) fn tightest(&self) -> Option<(usize, LimitStatus)> {
        let mut standings = self.statuses().iter().copied().enumerate();
        if self.is_allowed() {
            standings.min_by_key(|(_, it)| (it.remaining, std::cmp::Reverse(it.reset_secs)))
        } else {
            standings.nth(self.longest.into())
        }
    }

    /// Whether the limit at this place refuses.
    pub fn is_violated(&self, index: usize) -> bool {
        index < RateLimit::MAX_PER_KEY && self.violated & (1 << index) != 0
    }

    /// After which time the request would pass, if nothing else is spent; `None` when it may pass
    /// now or never will.
    pub fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// The wait in whole seconds as `Retry-After` says it: rounded up and at least one.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.wait.map(whole_secs)
    }
}

/// A wait in whole seconds: rounded up and at least one.
pub(crate) fn whole_secs(wait: Duration) -> u64 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    whole.max(1)
}

/// A decision as it is serialized.
#[derive(Serialize, Deserialize)]
struct Wire {
    standings: Vec<LimitStatus>,
    violated: u8,
    #[serde(default)]
    longest: u8,
    wait: Option<Duration>,
}

impl From<Decision> for Wire {
    fn from(decision: Decision) -> Self {
        Self {
            standings: decision.statuses().into(),
            violated: decision.violated,
            longest: decision.longest,
            wait: decision.wait,
        }
    }
}

impl From<Wire> for Decision {
    fn from(wire: Wire) -> Self {
        let mut decision = Self::default();
        wire.standings.into_iter().for_each(|it| decision.push(it));
        // Only what `refuse` can have made; without any limit, it has the first bit.
        decision.violated = wire.violated & (u8::MAX >> (8 - decision.len.max(1)));
        decision.wait = wire.wait.filter(|_| !decision.is_allowed());
        let longest = usize::from(wire.longest);
        decision.longest = if decision.is_violated(longest) {
            wire.longest
        } else {
            decision.violated.trailing_zeros() as u8 & 7
        };
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_8_retry_after_is_rounded_up_and_at_least_one() {
        for (nanos, secs) in [(0, 1), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
            let mut decision = Decision::default();
            decision.push(LimitStatus::default());
            decision.deny(Some(Duration::from_nanos(nanos)));
            assert_eq!(decision.retry_after_secs(), Some(secs), "{nanos}");
        }
    }

    #[test]
    fn the_longest_wait_counts_and_never_beats_all() {
        let mut decision = Decision::default();
        for wait in [Some(5), Some(9), Some(7)] {
            decision.push(LimitStatus::default());
            decision.deny(wait.map(Duration::from_secs));
        }
        assert_eq!(decision.wait(), Some(Duration::from_secs(9)));
        decision.push(LimitStatus::default());
        decision.deny(None);
        assert_eq!(decision.wait(), None);
        assert!(!decision.is_allowed() && decision.is_violated(3) && !decision.is_violated(4));
    }

    #[test]
    fn the_tightest_limit_refuses_longest_or_has_the_least_left() {
        let decide = |limits: &[(u32, u32, Option<Option<u64>>)]| {
            let mut decision = Decision::default();
            for &(remaining, reset_secs, refuses) in limits {
                decision.push(LimitStatus {
                    remaining,
                    reset_secs,
                });
                if let Some(wait) = refuses {
                    decision.deny(wait.map(Duration::from_secs));
                }
            }
            let json = serde_json::to_string(&decision).unwrap();
            assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
            decision.tightest().map(|(index, _)| index)
        };
        assert_eq!(decide(&[]), None);
        assert_eq!(decide(&[(3, 9, None), (2, 1, None), (4, 0, None)]), Some(1));
        assert_eq!(decide(&[(2, 1, None), (2, 9, None)]), Some(1));
        // Five a second and five an hour, and the sixth request.
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
    fn a_decision_round_trips_through_json() {
        let mut decision = Decision::default();
        decision.push(LimitStatus {
            remaining: 3,
            reset_secs: 7,
        });
        decision.push(LimitStatus::default());
        decision.deny(Some(Duration::from_millis(1_500)));
        let json = serde_json::to_string(&decision).unwrap();
        assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
        // More limits than there can be are cut off.
        let many =
            serde_json::json!({ "standings": vec![LimitStatus::default(); 99], "violated": 0 });
        let many: Decision = serde_json::from_value(many).unwrap();
        assert_eq!(many.statuses().len(), RateLimit::MAX_PER_KEY);
    }

    #[test]
    fn limits_that_are_not_there_violate_nothing() {
        let read = |len, violated: u8| {
            let standings = vec![LimitStatus::default(); len];
            let wait = Some(Duration::from_secs(1));
            let json = serde_json::json!({
                "standings": standings, "violated": violated, "wait": wait,
            });
            serde_json::from_value::<Decision>(json).unwrap()
        };
        let two = read(2, 0b1111_1110);
        assert!(!two.is_allowed() && !two.is_violated(0) && two.is_violated(1));
        assert!((2..RateLimit::MAX_PER_KEY).all(|index| !two.is_violated(index)));
        let all = read(99, u8::MAX);
        assert!((0..RateLimit::MAX_PER_KEY).all(|index| all.is_violated(index)));
        assert!(!all.is_violated(RateLimit::MAX_PER_KEY));
        for allowed in [read(2, 0b0000_0100), read(2, 0), read(0, 0b0000_0010)] {
            assert!(allowed.is_allowed());
            assert_eq!((allowed.wait(), allowed.retry_after_secs()), (None, None));
        }
        let mut bare = Decision::default();
        bare.deny(None);
        let json = serde_json::to_string(&bare).unwrap();
        assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), bare);
    }
}
