//! How wide a bucket of time is, and which bucket an instant falls into.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::wire::UnknownName;

/// The width of a bucket of time. Each is a multiple of the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Granularity {
    /// One minute.
    Minute,
    /// Five minutes.
    FiveMinutes,
    /// Fifteen minutes: the widest that fits all of today's time zones, such as `+05:45`.
    QuarterHour,
    /// One hour.
    Hour,
    /// One calendar day: of 23 or 25 hours too, where the clocks change.
    Day,
}

impl Granularity {
    /// Every width there is, in the order of the enum.
    pub const ALL: [Self; 5] = [
        Self::Minute,
        Self::FiveMinutes,
        Self::QuarterHour,
        Self::Hour,
        Self::Day,
    ];

    /// The width for a chart of this range, which has some 15 to 170 buckets for the usual ones.
    ///
    /// Minutes up to an hour, five minutes up to six hours, quarters of an hour up to a day, hours up to
    /// a week, and days for all that is longer. Days and weeks may have an hour more, as they do where
    /// the clocks are set back.
    pub fn fitting(range: Range<Timestamp>) -> Self {
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

    /// The name in `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::FiveMinutes => "five_minutes",
            Self::QuarterHour => "quarter_hour",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// The width in seconds; for [`Granularity::Day`] that of a day without a change of the clocks.
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::FiveMinutes => 300,
            Self::QuarterHour => 900,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The start of the bucket of UTC that the time falls into, before 1970 too.
    pub fn floor(self, time: Timestamp) -> Timestamp {
        floor_to(self.seconds(), 0, time)
    }

    /// The bucket of the zone's own time that the instant falls into.
    ///
    /// The buckets of a zone follow each other without gap or overlap. Minutes and hours begin where
    /// the zone's clocks show a full one; one that a change of the clocks cuts in two (an hour, where
    /// they move by half an hour) makes two shorter buckets. A day begins at the first instant of its
    /// date. At both ends of [`Timestamp`]'s range buckets are cut off.
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
            // A first bucket that is cut off ends where a whole one would.
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

/// The latest instant up to `time` at which clocks at this offset show a multiple of `seconds`.
fn floor_to(seconds: i64, offset: i64, time: Timestamp) -> Timestamp {
    // Whole seconds are cut towards zero, which before 1970 is upwards.
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
        // Clocks that were set back over midnight show the old date again, and dates that a zone
        // skipped have no instant of their own.
        (date, start) = (tomorrow, end);
    }
}

/// The first instant of a date: where its midnight is skipped, the instant of the change.
fn midnight(date: Date, zone: &TimeZone) -> Timestamp {
    let midnight = date.at(0, 0, 0, 0);
    let there = zone.to_ambiguous_timestamp(midnight);
    let instant = match there.offset() {
        AmbiguousOffset::Gap { before, .. } => {
            // By the clocks of before it comes with the change or after it, if that begins earlier.
            let late = before.to_timestamp(midnight).unwrap_or(Timestamp::MAX);
            let just_after = late.checked_add(1.nanosecond()).unwrap_or(late);
            let mut changes = zone.preceding(just_after);
            changes.next().map(|change| change.timestamp())
        }
        _ => there.compatible().ok(),
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
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|width| width.as_str() == text)
            .ok_or_else(|| UnknownName::new("width of time", text))
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
    #[cfg_attr(miri, ignore = "time zones are not found there")]
    fn a_change_by_whole_hours_cuts_no_hour_in_two() {
        // On Chatham the clocks go from 2:45 to 3:45.
        let hour = ["2026-09-26T13:15:00Z", "2026-09-26T14:15:00Z"].map(at);
        for time in ["2026-09-26T13:30:00Z", "2026-09-26T14:05:00Z"] {
            assert_eq!(bucket(Granularity::Hour, at(time), "Pacific/Chatham"), hour);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "time zones are not found there")]
    fn an_hour_ends_where_another_change_cuts_it() {
        // New York's own time was 3 minutes and 58 seconds ahead of the Eastern one, and ended at its 12:03:58.
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
    #[cfg_attr(miri, ignore = "time zones are not found there")]
    fn a_day_that_has_begun_goes_on_where_clocks_are_set_back_over_midnight() {
        // At 0:01 Newfoundland's clocks showed 23:01 of the day before again.
        let day = ["2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"].map(at);
        for time in ["2006-10-29T02:30:00Z", "2006-10-29T03:00:00Z"] {
            assert_eq!(bucket(Granularity::Day, at(time), "America/St_Johns"), day);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "time zones are not found there")]
    fn a_day_whose_midnight_is_skipped_begins_with_the_change() {
        // In Toronto 23:30 was followed by 0:30; in São Paulo 0:00 by 1:00; Samoa skipped a whole day.
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
    #[cfg_attr(miri, ignore = "time zones are not found there")]
    fn the_first_day_and_the_last_are_cut_off() {
        let first = bucket(Granularity::Day, Timestamp::MIN, "UTC");
        assert_eq!(first, [Timestamp::MIN, at("-009999-01-03T00:00:00Z")]);
        let last = bucket(Granularity::Day, Timestamp::MAX, "UTC");
        assert_eq!(last[1], Timestamp::MAX);
        assert!(last[0] < Timestamp::MAX);
    }
}
