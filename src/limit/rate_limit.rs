//! A rate limit: what it allows, its name, and the bounds it has to keep.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Requests per short window, with a burst: the generic cell rate algorithm.
///
/// `RateLimit::per_minute(60)` lets sixty requests through at once and gives one back each second;
/// `.with_burst(10)` lets only ten through at once at the same pace. Requests may cost more than one.
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RateLimit {
    name: Arc<str>,
    requests: u32,
    #[serde(rename = "period_ns")]
    period: u64,
    burst: u32,
}

/// A rate limit that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLimit {
    /// No requests, no burst or no period.
    #[error("a rate limit's requests, burst and period must be greater than zero")]
    Zero,
    /// The window (`burst × period ÷ requests`) is longer than [`RateLimit::MAX_WINDOW`].
    #[error("a rate limit's burst must come back within 366 days")]
    Window,
    /// More requests each nanosecond than one.
    #[error("a rate limit must not exceed one request each nanosecond")]
    TooFast,
    /// The name is not 1 to 32 characters of `a-z`, `0-9`, `_` and `-`.
    #[error("a rate limit's name is 1 to 32 characters of a-z, 0-9, `_` and `-`")]
    Name,
    /// Two limits of one key have the same name.
    #[error("two rate limits of one key have the same name")]
    Duplicate,
    /// One key has more than [`RateLimit::MAX_PER_KEY`] limits.
    #[error("a key has at most {} rate limits", RateLimit::MAX_PER_KEY)]
    TooMany,
}

const SECOND: u64 = 1_000_000_000;

impl RateLimit {
    /// Limits that one key can have.
    pub const MAX_PER_KEY: usize = 8;
    /// The longest time in which an empty limit may become whole again.
    pub const MAX_WINDOW: Duration = Duration::from_secs(366 * 24 * 3_600);

    /// `requests` each second, and as many at once.
    pub fn per_second(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(1)).with_name("second")
    }

    /// `requests` each minute, and as many at once.
    pub fn per_minute(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(60)).with_name("minute")
    }

    /// `requests` each hour, and as many at once.
    pub fn per_hour(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(3_600)).with_name("hour")
    }

    /// `requests` each day, and as many at once.
    pub fn per_day(requests: u32) -> Self {
        Self::per(requests, Duration::from_secs(24 * 3_600)).with_name("day")
    }

    /// `requests` each `period`, and as many at once; named `rate`.
    pub fn per(requests: u32, period: Duration) -> Self {
        Self {
            name: "rate".into(),
            requests,
            period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX),
            burst: requests,
        }
    }

    /// How many requests may come at once.
    #[must_use]
    pub fn with_burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }

    /// The name under which clients see the limit, unique within its key. What was spent is kept
    /// under this name when the limit changes.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// The limit's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many requests each period lets through.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// The period.
    pub fn period(&self) -> Duration {
        Duration::from_nanos(self.period)
    }

    /// How many requests may come at once.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// The time in which an empty limit becomes whole again, unless requests come.
    pub fn window(&self) -> Duration {
        let nanos =
            u128::from(self.period) * u128::from(self.burst) / u128::from(self.requests.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether the limit can be kept.
    ///
    /// # Errors
    ///
    /// The bound that it breaks.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        self.quota().map(drop)
    }

    /// Whether a key can have these limits together.
    ///
    /// # Errors
    ///
    /// The bound that one of them breaks, or that there are too many or two of one name.
    pub fn validate_all(limits: &[Self]) -> Result<(), InvalidLimit> {
        if limits.len() > Self::MAX_PER_KEY {
            return Err(InvalidLimit::TooMany);
        }
        for (index, limit) in limits.iter().enumerate() {
            limit.validate()?;
            if limits[..index].iter().any(|other| other.name == limit.name) {
                return Err(InvalidLimit::Duplicate);
            }
        }
        Ok(())
    }

    /// The limit in governor's terms.
    pub(super) fn quota(&self) -> Result<governor::Quota, InvalidLimit> {
        let name_fits = (1..=32).contains(&self.name.len())
            && self
                .name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if !name_fits {
            return Err(InvalidLimit::Name);
        }
        let requests = NonZeroU32::new(self.requests).ok_or(InvalidLimit::Zero)?;
        let burst = NonZeroU32::new(self.burst).ok_or(InvalidLimit::Zero)?;
        if self.period == 0 {
            return Err(InvalidLimit::Zero);
        }
        if self.window() > Self::MAX_WINDOW {
            return Err(InvalidLimit::Window);
        }
        governor::Quota::with_period(Duration::from_nanos(
            self.period / u64::from(requests.get()),
        ))
        .map(|quota| quota.allow_burst(burst))
        .ok_or(InvalidLimit::TooFast)
    }

    /// The limit as `RateLimit-Policy` has it: `q` requests each `w` seconds, the true rate in whole seconds,
    /// and with `q` no smaller than the burst where the window allows it.
    ///
    /// A rate of which no window of up to a year is whole is approximated, to less than a request a year.
    pub(crate) fn policy(&self) -> (u64, u64) {
        const MAX_WINDOW: u64 = RateLimit::MAX_WINDOW.as_secs();
        let per_period = u64::from(self.requests) * SECOND;
        let (q, w) = approximate(per_period, self.period.max(1), MAX_WINDOW);
        let times = u64::from(self.burst).div_ceil(q.max(1));
        let times = times.clamp(1, (MAX_WINDOW / w).max(1));
        (q.saturating_mul(times), w * times)
    }
}

/// The fraction with a denominator of at most `max` that is closest to `n / d`, or equal to it: a convergent of
/// its continued fraction.
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
    fn n_per_minute_means_n_each_minute() {
        let limit = RateLimit::per_minute(30);
        assert_eq!(limit.window(), Duration::from_secs(60));
        assert_eq!((limit.requests(), limit.period()), (30, limit.window()));
        assert_eq!((limit.burst(), limit.name()), (30, "minute"));
        let narrow = limit.with_burst(10);
        assert_eq!((narrow.requests(), narrow.burst()), (30, 10));
        assert_eq!(narrow.window(), Duration::from_secs(20));
    }

    #[test]
    fn a_policy_has_the_true_rate_in_whole_seconds() {
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
            // A burst larger than a year of the rate.
            (per(1, 20_000_000_000, 5), (1, 20_000_000)),
            // No window of up to a year is whole in the first.
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
        fn policies_are_no_further_from_the_rate_than_a_request_a_year(
            requests in 1u32.., period in 1u64..40_000_000_000_000_000, burst in 1u32..,
        ) {
            let limit = RateLimit::per(requests, Duration::from_nanos(period)).with_burst(burst);
            prop_assume!(limit.validate().is_ok());
            let (q, w) = limit.policy();
            prop_assert!(w > 0 && w <= RateLimit::MAX_WINDOW.as_secs());
            // Within a request in the window, by exact arithmetic: q / w ≈ requests / period.
            let (q, w) = (u128::from(q) * u128::from(period), u128::from(w) * u128::from(requests) * 1_000_000_000);
            prop_assert!(q.abs_diff(w) <= u128::from(period), "{limit:?}");
        }
    }

    #[test]
    fn what_reaches_a_bound_is_within_it() {
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
    fn bounds_are_typed_errors() {
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
