//! The time ranges of the dashboard: granularities, day buckets in time zones, and unfinished buckets.

use std::ops::Range;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use keytally::usage::summary::TimeBucket;
use keytally::usage::{Granularity, SummarySpec, UsageEvent};

const ZONES: [&str; 4] = ["UTC", "Asia/Kathmandu", "America/New_York", "Pacific/Apia"];

/// Lengths of ranges in hours up to now, and the granularity for each.
const RANGES: [(f64, Granularity); 7] = [
    (0.25, Granularity::Minute),
    (1.0, Granularity::Minute),
    (6.0, Granularity::FiveMinutes),
    (24.0, Granularity::QuarterHour),
    (25.0, Granularity::QuarterHour),
    (7.0 * 24.0, Granularity::Hour),
    (30.0 * 24.0, Granularity::Day),
];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn last_hours(now: Timestamp, hours: f64) -> Range<Timestamp> {
    now - SignedDuration::from_secs_f64(hours * 3_600.0)..now
}

/// The granularity, event count and filled buckets for one event every seven minutes.
fn chart(
    range: Range<Timestamp>,
    name: &str,
    now: Timestamp,
) -> (Granularity, u64, Vec<TimeBucket>) {
    let times = (0..).map(|n| range.start + SignedDuration::from_mins(7 * n));
    let events: Vec<_> = times
        .take_while(|time| *time < range.end)
        .map(UsageEvent::new)
        .collect();
    let spec = SummarySpec::new().over_range(range.clone(), zone(name));
    let over_time = spec.summarize(&events).over_time.unwrap();
    assert_eq!(over_time.zone, zone(name));
    let filled = over_time.filled(range, now).unwrap();
    (over_time.granularity, events.len() as u64, filled)
}

#[test]
fn each_range_length_has_its_granularity() {
    let now = at("2026-11-01T15:07:23Z");
    for (hours, width) in RANGES {
        assert_eq!(
            Granularity::for_range(last_hours(now, hours)),
            width,
            "{hours} h"
        );
    }
    let second = 1.0 / 3_600.0;
    for (hours, width) in [
        (0.0, Granularity::Minute),
        (-5.0, Granularity::Minute),
        (1.0 + second, Granularity::FiveMinutes),
        (6.0 + second, Granularity::QuarterHour),
        (25.0 + second, Granularity::Hour),
        (7.0 * 24.0 + 1.0 + second, Granularity::Day),
    ] {
        assert_eq!(
            Granularity::for_range(last_hours(now, hours)),
            width,
            "{hours} h"
        );
    }
    assert_eq!(
        Granularity::for_range(Timestamp::MIN..Timestamp::MAX),
        Granularity::Day
    );
}

#[test]
fn only_the_last_bucket_is_unfinished() {
    for now in [
        "2026-11-01T15:07:23Z",
        // In New York's repeated hour, and as Samoa skips a day.
        "2026-11-01T06:31:01.5Z",
        "2011-12-30T10:00:00.000001Z",
    ] {
        let now = at(now);
        for (name, (hours, expected)) in ZONES.iter().flat_map(|name| RANGES.map(|it| (*name, it)))
        {
            let (width, events, filled) = chart(last_hours(now, hours), name, now);
            assert_eq!(width, expected);
            let (last, earlier) = filled.split_last().unwrap();
            assert!(
                last.start < now && now < last.end,
                "{name}, {hours} h: {last:?}"
            );
            assert!(last.is_partial);
            assert!(earlier.iter().all(|bucket| !bucket.is_partial));
            let shown: u64 = filled.iter().map(|bucket| bucket.totals.total()).sum();
            assert_eq!(shown, events, "{name}, {hours} h");
        }
    }
    // A bucket that ends exactly now is finished.
    let now = at("2026-11-01T15:00:00Z");
    let (_, _, filled) = chart(last_hours(now, 6.0), "UTC", now);
    assert!(filled.iter().all(|bucket| !bucket.is_partial));
}

#[test]
fn day_buckets_follow_the_time_zone() {
    let dates = |name: &str, now: &str| -> Vec<(String, i64)> {
        let now = at(now);
        let (width, _, filled) = chart(last_hours(now, 8.0 * 24.0), name, now);
        assert_eq!(width, Granularity::Day);
        filled
            .iter()
            .map(|day| {
                let start = zone(name).to_datetime(day.start);
                (start.to_string(), (day.end - day.start).as_hours())
            })
            .collect()
    };
    let days = dates("Asia/Kathmandu", "2026-11-01T18:14:59Z");
    assert_eq!(days[0], ("2026-10-24T00:00:00".into(), 24));
    assert_eq!(days.last().unwrap().0, "2026-11-01T00:00:00");
    let days = dates("Asia/Kathmandu", "2026-11-01T18:15:01Z");
    assert_eq!(days.last().unwrap().0, "2026-11-02T00:00:00");

    // Daylight saving time ends on 2026-11-01 and starts on 2026-03-08.
    let days = dates("America/New_York", "2026-11-04T03:00:00Z");
    assert_eq!(days.len(), 9);
    assert!(days.contains(&("2026-11-01T00:00:00".into(), 25)));
    assert_eq!(days.last().unwrap().0, "2026-11-03T00:00:00");
    let days = dates("America/New_York", "2026-03-11T03:00:00Z");
    assert!(days.contains(&("2026-03-08T00:00:00".into(), 23)));

    // Samoa skipped 2011-12-30.
    let days = dates("Pacific/Apia", "2012-01-02T03:00:00Z");
    let shown: Vec<_> = days.iter().map(|(start, _)| &start[8..10]).collect();
    assert_eq!(
        shown,
        ["24", "25", "26", "27", "28", "29", "31", "01", "02"]
    );
}

#[test]
fn a_25_hour_day_gets_the_granularity_of_a_day() {
    let day = Granularity::Day.bucket(at("2026-11-01T12:00:00Z"), &zone("America/New_York"));
    let (width, _, filled) = chart(day.clone(), "America/New_York", day.end);
    assert_eq!((width, filled.len()), (Granularity::QuarterHour, 100));
    let week = at("2026-10-27T04:00:00Z")..at("2026-11-03T05:00:00Z");
    let (width, _, filled) = chart(week.clone(), "America/New_York", week.end);
    assert_eq!((width, filled.len()), (Granularity::Hour, 169));
}
