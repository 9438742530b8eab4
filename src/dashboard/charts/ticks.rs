//! Axis labels of a chart over time.
//!
//! The server does not know the width of the chart. It selects labels for a narrow and for a wide chart, and the style
//! sheet shows those that fit.

use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;

use super::times::Times;
use crate::usage::summary::TimeBucket;

/// Plot widths in pixels that labels are selected for: of charts of 328 px (on a 360 px screen) and 720 px.
const NARROW: usize = 264;
const WIDE: usize = 656;

/// Space for labels outside the plot, in pixels.
const LEFT: usize = 52;
const RIGHT: usize = 12;

/// Upper bounds at a font size of 11 px: the width of an ASCII character and of others; and the gap between labels.
const LETTER: usize = 7;
const OTHER: usize = 13;
const GAP: usize = 12;

const HOUR: i64 = 60;
const DAY: i64 = 24 * HOUR;

/// Round steps in minutes. Longer steps are multiples of four weeks.
const ROUND: [i64; 17] = [
    1,
    2,
    5,
    10,
    15,
    30,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    4 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    21 * DAY,
];

/// A Monday from which steps are counted, so that weeks start on Mondays.
const ORIGIN: DateTime = date(1969, 12, 29).at(0, 0, 0, 0);

/// The label of a column.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tick {
    pub(super) column: usize,
    pub(super) label: String,
    /// `narrow` or `wide` if only such charts show it.
    pub(super) class: Option<&'static str>,
}

pub(super) fn ticks(buckets: &[TimeBucket], times: &Times<'_>) -> Vec<Tick> {
    let labels: Vec<_> = buckets.iter().map(|b| (times.tick)(b.start)).collect();
    let widest = labels.iter().map(|label| width(label)).max().unwrap_or(0);
    let [narrow, wide] = [NARROW, WIDE].map(|plot| columns(buckets, times.zone, widest, plot));
    let labels = labels.into_iter().enumerate();
    let ticks = labels.filter_map(|(column, label)| {
        let class = match (narrow.contains(&column), wide.contains(&column)) {
            (true, true) => None,
            (true, false) => Some("narrow"),
            (false, true) => Some("wide"),
            (false, false) => return None,
        };
        Some(Tick {
            column,
            label,
            class,
        })
    });
    ticks.collect()
}

/// The columns at round times with space for labels of this width.
fn columns(buckets: &[TimeBucket], zone: &TimeZone, label: usize, plot: usize) -> Vec<usize> {
    let many = buckets.len().max(1);
    let apart = ((label + GAP) * many).div_ceil(plot);
    let step = step(buckets, apart);
    let mut before = None;
    let mut chosen = Vec::new();
    for (column, bucket) in buckets.iter().enumerate() {
        let minutes = minutes(bucket, zone);
        // The first bucket of a step: clock changes may skip the round time itself.
        let round = match before.replace(minutes.div_euclid(step)) {
            Some(before) => minutes.div_euclid(step) > before,
            None => minutes.rem_euclid(step) == 0,
        };
        let free = chosen.last().is_none_or(|last| column - last >= apart);
        let middle = (2 * column + 1) * plot / (2 * many);
        let inside = label / 2 <= middle + LEFT && middle + label / 2 <= plot + RIGHT;
        if round && free && inside {
            chosen.push(column);
        }
    }
    chosen
}

/// The smallest round step in minutes that spans at least this many columns.
fn step(buckets: &[TimeBucket], columns: usize) -> i64 {
    let length = buckets.first().map_or(1, |bucket| {
        bucket.end.duration_since(bucket.start).as_mins().max(1)
    });
    // Clock changes make days of 23 hours.
    let length = if length > 22 * HOUR { DAY } else { length };
    let least = length.saturating_mul(i64::try_from(columns).unwrap_or(i64::MAX));
    let mut round = ROUND.into_iter();
    round.find(|&step| step >= least).unwrap_or_else(|| {
        let month = 28 * DAY;
        (least / month).saturating_add(1).saturating_mul(month)
    })
}

/// The start of a bucket in local time, in minutes since [`ORIGIN`].
fn minutes(bucket: &TimeBucket, zone: &TimeZone) -> i64 {
    let local = zone.to_datetime(bucket.start);
    local.duration_since(ORIGIN).as_secs().div_euclid(60)
}

/// An upper estimate of the width of a text in pixels.
fn width(label: &str) -> usize {
    let letters = label.chars();
    letters
        .map(|c| if c.is_ascii() { LETTER } else { OTHER })
        .sum()
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::usage::Granularity;
    use crate::usage::summary::OverTime;

    fn buckets(
        width: Granularity,
        zone: &str,
        start: &str,
        hours: i64,
    ) -> (TimeZone, Vec<TimeBucket>) {
        let zone = TimeZone::get(zone).unwrap();
        let start: Timestamp = start.parse().unwrap();
        let over_time = OverTime {
            granularity: width,
            zone: zone.clone(),
            buckets: [].into(),
            latency: None,
        };
        let end = start + SignedDuration::from_hours(hours);
        let buckets = over_time.filled(start..end, Timestamp::MAX).unwrap();
        (zone, buckets)
    }

    fn shown(zone: &TimeZone, buckets: &[TimeBucket], format: &str, class: &str) -> Vec<String> {
        let tick = |time: Timestamp| zone.to_datetime(time).strftime(format).to_string();
        let times = Times {
            zone,
            tick: &tick,
            span: &|_| String::new(),
            href: &|_| None,
        };
        let ticks = ticks(buckets, &times).into_iter();
        let shown = ticks.filter(|tick| tick.class.is_none_or(|has| has == class));
        shown.map(|tick| tick.label).collect()
    }

    #[test]
    fn labels_are_at_round_times_of_the_zone() {
        let (zone, day) = buckets(
            Granularity::QuarterHour,
            "Asia/Kathmandu",
            "2026-11-01T03:20:00Z",
            24,
        );
        let narrow = shown(&zone, &day, "%H:%M", "narrow");
        assert_eq!(narrow, ["12:00", "18:00", "00:00", "06:00"]);
        let wide = shown(&zone, &day, "%H:%M", "wide");
        assert_eq!(wide[..3], ["10:00", "12:00", "14:00"]);
        assert_eq!(wide.len(), 12);
        let (zone, week) = buckets(
            Granularity::Hour,
            "Europe/Berlin",
            "2026-11-03T10:00:00Z",
            168,
        );
        assert_eq!(shown(&zone, &week, "%a %-d", "wide").len(), 7);
        let (zone, month) = buckets(
            Granularity::Day,
            "Europe/Berlin",
            "2026-11-01T00:00:00Z",
            720,
        );
        let narrow = shown(&zone, &month, "%a %-d", "narrow");
        assert_eq!(narrow, ["Mon 2", "Mon 9", "Mon 16", "Mon 23", "Mon 30"]);
    }

    #[test]
    fn labels_do_not_overlap_and_stay_inside() {
        for (width, hours) in [
            (Granularity::Minute, 1),
            (Granularity::Minute, 5),
            (Granularity::FiveMinutes, 6),
            (Granularity::QuarterHour, 25),
            (Granularity::Hour, 30),
            (Granularity::Hour, 170),
            (Granularity::Day, 24 * 8),
            (Granularity::Day, 24 * 400),
        ] {
            // The range includes a clock change.
            let (zone, buckets) = buckets(width, "Europe/Berlin", "2026-03-28T20:37:00Z", hours);
            for label in [7, 35, 49, 130] {
                for plot in [NARROW, WIDE] {
                    let columns = columns(&buckets, &zone, label, plot);
                    let middle =
                        |&c: &usize| (2 * c + 1) as f64 * plot as f64 / (2 * buckets.len()) as f64;
                    let middles: Vec<_> = columns.iter().map(middle).collect();
                    assert!(!middles.is_empty(), "{width} {hours} {label} {plot}");
                    let mut pairs = middles.windows(2);
                    assert!(pairs.all(|pair| pair[1] - pair[0] >= label as f64));
                    let last = middles.last().unwrap() + label as f64 / 2.0;
                    assert!(last <= (plot + RIGHT + 1) as f64);
                }
            }
        }
    }

    #[test]
    fn labels_without_space_are_omitted() {
        let (zone, hour) = buckets(Granularity::Minute, "UTC", "2026-11-01T03:20:00Z", 1);
        assert!(columns(&hour, &zone, 10_000, NARROW).is_empty());
        assert!(columns(&[], &zone, 35, NARROW).is_empty());
    }
}
