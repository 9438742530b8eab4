//! Charts drawn by the server: inline SVG and plain HTML, without scripts.
//!
//! The page's policy allows no inline styles. Shapes are placed by attributes; colours and fonts
//! come from the classes that the stylesheet must have:
//!
//! | class | on |
//! |---|---|
//! | `completed`, `limited`, `failed` | shapes of an outcome: `fill` |
//! | `c1` to `c6`, `other` | shapes of a slice: `fill` |
//! | `unfinished` | a group of columns whose time is not over: paler |
//! | `chart`, with `over-time`, `donut` or `bars` | the figure or table |
//! | `plot` | the SVG over time: room for labels to the left (52 px) and right (12 px), `overflow: visible` |
//! | `grid`, `base`, `axis` | its grid lines, its ground line and its labels (11 px) |
//! | `narrow`, `wide` | labels only for a chart below 720 px, and only for one from there on |
//! | `hits` | unseen strips that show a column's title; `.hits path:hover` may have a `stroke` |
//! | `ring`, `total`, `unit` | the SVG of a donut, the number in its middle and the word below it |
//! | `legend`, `swatch` | a list of what the colours stand for, and a piece of a colour |
//! | `bar` | the SVG of a bar, whose `rect` needs a `fill` |
//! | `clip` | a label that may be too long: cut with an ellipsis; its title is whole |
//! | `number` | a number in a table or legend: to the right, figures of equal width |
//! | `empty` | what stands in place of a chart without requests |

mod axis;
mod bars;
mod columns;
mod donut;
mod number;
mod over_time;
mod ticks;
mod times;

use maud::{Markup, html};

pub(in crate::dashboard) use {
    bars::{Bar, bars},
    donut::{Slice, donut},
    number::{change, count, share},
    over_time::over_time,
    times::Times,
};

/// The most rows of a table that tells a chart's numbers.
const MOST_ROWS: usize = 60;

/// What stands in place of a chart.
fn empty() -> Markup {
    html! { p.empty { "No requests in this time." } }
}

/// A piece of a colour, for legends.
fn swatch(class: &str) -> Markup {
    html! {
        svg.swatch width="10" height="10" aria-hidden="true" {
            rect class=(class) width="10" height="10" rx="2" {}
        }
    }
}

/// The most characters of a label: more are on no screen.
const LONGEST: usize = 300;

/// A label that may be cut, and that is a link if there is one. Its direction is its own.
fn label(text: &str, href: Option<&str>) -> Markup {
    let text: String = text.chars().take(LONGEST).collect();
    let title = &text;
    html! {
        @match local(href) {
            Some(href) => a.clip href=(href) title=(title) { bdi { (text) } },
            None => span.clip title=(title) { bdi { (text) } },
        }
    }
}

/// The link if it stays on this server: escaping alone would let `javascript:` through.
fn local(href: Option<&str>) -> Option<&str> {
    href.filter(|href| {
        // Browsers drop white space and take a backslash for a slash.
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
        let first = href.split(['/', '?', '#']).next().unwrap_or_default();
        !href.contains(odd) && !href.starts_with("//") && !first.contains(':')
    })
}

/// A chart's numbers as a table for those who do not see it.
fn numbers(heads: &[&str], rows: Markup) -> Markup {
    html! {
        details {
            summary { "As a table" }
            table {
                thead {
                    tr {
                        // All but the first are of numbers.
                        @for (column, head) in heads.iter().enumerate() {
                            th.number[column > 0] scope="col" { (head) }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What must never reach a page as it is.
    pub(super) const HOSTILE: &str = r#"</title><script>alert("1")</script>'&"#;

    /// Fails if a chart has hostile text in it unescaped, or anything that the policy forbids.
    pub(super) fn check(page: &str) {
        for bad in ["<script", "<style", " style=", "\"1\")", "'&\"", " onload"] {
            assert!(!page.contains(bad), "{bad} in {page}");
        }
        let long = page.split(|c: char| !c.is_ascii_digit() && c != '.');
        let decimals = long.filter_map(|number| number.split_once('.'));
        for (_, decimals) in decimals {
            assert!(decimals.len() <= 2, "{decimals}");
        }
    }

    #[test]
    fn only_links_that_stay_here_are_links() {
        for good in [
            "/keys?q=a:b",
            "?from=10:15",
            "#top",
            "keys/1",
            "./keys/a:b",
            "",
        ] {
            assert_eq!(local(Some(good)), Some(good));
        }
        let bad = [
            "javascript:alert(1)",
            "java\tscript:alert(1)",
            "JavaScript:alert(1)",
            " //evil.example",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "data:text/html,x",
        ];
        for bad in bad {
            assert_eq!(local(Some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn labels_are_escaped_in_texts_and_attributes() {
        let page = label(HOSTILE, Some("?a=\"&b=<")).into_string();
        check(&page);
        assert!(page.contains(r#"href="?a=&quot;&amp;b=&lt;""#), "{page}");
        assert!(
            page.contains(r#"title="&lt;/title&gt;&lt;script"#),
            "{page}"
        );
    }
}
