//! The plot of a chart over time: axes, shapes, and tooltips with links.
//!
//! Only the shapes, in a nested `viewBox`, stretch with the chart's width. Text keeps its size and stays readable on all
//! screens.

use maud::{Markup, html};

use super::columns::{Columns, UNITS};
use super::local;
use super::ticks::{Tick, ticks};
use super::times::Times;
use crate::usage::summary::TimeBucket;

/// The vertical layout in pixels: top and height of the shapes, base line of the labels, and total height.
const TOP: u64 = 8;
pub(super) const HEIGHT: u64 = 180;
const LABELS: u64 = 206;
const WHOLE: u64 = 214;

/// Time buckets in order, and a vertical axis.
pub(super) struct Plot<'a> {
    /// Unique on the page. The element with the suffix `-title` is the label.
    pub(super) id: &'a str,
    pub(super) buckets: &'a [TimeBucket],
    /// The label of every grid line and its distance from the bottom, for this [`HEIGHT`].
    pub(super) lines: Vec<(String, u64)>,
    pub(super) times: &'a Times<'a>,
}

impl Plot<'_> {
    /// The plot with shapes in the `viewBox` of [`Columns`]. `strip` returns the tooltip of a bucket and its link.
    pub(super) fn svg(
        &self,
        description: &str,
        shapes: &Markup,
        strip: &dyn Fn(usize) -> (String, Option<String>),
    ) -> Markup {
        let id = self.id;
        let columns = Columns::of(self.buckets.len());
        html! {
            // Not `role="img"`: screen readers do not see links in images.
            svg.plot role="group" aria-labelledby={ (id) "-title " (id) "-desc" } width="100%" height=(WHOLE) {
                desc id={ (id) "-desc" } { (description) }
                (self.grid())
                svg y=(TOP) width="100%" height=(HEIGHT) viewBox={ "0 0 " (columns.width()) " " (UNITS) }
                    preserveAspectRatio="none" {
                    (shapes)
                    (self.hits(columns, strip))
                }
                (labels(&ticks(self.buckets, self.times), self.buckets.len()))
            }
        }
    }

    fn grid(&self) -> Markup {
        let lines = || {
            let lines = self.lines.iter();
            lines.map(|(label, up)| (label, TOP + HEIGHT - up))
        };
        html! {
            g.grid aria-hidden="true" {
                @for (_, y) in lines() {
                    line.base[y == TOP + HEIGHT] x2="100%" y1=(y) y2=(y) {}
                }
            }
            g.axis aria-hidden="true" text-anchor="end" {
                @for (label, y) in lines() {
                    text x="-8" y=(y) dy=".35em" { (label) }
                }
            }
        }
    }

    /// Invisible strips over the whole height, so that the tooltips of small shapes can be reached.
    fn hits(&self, columns: Columns, strip: &dyn Fn(usize) -> (String, Option<String>)) -> Markup {
        html! {
            g.hits fill="none" stroke="none" stroke-width=(columns.slot()) pointer-events="stroke" {
                @for (column, bucket) in self.buckets.iter().enumerate() {
                    @let (text, href) = strip(column);
                    @let title = html! { title { (name(bucket, self.times)) ": " (text) } };
                    @let strip = format!("M{} 0v{UNITS}", columns.middle(column));
                    @match local(href.as_deref()) {
                        // Keyboard users reach the same links in the table.
                        Some(href) => a href=(href) tabindex="-1" { (title) path d=(strip) {} },
                        None => path d=(strip) { (title) },
                    }
                }
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

/// The label of a bucket.
pub(super) fn name(bucket: &TimeBucket, times: &Times<'_>) -> String {
    let so_far = if bucket.is_partial { " so far" } else { "" };
    (times.span)(bucket) + so_far
}
