//! The text form of rate limits: `[name=]requests/period[:burst]`, such as `600/min`, `20/s` or `slow=100/5min:20`.
//!
//! Without a name or burst, the defaults of the [`RateLimit`] constructors apply: the burst is the number of requests.

use std::time::Duration;

use crate::limit::RateLimit;

/// Units of a period, longest first: unit, nanoseconds, and the default name of a limit with a period of one unit.
const UNITS: [(&str, u64, &str); 7] = [
    ("d", 24 * 3_600 * SECOND, "rate"),
    ("h", 3_600 * SECOND, "hour"),
    ("min", 60 * SECOND, "minute"),
    ("s", SECOND, "second"),
    ("ms", 1_000_000, "rate"),
    ("us", 1_000, "rate"),
    ("ns", 1, "rate"),
];

const SECOND: u64 = 1_000_000_000;

/// The name that [`read`] gives to a limit without one.
fn usual_name(count: u64, unit: &str) -> &'static str {
    let mut known = UNITS.iter().filter(|(name, ..)| *name == unit);
    match known.next() {
        Some((.., name)) if count == 1 => name,
        _ => "rate",
    }
}

/// Formats a limit. [`read`] parses the text into the same limit.
pub(super) fn format(limit: &RateLimit) -> String {
    let nanos = u64::try_from(limit.period().as_nanos()).unwrap_or(u64::MAX);
    let fits = |(_, size, _): &&(&str, u64, &str)| nanos > 0 && nanos.is_multiple_of(*size);
    let (unit, size, _) = UNITS.iter().find(fits).unwrap_or(&UNITS[UNITS.len() - 1]);
    let count = nanos / size;
    let mut text = String::new();
    if limit.name() != usual_name(count, unit) {
        text = format!("{}=", limit.name());
    }
    text.push_str(&format!("{}/", limit.requests()));
    if count != 1 {
        text.push_str(&count.to_string());
    }
    text.push_str(unit);
    if limit.burst() != limit.requests() {
        text.push_str(&format!(":{}", limit.burst()));
    }
    text
}

/// Parses a limit.
///
/// # Errors
///
/// A message for the form.
pub(super) fn parse(text: &str) -> Result<RateLimit, String> {
    let limit = parsed(text).ok_or_else(|| {
        let text: String = text.chars().take(40).collect();
        format!("“{text}” is not a rate limit. Use a format like 600/min (or s, h, d), or 600/min:100 for a burst of 100.")
    })?;
    limit.validate().map_err(|error| error.to_string())?;
    Ok(limit)
}

fn parsed(text: &str) -> Option<RateLimit> {
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (Some(name), rest),
        None => (None, text),
    };
    let (requests, rest) = rest.split_once('/')?;
    let (period, burst) = match rest.split_once(':') {
        Some((period, burst)) => (period, Some(number(burst)?)),
        None => (rest, None),
    };
    let digits = period.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = period.split_at(digits);
    let count: u64 = if count.is_empty() {
        1
    } else {
        count.parse().ok()?
    };
    let (_, size, _) = UNITS.iter().find(|(name, ..)| *name == unit)?;
    let period = Duration::from_nanos(size.checked_mul(count)?);
    let limit = RateLimit::per(number(requests)?, period);
    let limit = limit.with_name(name.unwrap_or(usual_name(count, unit)));
    Some(match burst {
        Some(burst) => limit.with_burst(burst),
        None => limit,
    })
}

/// Parses digits only: `u32::from_str` also accepts "+5".
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_limits_are_parsed_and_invalid_ones_are_errors() {
        for (text, limit) in [
            ("600/min", RateLimit::per_minute(600)),
            ("20/s", RateLimit::per_second(20)),
            ("9/h:3", RateLimit::per_hour(9).with_burst(3)),
            ("slow=9/h", RateLimit::per_hour(9).with_name("slow")),
            ("1/d", RateLimit::per(1, Duration::from_secs(86_400))),
            ("7/90s", RateLimit::per(7, Duration::from_secs(90))),
        ] {
            assert_eq!(parse(text), Ok(limit.clone()));
            assert_eq!(format(&limit), text);
        }
        for text in [
            "600",
            "/min",
            "x/min",
            "0/s",
            "-1/s",
            "+1/s",
            "5/week",
            "99999999999/s",
            "1/s/s",
            "1/0s",
            "1/s:",
            "1/s:0",
            "=1/s",
            "A=1/s",
            "1/99999999999999999999d",
            "1/367d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"x".repeat(10_000)).unwrap_err().len() < 300);
    }

    proptest! {
        #[test]
        fn every_valid_limit_round_trips(
            requests in 1_u32..,
            burst in 1_u32..,
            period in prop_oneof![1_u64..10_000, (1_u64..400).prop_map(|n| n * 3_600 * SECOND), 1_u64..],
            name in "rate|hour|minute|second|[a-z0-9_-]{1,32}",
        ) {
            let limit = RateLimit::per(requests, Duration::from_nanos(period));
            let limit = limit.with_burst(burst).with_name(name);
            prop_assume!(limit.validate().is_ok());
            prop_assert_eq!(parse(&format(&limit)), Ok(limit));
        }
    }
}
