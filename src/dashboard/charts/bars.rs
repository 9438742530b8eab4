//! A table with bars, which is its own text alternative.

use maud::{Markup, html};

use super::number::{count, share};
use super::{empty, label};

/// The minimum length of a nonzero bar in hundredths of a percent: about a pixel.
const LEAST: u128 = 40;

/// A row.
#[derive(Debug, Clone)]
pub(in crate::dashboard) struct Bar {
    pub(in crate::dashboard) label: String,
    pub(in crate::dashboard) count: u64,
    /// The link to its requests. Links to other hosts are dropped.
    pub(in crate::dashboard) href: Option<String>,
}

/// A table of rows with their shares of `all`, which may include requests in no row. `head` is the head of the label
/// column.
pub(in crate::dashboard) fn bars(title: &str, head: &str, rows: &[Bar], all: u64) -> Markup {
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0);
    html! {
        @if most == 0 {
            figure.chart.bars { figcaption { (title) } (empty()) }
        } @else {
            table.chart.bars {
                caption { (title) }
                thead {
                    tr {
                        th scope="col" { (head) }
                        th.number scope="col" { "Requests" }
                        th.number scope="col" { "Share" }
                    }
                }
                tbody { @for row in rows { (line(row, most, all)) } }
            }
        }
    }
}

fn line(row: &Bar, most: u64, all: u64) -> Markup {
    html! {
        tr {
            th scope="row" { (label(&row.label, row.href.as_deref())) (bar(row.count, most)) }
            td.number { (count(row.count)) }
            td.number { (share(row.count, all)) }
        }
    }
}

/// A bar, relative to the longest one.
fn bar(n: u64, most: u64) -> Markup {
    html! {
        svg.bar width="100%" height="6" aria-hidden="true" {
            rect width=(length(n, most)) height="6" rx="2" {}
        }
    }
}

/// The relative length; at least [`LEAST`] unless zero.
fn length(n: u64, most: u64) -> String {
    let hundredths = match n {
        0 => 0,
        _ => (u128::from(n) * 10_000 / u128::from(most.max(1))).max(LEAST),
    };
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HOSTILE, check};
    use super::*;

    const MOST: u64 = i64::MAX.cast_unsigned();

    fn bar(label: &str, count: u64, href: Option<&str>) -> Bar {
        Bar {
            label: label.to_owned(),
            count,
            href: href.map(str::to_owned),
        }
    }

    fn chart(rows: &[Bar], all: u64) -> String {
        let page = bars("Top endpoints", "Endpoint", rows, all).into_string();
        check(&page);
        page
    }

    #[test]
    fn without_requests_there_is_a_notice_instead_of_a_chart() {
        for rows in [vec![], vec![bar("/a", 0, None)]] {
            let page = chart(&rows, 0);
            assert!(page.contains("No requests in this period"));
            assert!(!page.contains("<svg"));
        }
    }

    #[test]
    fn bar_lengths_are_relative_to_the_largest() {
        let page = chart(
            &[bar("/a", 1_200, Some("?endpoint=/a")), bar("/b", 300, None)],
            3_000,
        );
        for part in [
            r#"width="100.00%""#,
            r#"width="25.00%""#,
            ">1,200<",
            "40.0%",
            "10.0%",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(page.matches("<a ").count(), 1);
        assert_eq!(length(1, MOST), "0.40%");
        assert_eq!(length(MOST, MOST), "100.00%");
        assert_eq!(length(u64::MAX, u64::MAX), "100.00%");
        assert_eq!(length(0, 0), "0.00%");
    }

    #[test]
    fn hostile_text_is_escaped() {
        let rows = [
            bar(HOSTILE, 1, Some("javascript:alert(1)")),
            bar("/", MOST, Some("?a=\"<script>")),
        ];
        let page = bars(HOSTILE, HOSTILE, &rows, MOST).into_string();
        check(&page);
        assert!(!page.contains("javascript"));
    }
}
