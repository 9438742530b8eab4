//! The text form of rate limits: `[name=]requests/period[:burst]`, such as `600/min`, `20/s` or `slow=100/5min:20`, or
//! in words, such as `600 per minute`.
//!
//! Without a name or burst, the defaults of the [`RateLimit`] constructors apply: the burst is the number of requests.

use std::borrow::Cow;
use std::time::Duration;

use crate::dashboard::charts;
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

/// Units in words.
const WORDS: [(&str, &str); 11] = [
    ("day", "d"),
    ("days", "d"),
    ("hour", "h"),
    ("hours", "h"),
    ("hr", "h"),
    ("minute", "min"),
    ("minutes", "min"),
    ("mins", "min"),
    ("second", "s"),
    ("seconds", "s"),
    ("sec", "s"),
];

const SECOND: u64 = 1_000_000_000;

/// The name that [`parse`] gives to a limit without one.
fn usual_name(count: u64, unit: &str) -> &'static str {
    let mut known = UNITS.iter().filter(|(name, ..)| *name == unit);
    match known.next() {
        Some((.., name)) if count == 1 => name,
        _ => "rate",
    }
}

/// Formats a limit. [`parse`] parses the text into the same limit.
pub(super) fn format(limit: &RateLimit) -> String {
    let (count, unit) = period_of(limit);
    let mut text = String::new();
    if limit.name() != usual_name(count, unit) {
        text = format!("{}=", limit.name());
    }
    text.push_str(&format!("{}/{}", limit.requests(), period(limit)));
    if limit.burst() != limit.requests() {
        text.push_str(&format!(":{}", limit.burst()));
    }
    text
}

/// The period of a limit: a unit, with a count unless it is one.
pub(super) fn period(limit: &RateLimit) -> String {
    match period_of(limit) {
        (1, unit) => unit.into(),
        (count, unit) => format!("{count}{unit}"),
    }
}

/// A limit in words.
pub(super) fn describe(limit: &RateLimit) -> String {
    let (count, unit) = period_of(limit);
    let mut text = format!(
        "{} per {}",
        charts::count(limit.requests()),
        in_words(count, unit)
    );
    if limit.burst() != limit.requests() {
        text.push_str(&format!(", burst of {}", charts::count(limit.burst())));
    }
    if limit.name() != usual_name(count, unit) {
        text.push_str(&format!(" ({})", limit.name()));
    }
    text
}

/// A period in words: `minute` or `5 minutes`.
fn in_words(count: u64, unit: &str) -> String {
    let mut words = WORDS.iter().filter(|(_, short)| *short == unit);
    match (count, words.next()) {
        (1, Some((word, _))) => (*word).into(),
        (_, Some((word, _))) => format!("{count} {word}s"),
        (_, None) => format!("{count} {unit}"),
    }
}

fn period_of(limit: &RateLimit) -> (u64, &'static str) {
    let nanos = u64::try_from(limit.period().as_nanos()).unwrap_or(u64::MAX);
    let fits = |(_, size, _): &&(&str, u64, &str)| nanos > 0 && nanos.is_multiple_of(*size);
    let (unit, size, _) = UNITS.iter().find(fits).unwrap_or(&UNITS[UNITS.len() - 1]);
    (nanos / size, unit)
}

/// Splits a list at commas and line breaks, and at spaces unless these are part of a limit in words.
pub(super) fn split(text: &str) -> Vec<&str> {
    let parts = text.split([',', '\n']).map(str::trim);
    let mut limits = Vec::new();
    for part in parts.filter(|part| !part.is_empty()) {
        let words: Vec<_> = part.split_whitespace().collect();
        match words.iter().all(|word| parsed(word).is_some()) {
            true => limits.extend(words),
            false => limits.push(part),
        }
    }
    limits
}

/// Parses a limit.
///
/// # Errors
///
/// A message for the form.
pub(super) fn parse(text: &str) -> Result<RateLimit, String> {
    let limit = parsed(text).ok_or_else(|| {
        let text: String = text.chars().take(40).collect();
        format!("“{text}” is not a rate limit. Enter a number, or text such as 100 per minute.")
    })?;
    limit.validate().map_err(|error| error.to_string())?;
    Ok(limit)
}

fn parsed(text: &str) -> Option<RateLimit> {
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (Some(name.trim()), rest.trim()),
        None => (None, text),
    };
    let rest = &*without_words(rest)?;
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
    let word = WORDS.iter().find(|(word, _)| *word == unit);
    let unit = word.map_or(unit, |(_, unit)| unit);
    let (_, size, _) = UNITS.iter().find(|(name, ..)| *name == unit)?;
    let period = Duration::from_nanos(size.checked_mul(count)?);
    let limit = RateLimit::per(number(requests)?, period);
    let limit = limit.with_name(name.unwrap_or(usual_name(count, unit)));
    Some(match burst {
        Some(burst) => limit.with_burst(burst),
        None => limit,
    })
}

/// Removes spaces and words that mean nothing: `100 requests per minute` becomes `100/minute`. `None` if numbers would
/// be joined.
fn without_words(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(' ') {
        return Some(text.into());
    }
    let text = text
        .to_lowercase()
        .replace('/', " / ")
        .replace(" per ", " / ");
    let words = text.split_whitespace();
    let words = words.filter(|word| !["requests", "request", "req"].contains(word));
    let mut joined = String::new();
    for word in words {
        let is_digit = |c: char| c.is_ascii_digit();
        if joined.ends_with(is_digit) && word.starts_with(is_digit) {
            return None;
        }
        joined.push_str(word);
    }
    Some(joined.into())
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
        for (text, same) in [
            ("100 per minute", "100/min"),
            ("100 Requests per Minute", "100/min"),
            ("100 requests / 5 minutes", "100/5min"),
            ("100/minute", "100/min"),
            ("9 / hour :3", "9/h:3"),
            ("slow = 9 per hr", "slow=9/h"),
            ("1 request per 2 days", "1/2d"),
            ("20 req/sec", "20/s"),
        ] {
            assert_eq!(parse(text), parse(same), "{text}");
            assert!(parse(text).is_ok(), "{text}");
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
            "1 0 per minute",
            "10 20/s",
            "100 per 5 5 minutes",
            "100 per month",
            "per minute",
            "100 minutes",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"x".repeat(10_000)).unwrap_err().len() < 300);
    }

    #[test]
    fn lists_are_split_at_commas_and_between_limits() {
        for (text, parts) in [
            ("", &[][..]),
            ("600/min 20/s", &["600/min", "20/s"]),
            ("600/min:10, slow=9/h,", &["600/min:10", "slow=9/h"]),
            ("100 per minute\n20/s", &["100 per minute", "20/s"]),
            ("many 20/s", &["many 20/s"]),
        ] {
            assert_eq!(split(text), parts, "{text}");
        }
    }

    #[test]
    fn limits_are_described_in_words() {
        for (text, words) in [
            ("600/min", "600 per minute"),
            ("1000/h:50", "1,000 per hour, burst of 50"),
            ("slow=9/2d", "9 per 2 days (slow)"),
            ("7/1500ms", "7 per 1500 ms"),
        ] {
            assert_eq!(describe(&parse(text).unwrap()), words);
        }
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
