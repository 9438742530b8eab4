//! Donut charts.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::f64::consts::TAU;

use maud::{Markup, html};

use super::number::{compact, count, share};
use super::{MOST_ROWS, empty, label, local, numbers, swatch};

/// The maximum number of distinguishable slices.
const MOST_SLICES: usize = 6;

/// The ring in its `viewBox` of 120 by 120.
const CENTER: f64 = 60.0;
const OUTER: f64 = 56.0;
const INNER: f64 = 38.0;

/// Totals from here on are abbreviated in the middle of the ring.
const COMPACT: u128 = 1_000_000;

/// A slice of a donut.
#[derive(Debug, Clone)]
pub(in crate::dashboard) struct Slice {
    pub(in crate::dashboard) label: String,
    pub(in crate::dashboard) count: u64,
    /// The CSS class for its colour.
    pub(in crate::dashboard) class: &'static str,
    /// The link to its requests. Links to other hosts are dropped.
    pub(in crate::dashboard) href: Option<String>,
}

/// One slice, or several folded into "Other".
#[derive(Debug, Clone)]
struct Part<'a> {
    label: Cow<'a, str>,
    count: u128,
    class: &'static str,
    href: Option<&'a str>,
}

/// A donut chart with slices in the given order, and links to other views of it. `id` must be unique on the page.
pub(in crate::dashboard) fn donut(
    id: &str,
    title: &str,
    slices: &[Slice],
    views: Option<Markup>,
) -> Markup {
    let parts = folded(slices, MOST_SLICES);
    let total = parts.iter().map(|part| part.count).sum();
    html! {
        figure.chart.donut {
            figcaption id={ (id) "-title" } { (title) }
            @if total == 0 {
                (empty())
            } @else {
                @if let Some(views) = views { (views) }
                (ring(id, &parts, total))
                (legend(&parts, total))
                (table(&folded(slices, MOST_ROWS), total))
            }
        }
    }
}

/// The largest slices in the given order, and all others folded into one more part.
fn folded(slices: &[Slice], most: usize) -> Vec<Part<'_>> {
    let mut by_size: Vec<_> = (0..slices.len()).collect();
    by_size.sort_by_key(|&slice| Reverse(slices[slice].count));
    let (kept, rest) = by_size.split_at(most.min(slices.len()));
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut parts: Vec<_> = kept.iter().map(|&slice| Part::of(&slices[slice])).collect();
    if !rest.is_empty() {
        parts.push(Part {
            label: format!("Other ({})", rest.len()).into(),
            count: rest
                .iter()
                .map(|&slice| u128::from(slices[slice].count))
                .sum(),
            class: "other",
            href: None,
        });
    }
    parts
}

impl<'a> Part<'a> {
    fn of(slice: &'a Slice) -> Self {
        Self {
            label: Cow::Borrowed(&slice.label),
            count: slice.count.into(),
            class: slice.class,
            href: slice.href.as_deref(),
        }
    }
}

fn ring(id: &str, parts: &[Part<'_>], total: u128) -> Markup {
    let mut end = 0;
    let arcs = parts.iter().filter(|part| part.count > 0).map(|part| {
        let start = end;
        end += part.count;
        arc(part, [start, end], total)
    });
    let arcs: Vec<_> = arcs.collect();
    let middle = if total < COMPACT {
        count(total)
    } else {
        compact(total)
    };
    html! {
        // Not `role="img"`: screen readers do not see links in images.
        svg.ring role="group" aria-labelledby={ (id) "-title " (id) "-desc" } viewBox="0 0 120 120" {
            desc id={ (id) "-desc" } { "Donut chart of " (count(total)) " requests: " (description(parts, total)) }
            @for arc in arcs { (arc) }
            text.total aria-hidden="true" x="60" y="62" text-anchor="middle" { (middle) }
            text.unit aria-hidden="true" x="60" y="75" text-anchor="middle" { (if total == 1 { "request" } else { "requests" }) }
        }
    }
}

fn description(parts: &[Part<'_>], total: u128) -> String {
    let parts = parts.iter();
    let parts = parts.map(|part| format!("{} {}", part.label, share(part.count, total)));
    parts.collect::<Vec<_>>().join(", ")
}

fn arc(part: &Part<'_>, ends: [u128; 2], total: u128) -> Markup {
    let ends = ends.map(|end| end as f64 / total as f64);
    let path = if part.count == total {
        circles()
    } else {
        sector(ends)
    };
    let title = html! { title { (part.label) ": " (count(part.count)) " (" (share(part.count, total)) ")" } };
    html! {
        // The legend has the same links for keyboards.
        @match local(part.href) {
            Some(href) => a href=(href) tabindex="-1" { (title) path class=(part.class) d=(path) {} },
            None => path class=(part.class) d=(path) { (title) },
        }
    }
}

/// The path of a ring sector between two angles, in turns.
fn sector([start, end]: [f64; 2]) -> String {
    // Drawn in halves: SVG omits an arc whose end points coincide.
    let middle = f64::midpoint(start, end);
    format!(
        "M{}{}{}L{}{}{}Z",
        point(OUTER, start),
        to(OUTER, 1, middle),
        to(OUTER, 1, end),
        point(INNER, end),
        to(INNER, 0, middle),
        to(INNER, 0, start),
    )
}

/// The path of the full ring, without a seam.
fn circles() -> String {
    let circle = |radius, sweep| {
        format!(
            "M{}{}{}Z",
            point(radius, 0.0),
            to(radius, sweep, 0.5),
            to(radius, sweep, 0.0)
        )
    };
    // The inner circle runs the other way, which makes it a hole.
    circle(OUTER, 1) + &circle(INNER, 0)
}

/// An arc of at most half a turn to this angle, in turns.
fn to(radius: f64, sweep: u8, turn: f64) -> String {
    format!("A{radius} {radius} 0 0 {sweep} {}", point(radius, turn))
}

/// A point on a circle, clockwise from the top.
fn point(radius: f64, turn: f64) -> String {
    let (sin, cos) = (turn * TAU).sin_cos();
    format!("{:.2} {:.2}", CENTER + radius * sin, CENTER - radius * cos)
}

fn legend(parts: &[Part<'_>], total: u128) -> Markup {
    html! {
        ul.legend {
            @for part in parts {
                li {
                    (swatch(part.class)) (label(&part.label, part.href))
                    span.number { (count(part.count)) } span.number { (share(part.count, total)) }
                }
            }
        }
    }
}

fn table(parts: &[Part<'_>], total: u128) -> Markup {
    let row = |name: &str, n: u128| {
        html! {
            tr {
                th scope="row" { (name) }
                td { (count(n)) }
                td { (share(n, total)) }
            }
        }
    };
    let rows = html! {
        @for part in parts { (row(&part.label, part.count)) }
        (row("Total", total))
    };
    numbers(&["Category", "Requests", "Share"], rows)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HOSTILE, check};
    use super::*;

    const MOST: u64 = i64::MAX.cast_unsigned();

    fn slices(counts: &[u64]) -> Vec<Slice> {
        let counts = counts.iter().enumerate();
        let slice = |(i, &count)| Slice {
            label: format!("slice {i}"),
            count,
            class: "c1",
            href: Some(format!("?slice={i}")),
        };
        counts.map(slice).collect()
    }

    fn chart(slices: &[Slice]) -> String {
        let page = donut("donut", "By status", slices, None).into_string();
        check(&page);
        page
    }

    #[test]
    fn without_requests_there_is_a_notice_instead_of_a_chart() {
        for slices in [slices(&[]), slices(&[0, 0])] {
            let page = chart(&slices);
            assert!(page.contains("No requests in this period"));
            assert!(!page.contains("<svg"));
        }
    }

    #[test]
    fn a_single_slice_is_a_full_ring() {
        let page = chart(&slices(&[0, 7]));
        let ring = "M60.00 4.00A56 56 0 0 1 60.00 116.00A56 56 0 0 1 60.00 4.00ZM60.00 22.00";
        assert!(page.contains(ring), "{page}");
        assert_eq!(page.matches("<path").count(), 1);
        assert!(page.contains("100%"));
    }

    #[test]
    fn a_slice_of_almost_everything_is_drawn() {
        let path = sector([0.0, 1.0 - 1e-12]);
        assert!(path.starts_with("M60.00 4.00A56 56 0 0 1 60.00 116.00A"));
        let page = chart(&slices(&[MOST, 1]));
        assert!(page.contains("&gt;99.9%"));
        assert!(page.contains("&lt;0.1%"));
    }

    #[test]
    fn a_quarter_ends_at_a_right_angle() {
        let path = sector([0.0, 0.25]);
        assert!(path.starts_with("M60.00 4.00A") && path.contains("116.00 60.00L98.00 60.00A"));
    }

    #[test]
    fn excess_slices_are_folded_but_listed_in_the_table() {
        let page = chart(&slices(&[1, 9, 2, 8, 3, 7, 5, 6]));
        assert_eq!(page.matches("<path").count(), 7);
        assert_eq!(page.matches("<li>").count(), 7);
        assert!(page.contains("Other (2)"));
        assert_eq!(page.matches("<tr>").count(), 10);
        let parts = folded(&[], 6);
        assert!(parts.is_empty());
        let counts = slices(&[1, 9, 2, 8, 3, 7, 5, 6]);
        let parts: Vec<_> = folded(&counts, 6).iter().map(|part| part.count).collect();
        assert_eq!(parts, [9, 8, 3, 7, 5, 6, 3]);
        assert_eq!(folded(&counts[..6], 6).len(), 6);
        let page = chart(&slices(&[1; 100]));
        assert_eq!(page.matches("<tr>").count(), 63);
    }

    #[test]
    fn the_largest_counts_do_not_overflow() {
        let page = chart(&slices(&[MOST; 7]));
        assert!(page.contains("64,563,604,257,983,430,649"));
        assert!(page.contains("64.6E"));
    }

    #[test]
    fn hostile_text_is_escaped() {
        let mut slices = slices(&[3, 4]);
        slices[0].label = HOSTILE.to_owned();
        slices[0].href = Some("javascript:alert(1)".to_owned());
        slices[1].href = Some("?\"><script>".to_owned());
        let page = donut(HOSTILE, HOSTILE, &slices, None).into_string();
        check(&page);
        assert!(!page.contains("javascript"));
        assert_eq!(page.matches("<a ").count(), 2);
    }
}
