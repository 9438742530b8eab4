//! The time range of a page.

use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::components::Input;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::usage::summary::{OverTime, TimeBucket};
use crate::usage::{Granularity, midnight};

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// A range to pick.
#[derive(Clone, Copy)]
enum Length {
    /// The last seconds.
    Last(i64),
    Today,
    Yesterday,
}

/// Ranges to pick: the value in the URL, the label and the length.
const RANGES: [(&str, &str, Length); 8] = [
    ("15m", "15 minutes", Length::Last(15 * MINUTE)),
    ("1h", "1 hour", Length::Last(HOUR)),
    ("6h", "6 hours", Length::Last(6 * HOUR)),
    ("24h", "24 hours", Length::Last(DAY)),
    ("today", "Today", Length::Today),
    ("yesterday", "Yesterday", Length::Yesterday),
    ("7d", "7 days", Length::Last(7 * DAY)),
    ("30d", "30 days", Length::Last(30 * DAY)),
];

/// The default range.
const USUAL: (&str, Length) = ("24h", Length::Last(DAY));

/// The maximum number of columns over time: more than two years of days, and wider than any screen.
const MOST_COLUMNS: usize = 800;

/// The value of a range with explicit start and end.
pub(super) const CUSTOM: &str = "custom";

/// The fields of a range.
pub(super) const FIELDS: [&str; 4] = ["range", "from", "to", "zone"];

/// A time range, and the previous one, which is at most an hour longer.
pub(super) struct TimeRange {
    name: &'static str,
    pub(super) range: Range<Timestamp>,
    pub(super) before: Range<Timestamp>,
    wrong: FieldErrors,
}

impl TimeRange {
    pub(super) fn of(context: &PageContext, fields: &FormFields) -> Self {
        let now = next_second();
        let mut wrong = FieldErrors::default();
        let range = fields.get("range").unwrap_or(USUAL.0);
        if range == CUSTOM {
            let from = wrong.take("from", fields.time(context, "from"));
            let to = wrong.take("to", fields.time(context, "to")).unwrap_or(now);
            match from {
                Some(from) if from < to && wrong.is_empty() => {
                    return Self::new(CUSTOM, from..to, wrong);
                }
                Some(_) if wrong.is_empty() => wrong.add("to", "The end must be after the start."),
                None if wrong.is_empty() => wrong.add("from", "Enter a start time."),
                _ => {}
            }
        }
        let (name, length) = preset(range).unwrap_or(USUAL);
        Self::new(name, length.until(context, now), wrong)
    }

    /// The range of these times.
    pub(super) fn between(range: Range<Timestamp>) -> Self {
        Self::new(CUSTOM, range, FieldErrors::default())
    }

    /// The range of a preset in the `range` field, and its label. `None` without one.
    pub(super) fn preset(
        context: &PageContext,
        fields: &FormFields,
    ) -> Option<(Self, &'static str)> {
        let (name, length) = preset(fields.get("range")?)?;
        let range = length.until(context, next_second());
        let mut labels = RANGES.iter().filter(|(known, ..)| *known == name);
        let label = labels.next().map_or("", |(_, label, _)| label);
        Some((Self::new(name, range, FieldErrors::default()), label))
    }

    fn new(name: &'static str, range: Range<Timestamp>, wrong: FieldErrors) -> Self {
        let length = range.end.duration_since(range.start);
        let start = range.start.saturating_sub(length).unwrap_or(Timestamp::MIN);
        Self {
            name,
            before: aligned(start, length)..range.start,
            range,
            wrong,
        }
    }

    /// Whether the range ends now.
    pub(super) fn is_current(&self) -> bool {
        self.range.end >= Timestamp::now()
    }

    /// The time buckets of a chart; `None` if there are too many.
    pub(super) fn buckets(&self, over_time: Option<&OverTime>) -> Option<Vec<TimeBucket>> {
        let buckets = over_time?
            .filled(self.range.clone(), Timestamp::now())
            .ok()?;
        (buckets.len() <= MOST_COLUMNS).then_some(buckets)
    }

    /// Renders the range picker for the page at this URL; its links keep these fields.
    pub(super) fn choice(
        &self,
        context: &PageContext,
        at: &str,
        fields: &FormFields,
        kept: &[&str],
    ) -> Markup {
        let kept = fields.only(kept);
        let presets = presets(at, &kept, Some(self.name), "");
        let custom = self.name == CUSTOM || !self.wrong.is_empty();
        let value = |name: &'static str| {
            let time = fields.time(context, name).ok().flatten();
            time.map(|time| context.field(time)).unwrap_or_default()
        };
        let input = |name, label, value: &str| {
            let input = Input::new(name, label, value).wrong(self.wrong.get(name));
            input.moment()
        };
        html! {
            .picker {
            (presets)
            details .custom open[custom] {
                summary { "Custom range" }
                form .filters method="get" action=(at) {
                    input type="hidden" name="range" value=(CUSTOM);
                    input type="hidden" name="zone" value=(context.zone_name());
                    @for (name, value) in kept.iter() { input type="hidden" name=(name) value=(value); }
                    (input("from", "From", &value("from")))
                    (input("to", "To", &value("to")))
                    button type="submit" { "Show" }
                }
            }
            }
        }
    }
}

impl Length {
    fn until(self, context: &PageContext, now: Timestamp) -> Range<Timestamp> {
        let midnight = |day| midnight(day, &context.zone);
        let today = context.zone.to_datetime(now).date();
        match self {
            Self::Last(seconds) => {
                let length = SignedDuration::from_secs(seconds);
                let from = now.saturating_sub(length).unwrap_or(Timestamp::MIN);
                aligned(from, length)..now
            }
            Self::Today => midnight(today)..now,
            Self::Yesterday => midnight(today.yesterday().unwrap_or(today))..midnight(today),
        }
    }
}

/// The start of a range of this length, aligned to stored rollups: minutes, and hours for long ranges.
fn aligned(start: Timestamp, length: SignedDuration) -> Timestamp {
    // A day that was aligned to minutes is up to a minute longer.
    let width = match length > SignedDuration::from_secs(DAY + MINUTE) {
        true => Granularity::Hour,
        false => Granularity::Minute,
    };
    width.floor(start)
}

fn preset(name: &str) -> Option<(&'static str, Length)> {
    let mut known = RANGES.iter().filter(|(known, ..)| *known == name);
    known.next().map(|(name, _, length)| (*name, *length))
}

/// Links to the presets, which keep these fields and lead to an element of the page.
pub(super) fn presets(at: &str, kept: &FormFields, current: Option<&str>, id: &str) -> Markup {
    html! {
        nav .ranges aria-label="Time range" {
            @for (name, text, _) in RANGES {
                a href={ (at) "?" (kept.with([("range", name)]).query()) (id) }
                    aria-current=[(current == Some(name)).then_some("true")] { (text) }
            }
        }
    }
}

/// The end of the current second: form fields have no fractions of seconds, and the range must include this one.
pub(super) fn next_second() -> Timestamp {
    let second = Timestamp::now().as_second().saturating_add(1);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previous_periods_are_as_long_as_the_range_and_aligned() {
        for (from, to, before) in [
            (
                "2026-11-29T13:00:00Z",
                "2026-11-30T13:00:01Z",
                "2026-11-28T12:59:00Z",
            ),
            (
                "2026-11-29T13:00:00Z",
                "2026-11-30T13:00:59Z",
                "2026-11-28T12:59:00Z",
            ),
            (
                "2026-11-23T13:00:00Z",
                "2026-11-30T13:59:59Z",
                "2026-11-16T12:00:00Z",
            ),
            (
                "2026-11-30T12:00:00Z",
                "2026-11-30T13:00:00Z",
                "2026-11-30T11:00:00Z",
            ),
        ] {
            let range = from.parse().unwrap()..to.parse().unwrap();
            let range = TimeRange::between(range);
            assert_eq!(range.before.start.to_string(), before);
            assert_eq!(range.before.end, range.range.start);
        }
    }
}
