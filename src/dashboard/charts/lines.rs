//! Lines over time, on a logarithmic axis.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::columns::Columns;
use super::log_axis::LogAxis;
use super::plot::{HEIGHT, Plot, name};
use super::times::Times;
use super::{empty, numbers, swatch};
use crate::usage::summary::TimeBucket;

/// A line, with a value in each time bucket that has one.
pub(in crate::dashboard) struct Line<'a> {
    /// The CSS class.
    pub(in crate::dashboard) class: &'static str,
    pub(in crate::dashboard) name: &'a str,
    pub(in crate::dashboard) values: Vec<Option<u64>>,
    /// The value of the whole range.
    pub(in crate::dashboard) whole: Option<u64>,
}

/// Lines over time buckets in order, from top to bottom.
pub(in crate::dashboard) struct Lines<'a> {
    /// Unique on the page.
    pub(in crate::dashboard) id: &'a str,
    pub(in crate::dashboard) title: &'a str,
    pub(in crate::dashboard) buckets: &'a [TimeBucket],
    pub(in crate::dashboard) lines: &'a [Line<'a>],
    /// A value as text.
    pub(in crate::dashboard) value: &'a dyn Fn(u64) -> String,
    /// A value of the axis as text.
    pub(in crate::dashboard) short: &'a dyn Fn(u64) -> String,
}

impl Lines<'_> {
    pub(in crate::dashboard) fn chart(&self, times: &Times<'_>) -> Markup {
        let values = self.lines.iter().flat_map(|line| &line.values);
        let values = values.copied().flatten();
        html! {
            figure.chart.over-time {
                figcaption id={ (self.id) "-title" } { (self.title) }
                @if values.clone().next().is_none() {
                    (empty())
                } @else {
                    (self.plot(LogAxis::around(values), times))
                    (self.legend())
                    (self.table(times))
                }
            }
        }
    }

    fn plot(&self, axis: LogAxis, times: &Times<'_>) -> Markup {
        let lines = axis.lines(HEIGHT);
        let plot = Plot {
            id: self.id,
            buckets: self.buckets,
            lines: lines.map(|(n, up)| ((self.short)(n), up)).collect(),
            times,
        };
        let shapes = html! {
            g.lines {
                @for line in self.lines.iter().rev() { path class=(line.class) d=(path(&line.values, axis)) {} }
            }
        };
        let values = self.lines.iter().map(|line| (line.name, line.whole));
        let description = format!("Line chart: {}.", self.text(values));
        plot.svg(&description, &shapes, &|column| {
            let values = self
                .lines
                .iter()
                .map(|line| (line.name, line.values[column]));
            (self.text(values), None)
        })
    }

    /// Values as text: `p99 120 ms, p50 10 ms`.
    fn text<'a>(&self, values: impl Iterator<Item = (&'a str, Option<u64>)>) -> String {
        let values = values.filter_map(|(name, value)| Some((name, value?)));
        let mut text = String::new();
        for (name, value) in values {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{comma}{name} {}", (self.value)(value));
        }
        match text.is_empty() {
            true => "no requests".to_owned(),
            false => text,
        }
    }

    fn has_values(&self, column: usize) -> bool {
        self.lines.iter().any(|line| line.values[column].is_some())
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend {
                @for line in self.lines {
                    li {
                        (swatch(line.class)) span { (line.name) }
                        span.number { (line.whole.map_or_else(String::new, self.value)) }
                    }
                }
            }
        }
    }

    /// All buckets with values. Keyboards and screen readers use it instead of the lines.
    fn table(&self, times: &Times<'_>) -> Markup {
        let columns = (0..self.buckets.len()).filter(|column| self.has_values(*column));
        let cell =
            |value: Option<u64>| html! { td { (value.map_or_else(String::new, self.value)) } };
        let rows = html! {
            @for column in columns {
                tr {
                    th scope="row" { (name(&self.buckets[column], times)) }
                    @for line in self.lines { (cell(line.values[column])) }
                }
            }
            tr {
                th scope="row" { "Whole period" }
                @for line in self.lines { (cell(line.whole)) }
            }
        };
        let names = self.lines.iter().map(|line| line.name);
        let heads: Vec<_> = std::iter::once("Time").chain(names).collect();
        numbers(&heads, rows)
    }
}

/// The height of the `viewBox`.
const UNITS: u64 = super::columns::UNITS as u64;

/// A line that is interrupted where there are no values. A value between two gaps becomes a dot.
fn path(values: &[Option<u64>], axis: LogAxis) -> String {
    let columns = Columns::of(values.len());
    let mut path = String::new();
    let mut is_open = false;
    for (column, value) in values.iter().enumerate() {
        let Some(value) = value else {
            is_open = false;
            continue;
        };
        let y = UNITS - axis.height(*value, UNITS);
        let x = columns.middle(column);
        let _ = match is_open {
            true => write!(path, "L{x} {y}"),
            false => write!(path, "M{x} {y}h0"),
        };
        is_open = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use jiff::{SignedDuration, Timestamp};

    use super::super::columns::tests::totals;
    use super::super::tests::{HOSTILE, check};
    use super::*;

    fn chart(title: &str, values: &[Option<u64>]) -> String {
        let first: Timestamp = "2026-11-01T10:00:00Z".parse().unwrap();
        let bucket = |i: usize| {
            let start = first + SignedDuration::from_mins(i as i64);
            TimeBucket {
                start,
                end: start + SignedDuration::from_mins(1),
                is_partial: i + 1 == values.len(),
                totals: totals(0, 0, 0),
                latency: None,
            }
        };
        let buckets: Vec<_> = (0..values.len()).map(bucket).collect();
        let clock = |time: Timestamp| time.strftime("%H:%M").to_string();
        let times = Times {
            zone: &TimeZone::UTC,
            tick: &clock,
            span: &|bucket| clock(bucket.start),
            href: &|_| None,
        };
        let line = |class, name, by| Line {
            class,
            name,
            values: values.iter().map(|value| value.map(|it| it * by)).collect(),
            whole: values.iter().copied().flatten().max(),
        };
        let lines = Lines {
            id: "latency",
            title,
            buckets: &buckets,
            lines: &[line("c3", "p99", 10), line("c1", "p50", 1)],
            value: &|n| format!("{n} ms"),
            short: &|n| n.to_string(),
        };
        let page = lines.chart(&times).into_string();
        check(&page);
        page
    }

    #[test]
    fn without_values_there_is_a_notice_instead_of_a_chart() {
        let page = chart("Latency", &[None, None]);
        assert!(page.contains("No requests in this period"));
        assert!(!page.contains("<svg"));
    }

    #[test]
    fn lines_are_interrupted_by_gaps() {
        let axis = LogAxis::around([1, 100].into_iter());
        assert_eq!(
            path(&[Some(100), None, Some(0)], axis),
            "M50 0h0M250 1000h0"
        );
        assert_eq!(path(&[None, Some(10), Some(100)], axis), "M150 500h0L250 0");
        assert_eq!(path(&[Some(u64::MAX)], axis), "M50 0h0");
    }

    #[test]
    fn values_are_in_tooltips_and_in_the_table() {
        let page = chart("Latency", &[Some(7), None, Some(9)]);
        assert!(
            page.contains("<title>10:00: p99 70 ms, p50 7 ms</title>"),
            "{page}"
        );
        assert!(page.contains("<title>10:01: no requests</title>"));
        assert!(page.contains("<title>10:02 so far: p99 90 ms, p50 9 ms</title>"));
        assert!(page.contains("Line chart: p99 9 ms, p50 9 ms."));
        // Two buckets and the whole period.
        let (_, table) = page.split_once("<tbody>").unwrap();
        assert_eq!(table.matches("<tr>").count(), 3);
    }

    #[test]
    fn hostile_text_is_escaped() {
        chart(HOSTILE, &[Some(1)]);
    }
}
