//! Rate limits and their validation.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use serde::{Deserialize, Deserializer, Serialize};

/// A rate limit: requests per period, with a burst, by the [generic cell rate
/// algorithm](https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm) (GCRA).
///
/// `RateLimit::per_minute(60)` admits 60 requests at once and restores one each second; `.with_burst(10)` admits
/// only 10 at once, at the same rate. A request may cost more than one.
///
/// ```
/// use keytally::limit::RateLimit;
///
/// let limits = [
///     RateLimit::per_second(20).with_burst(40).with_name("burst"),
///     RateLimit::per_hour(10_000).with_name("hourly"),
/// ];
/// assert!(limits.iter().all(|limit| limit.validate().is_ok()));
/// assert!(RateLimit::per_second(0).validate().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct RateLimit(Arc<Fields>);

/// Shared, because many keys have the same limits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename = "RateLimit")]
struct Fields {
    name: Arc<str>,
    requests: u32,
    #[serde(rename = "period_ns")]
    period: u64,
    burst: u32,
}

/// A rate limit is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLimit {
    /// Requests, burst or period are zero.
    #[error("a rate limit's requests, burst and period must be greater than zero")]
    Zero,
    /// The window (`burst × period ÷ requests`) is longer than [`RateLimit::MAX_WINDOW`].
    #[error("the burst of a rate limit must be restored within 366 days")]
    Window,
    /// The rate exceeds one request per nanosecond.
    #[error("a rate limit must not exceed one request per nanosecond")]
    TooFast,
    /// The name is not 1 to 32 characters of `a-z`, `0-9`, `_` and `-`.
    #[error("the name of a rate limit must be 1 to 32 characters of a-z, 0-9, `_` and `-`")]
    Name,
    /// Two limits of a key or owner have the same name.
    #[error("the rate limits of a key or owner must have different names")]
    Duplicate,
    /// A key has more than [`RateLimit::MAX_PER_KEY`] limits, or an owner more than [`RateLimit::MAX_PER_OWNER`].
    #[error(
        "a key can have at most {} rate limits, and an owner {}",
        RateLimit::MAX_PER_KEY,
        RateLimit::MAX_PER_OWNER
    )]
    TooMany,
}

const SECOND: u64 = 1_000_000_000;

/// The number of different limits whose fields are shared. Most services have a few plans.
const MAX_SHARED: usize = 256;

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer).map(Self::shared)
    }
}

impl RateLimit {
    /// The maximum number of limits per key.
    pub const MAX_PER_KEY: usize = 8;
    /// The maximum number of limits per owner.
    pub const MAX_PER_OWNER: usize = 4;
    /// The maximum [window](Self::window): 366 days.
    pub const MAX_WINDOW: Duration = Duration::from_secs(366 * 24 * 3_600);

    /// `requests` per second, all of them at once; named `second`.
    pub fn per_second(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(1)).with_name("second")
    }

    /// `requests` per minute, all of them at once; named `minute`.
    pub fn per_minute(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(60)).with_name("minute")
    }

    /// `requests` per hour, all of them at once; named `hour`.
    pub fn per_hour(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(3_600)).with_name("hour")
    }

    /// `requests` per day, all of them at once; named `day`.
    pub fn per_day(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(24 * 3_600)).with_name("day")
    }

    /// `requests` per `period`, all of them at once; named `rate`.
    pub fn per(requests: u32, period: Duration) -> Self {
        Self(Arc::new(Fields {
            name: "rate".into(),
            requests,
            period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX),
            burst: requests,
        }))
    }

    /// Sets the burst: the number of requests admitted at once. The requests per period by default.
    #[must_use]
    pub fn with_burst(mut self, burst: u32) -> Self {
        Arc::make_mut(&mut self.0).burst = burst;
        self
    }

    /// Sets the name under which clients see the limit, unique within its key. Usage is kept by name when a limit
    /// changes.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.0).name = name.into();
        self
    }

    /// Shares the fields of an equal limit that was stored before.
    fn shared(fields: Fields) -> Self {
        static KNOWN: LazyLock<Mutex<HashSet<Arc<Fields>, RandomState>>> =
            LazyLock::new(Mutex::default);

        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fields) = known.get(&fields) {
            return Self(fields.clone());
        }
        let fields = Arc::new(fields);
        if known.len() < MAX_SHARED {
            known.insert(fields.clone());
        }
        Self(fields)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The number of requests per period.
    pub fn requests(&self) -> u32 {
        self.0.requests
    }

    /// The period.
    pub fn period(&self) -> Duration {
        Duration::from_nanos(self.0.period)
    }

    /// The number of requests admitted at once.
    pub fn burst(&self) -> u32 {
        self.0.burst
    }

    /// The time in which an exhausted limit is fully restored: `burst × period ÷ requests`.
    pub fn window(&self) -> Duration {
        let nanos = u128::from(self.0.period) * u128::from(self.0.burst)
            / u128::from(self.0.requests.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Checks that the limit is valid.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        self.quota().map(drop)
    }

    /// Checks that a key can have these limits together.
    ///
    /// # Errors
    ///
    /// The first violation found: an invalid limit, too many limits, or a duplicate name.
    pub fn validate_all(limits: &[Self]) -> Result<(), InvalidLimit> {
        Self::validate_up_to(Self::MAX_PER_KEY, limits)
    }

    pub(super) fn validate_up_to(max: usize, limits: &[Self]) -> Result<(), InvalidLimit> {
        if limits.len() > max {
            return Err(InvalidLimit::TooMany);
        }
        for (index, limit) in limits.iter().enumerate() {
            limit.validate()?;
            if limits[..index]
                .iter()
                .any(|other| other.name() == limit.name())
            {
                return Err(InvalidLimit::Duplicate);
            }
        }
        Ok(())
    }

    /// A share of the limit, of at least one request.
    #[cfg(feature = "redis")]
    pub(super) fn share(&self, share: f64) -> Self {
        let burst = (f64::from(self.0.burst) * share).max(1.0) as u32;
        // The same time restores the whole burst.
        let window = self.window();
        Self::per(burst, window).with_name(self.0.name.clone())
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The limit as a quota of governor.
    pub(super) fn quota(&self) -> Result<governor::Quota, InvalidLimit> {
        let valid_name = (1..=32).contains(&self.0.name.len())
            && self
                .name()
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if !valid_name {
            return Err(InvalidLimit::Name);
        }
        let requests = NonZeroU32::new(self.0.requests).ok_or(InvalidLimit::Zero)?;
        let burst = NonZeroU32::new(self.0.burst).ok_or(InvalidLimit::Zero)?;
        if self.0.period == 0 {
            return Err(InvalidLimit::Zero);
        }
        if self.window() > Self::MAX_WINDOW {
            return Err(InvalidLimit::Window);
        }
        governor::Quota::with_period(Duration::from_nanos(
            self.0.period / u64::from(requests.get()),
        ))
        .map(|quota| quota.allow_burst(burst))
        .ok_or(InvalidLimit::TooFast)
    }

    /// The limit as `q` and `w` of `RateLimit-Policy`: `q` requests per `w` seconds. This is the exact rate in
    /// whole seconds, with `q` at least the burst if the maximum window permits.
    ///
    /// If no window of up to a year is whole, the rate is approximated to within one request per year.
    pub(crate) fn policy(&self) -> (u64, u64) {
        const MAX_WINDOW: u64 = RateLimit::MAX_WINDOW.as_secs();
        let per_period = u64::from(self.0.requests) * SECOND;
        let (q, w) = approximate(per_period, self.0.period.max(1), MAX_WINDOW);
        let times = u64::from(self.0.burst).div_ceil(q.max(1));
        let times = times.clamp(1, (MAX_WINDOW / w).max(1));
        (q.saturating_mul(times), w * times)
    }
}

/// The closest convergent of the continued fraction of `n / d` with a denominator of at most `max`; exact if
/// possible.
fn approximate(mut n: u64, mut d: u64, max: u64) -> (u64, u64) {
    // The last two convergents.
    let (mut last, mut before) = ((1_u64, 0_u64), (0_u64, 1_u64));
    while d > 0 {
        let whole = n / d;
        let next = |last: u64, before: u64| whole.checked_mul(last)?.checked_add(before);
        let next = next(last.0, before.0).zip(next(last.1, before.1));
        let Some((numerator, denominator)) = next.filter(|(_, denominator)| *denominator <= max)
        else {
            break;
        };
        (last, before) = ((numerator, denominator), last);
        (n, d) = (d, n % d);
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn per_minute_admits_n_requests_per_minute() {
        let limit = RateLimit::per_minute(30);
        assert_eq!(limit.window(), Duration::from_secs(60));
        assert_eq!((limit.requests(), limit.period()), (30, limit.window()));
        assert_eq!((limit.burst(), limit.name()), (30, "minute"));
        let narrow = limit.with_burst(10);
        assert_eq!((narrow.requests(), narrow.burst()), (30, 10));
        assert_eq!(narrow.window(), Duration::from_secs(20));
    }

    #[test]
    fn policy_is_the_exact_rate_in_whole_seconds() {
        let per = |requests, millis, burst| {
            RateLimit::per(requests, Duration::from_millis(millis)).with_burst(burst)
        };
        for (limit, policy) in [
            (RateLimit::per_minute(600).with_burst(1), (10, 1)),
            (RateLimit::per_minute(600).with_burst(100), (100, 10)),
            (RateLimit::per_second(20).with_burst(40), (40, 2)),
            (RateLimit::per_hour(10_000), (10_000, 3_600)),
            (RateLimit::per_hour(7).with_burst(1), (7, 3_600)),
            (RateLimit::per_minute(60).with_burst(10), (10, 10)),
            (per(100, 86_400_000, 100), (100, 86_400)),
            (per(1, 1_500, 1), (2, 3)),
            (per(1, 1_500, 5), (6, 9)),
            (per(1, 1, 1), (1_000, 1)),
            (per(3, 31_622_400_000, 3), (3, 31_622_400)),
            // The burst exceeds the requests of a year.
            (per(1, 20_000_000_000, 5), (1, 20_000_000)),
            // The first has no whole window of up to a year.
            (
                RateLimit::per(1, Duration::from_nanos(1_000_000_007)),
                (1, 1),
            ),
            (
                RateLimit::per(4, Duration::from_nanos(3)),
                (4_000_000_000, 3),
            ),
        ] {
            assert_eq!(limit.policy(), policy, "{limit:?}");
        }
    }

    proptest! {
        #[test]
        fn policy_deviates_by_at_most_one_request_per_year(
            requests in 1u32.., period in 1u64..40_000_000_000_000_000, burst in 1u32..,
        ) {
            let limit = RateLimit::per(requests, Duration::from_nanos(period)).with_burst(burst);
            prop_assume!(limit.validate().is_ok());
            let (q, w) = limit.policy();
            prop_assert!(w > 0 && w <= RateLimit::MAX_WINDOW.as_secs());
            // Within one request per window, in exact arithmetic: q / w ≈ requests / period.
            let (q, w) = (u128::from(q) * u128::from(period), u128::from(w) * u128::from(requests) * 1_000_000_000);
            prop_assert!(q.abs_diff(w) <= u128::from(period), "{limit:?}");
        }
    }

    #[test]
    fn equal_limits_of_a_store_share_their_fields_up_to_a_bound() {
        let shared = (1..=2 * MAX_SHARED as u32).filter(|burst| {
            let limit = RateLimit::per_second(7)
                .with_burst(*burst)
                .with_name("many");
            let json = serde_json::to_string(&limit).unwrap();
            let read = || serde_json::from_str::<RateLimit>(&json).unwrap();
            let (one, other) = (read(), read());
            assert_eq!((&one, &other), (&limit, &limit));
            assert_eq!(one.clone().with_burst(1_000_000).burst(), 1_000_000);
            assert_eq!(one, limit);
            Arc::ptr_eq(&one.0, &other.0)
        });
        let shared = shared.count();
        assert!((1..=MAX_SHARED).contains(&shared), "{shared}");
    }

    #[test]
    fn bounds_are_inclusive() {
        let year = Duration::from_secs(366 * 86_400);
        assert_eq!(RateLimit::per(1, year).validate(), Ok(()));
        let longer = year + Duration::from_nanos(1);
        assert_eq!(
            RateLimit::per(1, longer).validate(),
            Err(InvalidLimit::Window)
        );
        assert_eq!(RateLimit::per_second(1_000_000_000).validate(), Ok(()));
        let most: Vec<_> = (0..RateLimit::MAX_PER_KEY)
            .map(|n| RateLimit::per_second(1).with_name(format!("{n:032}")))
            .collect();
        assert_eq!(RateLimit::validate_all(&most), Ok(()));
    }

    #[test]
    fn out_of_bounds_limits_are_rejected() {
        let cases = [
            (RateLimit::per_second(0), InvalidLimit::Zero),
            (RateLimit::per_second(1).with_burst(0), InvalidLimit::Zero),
            (RateLimit::per(1, Duration::ZERO), InvalidLimit::Zero),
            (
                RateLimit::per_hour(1).with_burst(u32::MAX),
                InvalidLimit::Window,
            ),
            (RateLimit::per(2, Duration::MAX), InvalidLimit::Window),
            (
                RateLimit::per(u32::MAX, Duration::from_nanos(5)),
                InvalidLimit::TooFast,
            ),
            (RateLimit::per_second(1).with_name(""), InvalidLimit::Name),
            (
                RateLimit::per_second(1).with_name("a\"b"),
                InvalidLimit::Name,
            ),
            (
                RateLimit::per_second(1).with_name("a".repeat(33)),
                InvalidLimit::Name,
            ),
        ];
        for (limit, error) in cases {
            assert_eq!(limit.validate(), Err(error), "{limit:?}");
        }
        let twice = [RateLimit::per_second(1), RateLimit::per_second(2)];
        assert_eq!(
            RateLimit::validate_all(&twice),
            Err(InvalidLimit::Duplicate)
        );
        let many: Vec<_> = (0..9)
            .map(|n| RateLimit::per_second(1).with_name(format!("n{n}")))
            .collect();
        assert_eq!(RateLimit::validate_all(&many), Err(InvalidLimit::TooMany));
    }
}
