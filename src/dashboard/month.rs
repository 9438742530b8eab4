//! Calendar months in a time zone.

use std::ops::Range;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::usage::midnight;

/// A calendar month in a time zone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Month {
    first: Date,
    zone: TimeZone,
}

impl Month {
    /// The month that contains a time.
    pub(super) fn of(time: Timestamp, zone: &TimeZone) -> Self {
        Self {
            first: zone.to_datetime(time).date().first_of_month(),
            zone: zone.clone(),
        }
    }

    /// Parses a month such as `2026-10`.
    pub(super) fn parse(text: &str, zone: TimeZone) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let is_number = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let is_month = is_number(year, 4) && is_number(month, 2);
        let first = Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok();
        let first = first.filter(|_| is_month)?;
        Some(Self { first, zone })
    }

    /// The month before.
    pub(super) fn previous(&self) -> Self {
        Self {
            first: self.first.saturating_sub(1.month()),
            zone: self.zone.clone(),
        }
    }

    /// From the first instant of the month up to that of the next one.
    pub(super) fn range(&self) -> Range<Timestamp> {
        let next = self.first.checked_add(1.month());
        let end = next.map_or(Timestamp::MAX, |next| midnight(next, &self.zone));
        midnight(self.first, &self.zone)..end
    }

    /// The IANA name of the time zone.
    pub(super) fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The month as in a heading, such as `October 2026`.
    pub(super) fn title(&self) -> String {
        self.first.strftime("%B %Y").to_string()
    }
}

/// As [`Month::parse`] reads it.
impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.first.strftime("%Y-%m"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(text: &str, zone: &str) -> Option<Month> {
        Month::parse(text, TimeZone::get(zone).unwrap())
    }

    #[test]
    fn a_month_ends_where_the_next_one_begins() {
        for (text, zone, from, to) in [
            (
                "2026-10",
                "UTC",
                "2026-10-01T00:00:00Z",
                "2026-11-01T00:00:00Z",
            ),
            (
                "2026-10",
                "Europe/Berlin",
                "2026-09-30T22:00:00Z",
                "2026-10-31T23:00:00Z",
            ),
            (
                "2026-12",
                "Asia/Kathmandu",
                "2026-11-30T18:15:00Z",
                "2026-12-31T18:15:00Z",
            ),
            // The clocks went forward at midnight.
            (
                "1995-04",
                "Asia/Amman",
                "1995-03-31T22:00:00Z",
                "1995-04-30T21:00:00Z",
            ),
        ] {
            let month = month(text, zone).unwrap();
            let range = month.range();
            assert_eq!(
                (range.start.to_string(), range.end.to_string()),
                (from.into(), to.into())
            );
            assert_eq!((month.to_string(), month.zone_name()), (text.into(), zone));
            let previous = month.previous();
            assert_eq!(previous.range().end, range.start);
            assert_eq!(Month::of(range.start, &month.zone), month);
            let micro = jiff::SignedDuration::from_micros(1);
            assert_eq!(Month::of(range.start - micro, &month.zone), previous);
        }
        assert_eq!(month("2026-10", "UTC").unwrap().title(), "October 2026");
    }

    #[test]
    fn only_months_of_four_digit_years_are_parsed() {
        for text in ["0000-01", "0001-01", "9999-12"] {
            let range = month(text, "America/New_York").expect(text).range();
            assert!(range.start < range.end, "{range:?}");
        }
        for text in [
            "",
            "2026",
            "2026-13",
            "2026-00",
            "2026-1",
            "+026-01",
            "2026-+1",
            "-2026-01",
            "2026-10-01",
            "２０２６-10",
            "20260-01",
        ] {
            assert_eq!(month(text, "UTC"), None, "{text}");
        }
    }
}
