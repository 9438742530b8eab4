//! Time bucket widths and boundaries.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::parse_error::ParseError;

/// The width of a time bucket. Each width is a multiple of the smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Granularity {
    /// One minute.
    Minute,
    /// Five minutes.
    FiveMinutes,
    /// Fifteen minutes: the largest width that divides the UTC offsets of all current time zones, such as
    /// `+05:45`.
    QuarterHour,
    /// One hour.
    Hour,
    /// One calendar day, which may have 23 or 25 hours at a daylight saving transition.
    Day,
}

impl Granularity {
    /// All widths, from smallest to largest.
    pub const ALL: [Self; 5] = [
        Self::Minute,
        Self::FiveMinutes,
        Self::QuarterHour,
        Self::Hour,
        Self::Day,
    ];

    /// The width to chart a range of time with, giving about 15 to 170 buckets for ranges up to a few months.
    ///
    /// One minute for ranges up to an hour, five minutes up to six hours, fifteen minutes up to a day, one hour up
    /// to a week, and one day for longer ranges. A day and a week may be an hour longer, as at the end of daylight
    /// saving time.
    pub fn for_range(range: Range<Timestamp>) -> Self {
        let length = range.end.duration_since(range.start);
        let longest = [
            (1, Self::Minute),
            (6, Self::FiveMinutes),
            (24 + 1, Self::QuarterHour),
            (7 * 24 + 1, Self::Hour),
        ];
        let mut fitting = longest.into_iter();
        fitting
            .find(|&(hours, _)| length <= SignedDuration::from_hours(hours))
            .map_or(Self::Day, |(_, width)| width)
    }

    /// The name in `snake_case`, as serialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::FiveMinutes => "five_minutes",
            Self::QuarterHour => "quarter_hour",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// The width in seconds. For [`Granularity::Day`], 86,400, the length of a day without a transition.
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::FiveMinutes => 300,
            Self::QuarterHour => 900,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The start of the UTC bucket that contains the time. Also correct before 1970.
    pub fn floor(self, time: Timestamp) -> Timestamp {
        floor_to(self.seconds(), 0, time)
    }

    /// The bucket in the zone's local time that contains the instant.
    ///
    /// The buckets of a zone are contiguous and do not overlap. Buckets shorter than a day are aligned to the
    /// zone's local time. A bucket that contains an offset change that is no multiple of its width, such as half
    /// an hour within an hour, is split into two shorter ones. A day starts at the first instant of its date. The
    /// first and the last bucket are truncated to [`Timestamp`]'s range.
    pub fn bucket(self, time: Timestamp, zone: &TimeZone) -> Range<Timestamp> {
        if self == Self::Day {
            return day(time, zone);
        }
        let offset = zone.to_offset(time).seconds();
        let aligned = |other: Timestamp| {
            let change = zone.to_offset(other).seconds() - offset;
            i64::from(change) % self.seconds() == 0
        };
        let mut start = floor_to(self.seconds(), offset.into(), time);
        let mut end = later(start, self.seconds());
        if start == Timestamp::MIN {
            // The truncated first bucket ends where the full one would.
            let next = later(time, self.seconds());
            end = floor_to(self.seconds(), offset.into(), next);
        }
        if !aligned(start) {
            let just_after = time.checked_add(1.nanosecond()).unwrap_or(time);
            let change = zone.preceding(just_after).next();
            start = change.map_or(start, |change| change.timestamp().max(start));
        }
        if !aligned(end) {
            let change = zone.following(time).next();
            end = change.map_or(end, |change| change.timestamp().min(end));
        }
        start..end
    }
}

/// The latest instant up to `time` whose local time at this offset is a multiple of `seconds`.
fn floor_to(seconds: i64, offset: i64, time: Timestamp) -> Timestamp {
    // `as_second` truncates towards zero, which rounds up before 1970.
    let second = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
    let start = (second + offset).div_euclid(seconds) * seconds - offset;
    Timestamp::from_second(start).unwrap_or(Timestamp::MIN)
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

fn day(time: Timestamp, zone: &TimeZone) -> Range<Timestamp> {
    let mut date = zone.to_datetime(time).date();
    let mut start = midnight(date, zone);
    loop {
        let Ok(tomorrow) = date.tomorrow() else {
            return start..Timestamp::MAX;
        };
        let end = midnight(tomorrow, zone);
        if time < end || end == Timestamp::MAX {
            return start..end;
        }
        // After a transition back across midnight, local time shows the previous date again. A date that the zone
        // skipped has no instants.
        (date, start) = (tomorrow, end);
    }
}

/// The first instant of a date. If its midnight falls into a gap, the instant of the transition.
pub(crate) fn midnight(date: Date, zone: &TimeZone) -> Timestamp {
    let midnight = date.at(0, 0, 0, 0);
    let ambiguous = zone.to_ambiguous_timestamp(midnight);
    let instant = match ambiguous.offset() {
        AmbiguousOffset::Gap { before, .. } => {
            // At the offset before the transition, midnight is at the transition or after it.
            let late = before.to_timestamp(midnight).unwrap_or(Timestamp::MAX);
            let just_after = late.checked_add(1.nanosecond()).unwrap_or(late);
            let mut changes = zone.preceding(just_after);
            changes.next().map(|change| change.timestamp())
        }
        _ => ambiguous.compatible().ok(),
    };
    instant.unwrap_or(if date.year() < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Granularity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|width| width.as_str() == text)
            .ok_or_else(|| ParseError::unknown("granularity", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn bucket(width: Granularity, time: Timestamp, zone: &str) -> [Timestamp; 2] {
        let bucket = width.bucket(time, &TimeZone::get(zone).unwrap());
        [bucket.start, bucket.end]
    }

    #[test]
    fn names_round_trip() {
        let names = ["minute", "five_minutes", "quarter_hour", "hour", "day"];
        assert_eq!(Granularity::ALL.map(|width| width.to_string()), names);
        assert_eq!(names.map(str::parse), Granularity::ALL.map(Ok));
        assert!("week".parse::<Granularity>().is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "no time zone database")]
    fn a_transition_by_a_whole_hour_splits_no_hour() {
        // On Chatham, clocks go from 2:45 to 3:45.
        let hour = ["2026-09-26T13:15:00Z", "2026-09-26T14:15:00Z"].map(at);
        for time in ["2026-09-26T13:30:00Z", "2026-09-26T14:05:00Z"] {
            assert_eq!(bucket(Granularity::Hour, at(time), "Pacific/Chatham"), hour);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "no time zone database")]
    fn a_transition_by_part_of_an_hour_splits_the_hour() {
        // New York's local mean time was 3 min 58 s ahead of Eastern Standard Time and ended at 12:03:58.
        let [from, noon, to] = [
            "1883-11-18T16:56:02Z",
            "1883-11-18T17:00:00Z",
            "1883-11-18T18:00:00Z",
        ]
        .map(at);
        let before = at("1883-11-18T16:58:00Z");
        assert_eq!(
            bucket(Granularity::Hour, before, "America/New_York"),
            [from, noon]
        );
        assert_eq!(
            bucket(Granularity::Hour, noon, "America/New_York"),
            [noon, to]
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "no time zone database")]
    fn a_transition_back_across_midnight_does_not_split_the_day() {
        // At 0:01, Newfoundland's clocks went back to 23:01 of the previous day.
        let day = ["2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"].map(at);
        for time in ["2006-10-29T02:30:00Z", "2006-10-29T03:00:00Z"] {
            assert_eq!(bucket(Granularity::Day, at(time), "America/St_Johns"), day);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "no time zone database")]
    fn a_day_without_midnight_starts_at_the_transition() {
        // Toronto went from 23:30 to 0:30 and São Paulo from 0:00 to 1:00; Samoa skipped a whole day.
        for (zone, start, end) in [
            (
                "America/Toronto",
                "1919-03-31T04:30:00Z",
                "1919-04-01T04:00:00Z",
            ),
            (
                "America/Sao_Paulo",
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
            (
                "Pacific/Apia",
                "2011-12-30T10:00:00Z",
                "2011-12-31T10:00:00Z",
            ),
        ] {
            let day = [start, end].map(at);
            let last = day[1] - 1.nanosecond();
            for time in [day[0], day[0] + 15.minutes(), last] {
                assert_eq!(bucket(Granularity::Day, time, zone), day, "{zone}");
            }
            let before = bucket(Granularity::Day, day[0] - 1.nanosecond(), zone);
            assert_eq!(before[1], day[0], "{zone}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "no time zone database")]
    fn first_and_last_day_are_truncated() {
        let first = bucket(Granularity::Day, Timestamp::MIN, "UTC");
        assert_eq!(first, [Timestamp::MIN, at("-009999-01-03T00:00:00Z")]);
        let last = bucket(Granularity::Day, Timestamp::MAX, "UTC");
        assert_eq!(last[1], Timestamp::MAX);
        assert!(last[0] < Timestamp::MAX);
    }
}
