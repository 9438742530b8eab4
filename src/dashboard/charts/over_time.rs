//! Columns over time, stacked: requests by outcome, and others.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::axis::Axis;
use super::columns::Columns;
use super::number::{compact, count, share};
use super::plot::{HEIGHT, Plot, name};
use super::times::Times;
use super::{empty, label, local, numbers, swatch};
use crate::usage::saturating;
use crate::usage::summary::{TimeBucket, Totals};

/// A part of every column.
#[derive(Debug, Clone)]
pub(in crate::dashboard) struct Part {
    /// The CSS class.
    pub(in crate::dashboard) class: &'static str,
    pub(in crate::dashboard) name: String,
    /// The link to its requests. Links to other hosts are dropped.
    pub(in crate::dashboard) href: Option<String>,
}

/// Time buckets in order, with the counts of several parts.
pub(in crate::dashboard) struct Stack<'a> {
    /// Unique on the page.
    pub(in crate::dashboard) id: &'a str,
    pub(in crate::dashboard) title: &'a str,
    /// What the parts are.
    pub(in crate::dashboard) by: &'a str,
    /// From bottom to top.
    pub(in crate::dashboard) parts: &'a [Part],
    pub(in crate::dashboard) buckets: &'a [TimeBucket],
    /// The counts of the parts for each bucket.
    pub(in crate::dashboard) counts: &'a [Vec<u64>],
    /// Counts as text.
    pub(in crate::dashboard) amounts: &'a dyn Fn(&[u64]) -> String,
}

/// Outcomes from bottom to top: CSS class and name.
const OUTCOMES: [(&str, &str); 3] = [
    ("completed", "Completed"),
    ("limited", "Rate limited"),
    ("failed", "Failed"),
];

/// The number of requests by outcome, in the order of [`OUTCOMES`].
fn outcomes(totals: &Totals) -> Vec<u64> {
    vec![totals.completed(), totals.rate_limited(), totals.failed()]
}

/// A chart of requests by outcome in time buckets, in order. `id` must be unique on the page.
pub(in crate::dashboard) fn over_time(
    id: &str,
    title: &str,
    buckets: &[TimeBucket],
    times: &Times<'_>,
) -> Markup {
    let parts = OUTCOMES.map(|(class, name)| Part {
        class,
        name: name.into(),
        href: None,
    });
    let counts = buckets.iter().map(|bucket| outcomes(&bucket.totals));
    let stack = Stack {
        id,
        title,
        by: "outcome",
        parts: &parts,
        buckets,
        counts: &counts.collect::<Vec<_>>(),
        amounts: &amounts,
    };
    stack.chart(times)
}

impl Stack<'_> {
    pub(in crate::dashboard) fn chart(&self, times: &Times<'_>) -> Markup {
        let sum = |part: usize| saturating::total(self.counts.iter().map(|it| it[part]));
        let totals: Vec<_> = (0..self.parts.len()).map(sum).collect();
        html! {
            figure.chart.over-time {
                figcaption id={ (self.id) "-title" } { (self.title) }
                @if total(&totals) == 0 {
                    (empty())
                } @else {
                    (self.plot(&totals, times))
                    (self.legend(&totals, times))
                    (self.table(&totals, times))
                }
            }
        }
    }

    fn plot(&self, totals: &[u64], times: &Times<'_>) -> Markup {
        let most = self.counts.iter().map(|counts| total(counts)).max();
        let axis = Axis::up_to(most.unwrap_or(0));
        let columns = Columns::of(self.buckets.len());
        let classes: Vec<_> = self.parts.iter().map(|part| part.class).collect();
        let plot = Plot {
            id: self.id,
            buckets: self.buckets,
            lines: axis.lines(HEIGHT).map(|(n, up)| (compact(n), up)).collect(),
            times,
        };
        let shapes = html! {
            (columns.shapes(self.buckets, self.counts, &classes, axis, false))
            g.unfinished { (columns.shapes(self.buckets, self.counts, &classes, axis, true)) }
        };
        plot.svg(&self.description(totals, times), &shapes, &|column| {
            (
                (self.amounts)(&self.counts[column]),
                self.link(column, times),
            )
        })
    }

    fn description(&self, totals: &[u64], times: &Times<'_>) -> String {
        let mut text = format!(
            "Column chart stacked by {}: {}.",
            self.by,
            (self.amounts)(totals)
        );
        let columns = self.buckets.iter().zip(self.counts).rev();
        if let Some((busiest, counts)) = columns.max_by_key(|(_, counts)| total(counts)) {
            let most = count(total(counts));
            // Writing to a `String` cannot fail.
            let _ = write!(text, " Peak: {most} ({}).", (times.span)(busiest));
        }
        text
    }

    /// The link to a bucket's requests, unless it is empty.
    fn link(&self, column: usize, times: &Times<'_>) -> Option<String> {
        let any = total(&self.counts[column]) > 0;
        any.then(|| (times.href)(&self.buckets[column])).flatten()
    }

    fn legend(&self, totals: &[u64], times: &Times<'_>) -> Markup {
        let unfinished = self.buckets.iter().find(|bucket| bucket.is_partial);
        html! {
            ul.legend {
                @for (part, &n) in self.parts.iter().zip(totals) {
                    li {
                        (swatch(part.class))
                        @match &part.href {
                            Some(href) => (label(&part.name, Some(href))),
                            None => span { (part.name) },
                        }
                        span.number { (count(n)) } span.number { (share(n, total(totals))) }
                    }
                }
                @if let Some((bucket, part)) = unfinished.zip(self.parts.first()) {
                    li.unfinished { (swatch(part.class)) span { (name(bucket, times)) } }
                }
            }
        }
    }

    /// All buckets with requests. Keyboards and screen readers use it instead of the columns.
    fn table(&self, totals: &[u64], times: &Times<'_>) -> Markup {
        let columns = self.buckets.iter().zip(self.counts).enumerate();
        let columns = columns.filter(|(_, (_, counts))| total(counts) > 0);
        let rows = html! {
            @for (column, (bucket, counts)) in columns {
                (row(&name(bucket, times), counts, self.link(column, times)))
            }
            (row("Total", totals, None))
        };
        let parts = self.parts.iter().map(|part| &*part.name);
        let heads: Vec<_> = ["Time", "Requests"].into_iter().chain(parts).collect();
        numbers(&heads, rows)
    }
}

fn total(counts: &[u64]) -> u64 {
    saturating::total(counts.iter().copied())
}

fn row(name: &str, counts: &[u64], href: Option<String>) -> Markup {
    html! {
        tr {
            th scope="row" {
                @match local(href.as_deref()) { Some(href) => a href=(href) { (name) }, None => (name) }
            }
            td { (count(total(counts))) }
            @for &n in counts { td { (count(n)) } }
        }
    }
}

/// Counts by outcome as text: `1,204 requests, 3 failed, 12 rate limited`.
fn amounts(counts: &[u64]) -> String {
    let mut text = requests(total(counts));
    for (n, outcome) in [(counts[2], "failed"), (counts[1], "rate limited")] {
        if n > 0 {
            let _ = write!(text, ", {} {outcome}", count(n));
        }
    }
    text
}

/// A number of requests as text.
pub(in crate::dashboard) fn requests(n: u64) -> String {
    match n {
        0 => "no requests".to_owned(),
        1 => "1 request".to_owned(),
        n => format!("{} requests", count(n)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::columns::tests::totals;
    use super::super::tests::{HOSTILE, check};
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;

    const MOST: u64 = i64::MAX.cast_unsigned();

    fn buckets(many: i32, totals: impl Fn(u64) -> Totals) -> Vec<TimeBucket> {
        let first: Timestamp = "2026-11-01T10:15:00Z".parse().unwrap();
        let length = SignedDuration::from_mins(15);
        let bucket = |i: i32| TimeBucket {
            start: first + length * i,
            end: first + length * (i + 1),
            is_partial: i == many - 1,
            totals: totals(i.unsigned_abs().into()),
            latency: None,
        };
        (0..many).map(bucket).collect()
    }

    fn chart(buckets: &[TimeBucket]) -> String {
        let clock = |time: Timestamp| time.strftime("%H:%M").to_string();
        let times = Times {
            zone: &TimeZone::UTC,
            tick: &clock,
            span: &|bucket| format!("{}–{}", clock(bucket.start), clock(bucket.end)),
            href: &|bucket| Some(format!("?since={}", bucket.start)),
        };
        let page = over_time("chart", "Requests", buckets, &times).into_string();
        check(&page);
        page
    }

    #[test]
    fn without_requests_there_is_a_notice_instead_of_a_chart() {
        for buckets in [vec![], buckets(7, |_| Totals::default())] {
            let page = chart(&buckets);
            assert!(page.contains("No requests in this period"));
            assert!(!page.contains("<svg"));
        }
    }

    #[test]
    fn columns_have_titles() {
        let page = chart(&buckets(2, |_| totals(1_189, 12, 3)));
        let title = "<title>10:15–10:30: 1,204 requests, 3 failed, 12 rate limited</title>";
        assert!(page.contains(title), "{page}");
        assert!(page.contains("<title>10:30–10:45 so far: 1,204 requests"));
        assert!(page.contains(r#"aria-labelledby="chart-title chart-desc""#));
        assert_eq!(page.matches(r#"class="unfinished""#).count(), 2);
    }

    #[test]
    fn only_nonempty_columns_are_links() {
        let page = chart(&buckets(3, |i| totals(i, 0, 0)));
        assert_eq!(
            page.matches(r#"<a href="?since=2026-11-01T10:30:00Z""#)
                .count(),
            2
        );
        assert!(!page.contains("since=2026-11-01T10:15:00Z"), "{page}");
    }

    #[test]
    fn a_single_column_is_centered_and_narrow() {
        let page = chart(&buckets(1, |_| totals(3, 0, 0)));
        assert!(page.contains(r#"viewBox="0 0 100 1000""#), "{page}");
        assert!(page.contains(r#"d="M46 0h8v1000h-8z""#), "{page}");
        assert!(page.contains(r#"x="50.00%""#), "{page}");
    }

    #[test]
    fn charts_with_many_columns_stay_small() {
        let large = chart(&buckets(200, |i| totals(1_204_331 + i, 204_331, 104_331)));
        assert!(large.len() < 100_000, "{}", large.len());
        assert_eq!(large.matches("<tr>").count(), 202);
        let usual = chart(&buckets(96, |i| totals(1_204 + i, 0, i % 9 / 8)));
        assert!(usual.len() < 50_000, "{}", usual.len());
    }

    #[test]
    fn the_table_lists_all_columns_with_requests() {
        let page = chart(&buckets(800, |i| totals(u64::from(i % 10 > 0), 0, 0)));
        assert_eq!(page.matches("<tr>").count(), 722);
        let (_, table) = page.split_once("<table>").unwrap();
        assert_eq!(table.matches("<a href=").count(), 720);
    }

    #[test]
    fn the_largest_counts_are_drawn() {
        for many in [1, 3, 200] {
            let page = chart(&buckets(many, |_| totals(MOST, MOST, MOST)));
            assert!(page.contains("9,223,372,036,854,775,807"));
            chart(&buckets(many, |i| totals(MOST, 0, i)));
        }
    }

    #[test]
    fn hostile_text_is_escaped() {
        let times = Times {
            zone: &TimeZone::UTC,
            tick: &|_| HOSTILE.to_owned(),
            span: &|_| HOSTILE.to_owned(),
            href: &|_| Some("javascript:alert(1)".to_owned()),
        };
        for many in [1, 12] {
            let buckets = buckets(many, |_| totals(1, 2, 3));
            let page = over_time(HOSTILE, HOSTILE, &buckets, &times).into_string();
            check(&page);
            assert!(!page.contains("<a "));
        }
    }
}
