//! Server-rendered charts: inline SVG and plain HTML, without scripts.
//!
//! The content security policy allows no inline styles. Shapes are positioned with attributes; colours and fonts come
//! from these classes of the style sheet:
//!
//! | class | used for |
//! |---|---|
//! | `completed`, `limited`, `failed` | shapes of an outcome: `fill` |
//! | `c1` to `c6`, `other` | shapes of a slice: `fill` |
//! | `success2`, `redirect2`, `client1`, `server2` and so on | shapes of a response status: `fill` |
//! | `unfinished` | a group of columns of time buckets that have not ended: paler, with an outline |
//! | `chart`, with `over-time`, `donut` or `bars` | the figure or table |
//! | `plot` | the SVG over time: padding for labels on the left (52 px) and right (12 px), `overflow: visible` |
//! | `lines` | a group of lines: `stroke` by class, no `fill` |
//! | `grid`, `base`, `axis` | its grid lines, its base line and its labels (11 px) |
//! | `narrow`, `wide` | labels of charts below 720 px only, and of charts from 720 px only |
//! | `hits` | invisible strips with the title of a column; `.hits path:hover` may have a `stroke` |
//! | `ring`, `total`, `unit` | the SVG of a donut, the number in its middle and the unit below it |
//! | `legend`, `swatch` | the legend, and a colour sample |
//! | `bar` | the SVG of a bar, whose `rect` needs a `fill` |
//! | `clip` | a label, which wraps in charts and is cut off elsewhere; the full text is its title |
//! | `number` | a number in a table or legend: right-aligned, tabular figures |
//! | `empty` | the notice in place of a chart without requests |

mod axis;
mod bars;
mod columns;
mod donut;
mod lines;
mod log_axis;
mod number;
mod over_time;
mod plot;
mod ticks;
mod times;

use maud::{Markup, html};

pub(in crate::dashboard) use {
    bars::{Bar, bars},
    donut::{Slice, donut},
    lines::{Line, Lines},
    number::{change, count, share, time},
    over_time::{Part, Stack, over_time, requests},
    times::Times,
};

/// The maximum number of rows of a chart's table.
const MOST_ROWS: usize = 60;

/// The notice in place of a chart without requests.
fn empty() -> Markup {
    html! { p.empty { "No requests in this period." } }
}

/// A colour sample for legends.
fn swatch(class: &str) -> Markup {
    html! {
        svg.swatch width="10" height="10" aria-hidden="true" {
            rect class=(class) width="10" height="10" rx="2" {}
        }
    }
}

/// The maximum number of characters of a label: no screen fits more.
const LONGEST: usize = 300;

/// A label, cut off if too long, with an optional link. Isolated from the direction of the text around it.
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

/// The link if it is relative to this server. Escaping alone would not stop `javascript:`.
fn local(href: Option<&str>) -> Option<&str> {
    href.filter(|href| {
        // Browsers ignore white space and treat a backslash as a slash.
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
        let first = href.split(['/', '?', '#']).next().unwrap_or_default();
        !href.contains(odd) && !href.starts_with("//") && !first.contains(':')
    })
}

/// The numbers of a chart as a table, its text alternative. All columns but the first are numeric.
fn numbers(heads: &[&str], rows: Markup) -> Markup {
    html! {
        details {
            summary { "View as table" }
            div {
                table {
                    thead { tr { @for head in heads { th scope="col" { (head) } } } }
                    tbody { (rows) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that must never appear unescaped.
    pub(super) const HOSTILE: &str = r#"</title><script>alert("1")</script>'&"#;

    /// Panics if a chart has unescaped hostile text, or anything that the content security policy forbids.
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
    fn only_relative_links_are_kept() {
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
    fn labels_are_escaped_in_text_and_attributes() {
        let page = label(HOSTILE, Some("?a=\"&b=<")).into_string();
        check(&page);
        assert!(page.contains(r#"href="?a=&quot;&amp;b=&lt;""#), "{page}");
        assert!(
            page.contains(r#"title="&lt;/title&gt;&lt;script"#),
            "{page}"
        );
    }
}
