//! The range of time that a page is about.

use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::components::Input;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::usage::Granularity;

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Ranges to pick: what the address says, what the page says, and how many seconds.
const RANGES: [(&str, &str, i64); 6] = [
    ("15m", "15 minutes", 15 * MINUTE),
    ("1h", "1 hour", HOUR),
    ("6h", "6 hours", 6 * HOUR),
    ("24h", "24 hours", DAY),
    ("7d", "7 days", 7 * DAY),
    ("30d", "30 days", 30 * DAY),
];

/// The one that is picked where nobody did.
const USUAL: (&str, i64) = ("24h", DAY);

/// The name of a range that is told by its ends.
pub(super) const CUSTOM: &str = "custom";

/// The fields that tell of a range.
pub(super) const FIELDS: [&str; 4] = ["range", "from", "to", "zone"];

/// A range of time, and the one before it of the same length.
pub(super) struct Picked {
    name: &'static str,
    pub(super) range: Range<Timestamp>,
    pub(super) before: Range<Timestamp>,
    wrong: FieldErrors,
}

impl Picked {
    pub(super) fn of(visit: &PageContext, fields: &FormFields) -> Self {
        let now = next_second();
        let mut wrong = FieldErrors::default();
        let wanted = fields.get("range").unwrap_or(USUAL.0);
        if wanted == CUSTOM {
            let from = wrong.take("from", fields.time(visit, "from"));
            let to = wrong.take("to", fields.time(visit, "to")).unwrap_or(now);
            match from {
                Some(from) if from < to && wrong.is_empty() => {
                    return Self::new(CUSTOM, from..to, wrong);
                }
                Some(_) if wrong.is_empty() => wrong.add("to", "The end is not after the start."),
                None if wrong.is_empty() => wrong.add("from", "Say when it starts."),
                _ => {}
            }
        }
        let mut known = RANGES.iter().map(|(name, _, seconds)| (*name, *seconds));
        let (name, seconds) = known.find(|(name, _)| *name == wanted).unwrap_or(USUAL);
        let from = now.saturating_sub(SignedDuration::from_secs(seconds));
        // By whole minutes, and long ones by whole hours, as usage is kept.
        let width = if seconds > DAY {
            Granularity::Hour
        } else {
            Granularity::Minute
        };
        let from = width.floor(from.unwrap_or(Timestamp::MIN));
        Self::new(name, from..now, wrong)
    }

    fn new(name: &'static str, range: Range<Timestamp>, wrong: FieldErrors) -> Self {
        let length = range.end.duration_since(range.start);
        let start = range.start.saturating_sub(length).unwrap_or(Timestamp::MIN);
        Self {
            name,
            before: start..range.start,
            range,
            wrong,
        }
    }

    /// The choice of ranges, on the page at this address; these fields stay as they are.
    pub(super) fn choice(
        &self,
        visit: &PageContext,
        at: &str,
        fields: &FormFields,
        kept: &[&str],
    ) -> Markup {
        let kept = fields.only(kept);
        let custom = self.name == CUSTOM || !self.wrong.is_empty();
        let value = |name: &'static str| {
            let time = fields.time(visit, name).ok().flatten();
            time.map(|time| visit.field(time)).unwrap_or_default()
        };
        let input = |name, label, value: &str| {
            let input = Input::new(name, label, value).wrong(self.wrong.get(name));
            input.moment()
        };
        html! {
            .picker {
            nav .ranges aria-label="Range of time" {
                @for (name, text, _) in RANGES {
                    a href={ (at) "?" (kept.with([("range", name)]).query()) }
                        aria-current=[(self.name == name).then_some("true")] { (text) }
                }
            }
            details .custom open[custom] {
                summary { "Another range" }
                form .filters method="get" action=(at) {
                    input type="hidden" name="range" value=(CUSTOM);
                    input type="hidden" name="zone" value=(visit.zone_name());
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

/// The end of the second that it is: what is later has not happened, and fields for times know no
/// parts of seconds.
pub(super) fn next_second() -> Timestamp {
    let second = Timestamp::now().as_second().saturating_add(1);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}
