//! Columns over time, stacked by outcome.
//!
//! Only the columns, in a nested `viewBox`, stretch with the chart's width. Text keeps its size and stays readable on
//! all screens.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::axis::Axis;
use super::columns::{Columns, OUTCOMES, UNITS, outcomes};
use super::number::{compact, count, share};
use super::ticks::{Tick, ticks};
use super::times::Times;
use super::{empty, local, numbers, swatch};
use crate::usage::summary::{TimeBucket, Totals};

/// The vertical layout in pixels: top and height of the columns, base line of the labels, and total height.
const TOP: u64 = 8;
const HEIGHT: u64 = 180;
const LABELS: u64 = 206;
const WHOLE: u64 = 214;

/// A chart of time buckets in order. `id` must be unique on the page.
pub(in crate::dashboard) fn over_time(
    id: &str,
    title: &str,
    buckets: &[TimeBucket],
    times: &Times<'_>,
) -> Markup {
    let mut totals = Totals::default();
    for bucket in buckets {
        totals.merge(&bucket.totals);
    }
    html! {
        figure.chart.over-time {
            figcaption id={ (id) "-title" } { (title) }
            @if totals.total() == 0 {
                (empty())
            } @else {
                (plot(id, buckets, &totals, times))
                (legend(buckets, &totals, times))
                (table(buckets, &totals, times))
            }
        }
    }
}

fn plot(id: &str, buckets: &[TimeBucket], totals: &Totals, times: &Times<'_>) -> Markup {
    let most = buckets.iter().map(|bucket| bucket.totals.total()).max();
    let axis = Axis::up_to(most.unwrap_or(0));
    let columns = Columns::of(buckets.len());
    html! {
        // Not `role="img"`: screen readers do not see links in images.
        svg.plot role="group" aria-labelledby={ (id) "-title " (id) "-desc" } width="100%" height=(WHOLE) {
            desc id={ (id) "-desc" } { (description(buckets, totals, times)) }
            (grid(axis))
            svg y=(TOP) width="100%" height=(HEIGHT) viewBox={ "0 0 " (columns.width()) " " (UNITS) }
                preserveAspectRatio="none" {
                (columns.shapes(buckets, axis, false))
                g.unfinished { (columns.shapes(buckets, axis, true)) }
                (hits(buckets, columns, times))
            }
            (labels(&ticks(buckets, times), buckets.len()))
        }
    }
}

fn description(buckets: &[TimeBucket], totals: &Totals, times: &Times<'_>) -> String {
    let mut text = format!("Column chart stacked by outcome: {}.", amounts(totals));
    let busiest = buckets.iter().rev().max_by_key(|b| b.totals.total());
    if let Some(busiest) = busiest {
        let most = count(busiest.totals.total());
        let _ = write!(text, " Peak: {most} ({}).", (times.span)(busiest));
    }
    text
}

fn grid(axis: Axis) -> Markup {
    let lines = || axis.lines(HEIGHT).map(|(n, up)| (n, TOP + HEIGHT - up));
    html! {
        g.grid aria-hidden="true" {
            @for (n, y) in lines() {
                line.base[n == 0] x2="100%" y1=(y) y2=(y) {}
            }
        }
        g.axis aria-hidden="true" text-anchor="end" {
            @for (n, y) in lines() {
                text x="-8" y=(y) dy=".35em" { (compact(n)) }
            }
        }
    }
}

fn labels(ticks: &[Tick], columns: usize) -> Markup {
    html! {
        g.axis aria-hidden="true" text-anchor="middle" {
            @for tick in ticks {
                text class=[tick.class] x=(middle(tick.column, columns)) y=(LABELS) { (tick.label) }
            }
        }
    }
}

/// The horizontal center of a column as a percentage of the plot.
fn middle(column: usize, columns: usize) -> String {
    let hundredths = (2 * column + 1) * 5_000 / columns.max(1);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// Invisible strips over the whole height, so that the tooltips of small columns can be reached.
fn hits(buckets: &[TimeBucket], columns: Columns, times: &Times<'_>) -> Markup {
    html! {
        g.hits fill="none" stroke="none" stroke-width=(columns.slot()) pointer-events="stroke" {
            @for (column, bucket) in buckets.iter().enumerate() {
                @let title = html! { title { (name(bucket, times)) ": " (amounts(&bucket.totals)) } };
                @let strip = format!("M{} 0v{UNITS}", columns.middle(column));
                @match local(link(bucket, times).as_deref()) {
                    // Keyboard users reach the same links in the table.
                    Some(href) => a href=(href) tabindex="-1" { (title) path d=(strip) {} },
                    None => path d=(strip) { (title) },
                }
            }
        }
    }
}

/// The link to a bucket's requests, unless it is empty.
fn link(bucket: &TimeBucket, times: &Times<'_>) -> Option<String> {
    let any = bucket.totals.total() > 0;
    any.then(|| (times.href)(bucket)).flatten()
}

fn legend(buckets: &[TimeBucket], totals: &Totals, times: &Times<'_>) -> Markup {
    let outcomes = outcomes(totals);
    let unfinished = buckets.iter().find(|bucket| bucket.is_partial);
    html! {
        ul.legend {
            @for ((class, outcome), n) in OUTCOMES.into_iter().zip(outcomes) {
                li {
                    (swatch(class)) span { (outcome) }
                    span.number { (count(n)) } span.number { (share(n, totals.total())) }
                }
            }
            @if let Some(bucket) = unfinished {
                li.unfinished { (swatch("completed")) span { (name(bucket, times)) } }
            }
        }
    }
}

/// All buckets with requests. Keyboards and screen readers use it instead of the columns.
fn table(buckets: &[TimeBucket], totals: &Totals, times: &Times<'_>) -> Markup {
    let rows = html! {
        @for bucket in buckets.iter().filter(|bucket| bucket.totals.total() > 0) {
            (row(&name(bucket, times), &bucket.totals, link(bucket, times)))
        }
        (row("Total", totals, None))
    };
    let heads = ["Time", "Requests", "Completed", "Rate limited", "Failed"];
    numbers(&heads, rows)
}

fn row(name: &str, totals: &Totals, href: Option<String>) -> Markup {
    html! {
        tr {
            th scope="row" {
                @match local(href.as_deref()) { Some(href) => a href=(href) { (name) }, None => (name) }
            }
            td { (count(totals.total())) }
            @for n in outcomes(totals) { td { (count(n)) } }
        }
    }
}

fn name(bucket: &TimeBucket, times: &Times<'_>) -> String {
    let so_far = if bucket.is_partial { " so far" } else { "" };
    (times.span)(bucket) + so_far
}

/// Counts as text: `1,204 requests, 3 failed, 12 rate limited`.
fn amounts(totals: &Totals) -> String {
    let mut text = match totals.total() {
        0 => return "no requests".to_owned(),
        1 => "1 request".to_owned(),
        n => format!("{} requests", count(n)),
    };
    for (n, outcome) in [
        (totals.failed(), "failed"),
        (totals.rate_limited(), "rate limited"),
    ] {
        if n > 0 {
            let _ = write!(text, ", {} {outcome}", count(n));
        }
    }
    text
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
