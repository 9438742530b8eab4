//! The request log in the order of recording, for programs that sync it into another system.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::UsageEvent;
use super::log::{LogFilter, LogQuery};
use crate::page::whole_micros;

/// A position in the request log in the order of recording, for [`UsageReader::recorded`](super::UsageReader::recorded).
///
/// As text it is opaque to clients. A cursor belongs to one log: that of another database is another log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LogCursor {
    place: u64,
    within: Option<(Timestamp, Uuid)>,
}

/// A text that is not a cursor, or a cursor of another log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this log")]
pub struct InvalidLogCursor;

impl LogCursor {
    /// Before the first event.
    pub const START: Self = Self {
        place: 0,
        within: None,
    };

    /// After the event or the batch at this place, counted from 1. Backends number events or batches in the order in
    /// which readers can see them.
    pub fn new(place: u64) -> Self {
        let within = None;
        Self { place, within }
    }

    /// After this event of the batch at this place, whose events are ordered by time and then by id.
    pub fn within(place: u64, event: &UsageEvent) -> Self {
        let within = Some((whole_micros(event.time), event.id));
        Self { place, within }
    }

    /// The place of the last event or batch that was read.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// The time and the id of the last event that was read of a batch; `None` if all of it was.
    pub fn event(&self) -> Option<(Timestamp, Uuid)> {
        self.within
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.within {
            None => write!(f, "{}", self.place),
            Some((time, id)) => write!(f, "{}.{}.{id}", self.place, time.as_microsecond()),
        }
    }
}

impl FromStr for LogCursor {
    type Err = InvalidLogCursor;

    fn from_str(text: &str) -> Result<Self, InvalidLogCursor> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next();
        let place = part().and_then(|place| place.parse().ok());
        let within = match (part(), part()) {
            (None, _) => None,
            (Some(micros), Some(id)) => {
                let time = micros.parse().ok().map(Timestamp::from_microsecond);
                let time = time.and_then(Result::ok).ok_or(InvalidLogCursor)?;
                Some((time, id.parse().map_err(|_| InvalidLogCursor)?))
            }
            _ => return Err(InvalidLogCursor),
        };
        let place = place.ok_or(InvalidLogCursor)?;
        let cursor = Self { place, within };
        // Numbers can be written in several ways, cursors in one. Databases have no larger numbers.
        let is_one = cursor.to_string() == text && i64::try_from(place).is_ok();
        is_one.then_some(cursor).ok_or(InvalidLogCursor)
    }
}

impl Serialize for LogCursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogCursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which recorded events to read, and after which cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RecordedQuery {
    /// Only events that match. Starts from all of them.
    pub filter: LogFilter,
    /// The most events to answer: 1,000 by default, and brought into the bounds of 1 and
    /// [`LogQuery::MAX_LIMIT`].
    pub limit: usize,
    /// The cursor that the page before ended with; [`LogCursor::START`] by default.
    pub after: LogCursor,
}

impl Default for RecordedQuery {
    fn default() -> Self {
        Self {
            filter: LogFilter::default(),
            limit: LogQuery::MAX_LIMIT,
            after: LogCursor::START,
        }
    }
}

impl RecordedQuery {
    /// All events after this cursor.
    pub fn after(cursor: LogCursor) -> Self {
        Self {
            after: cursor,
            ..Self::default()
        }
    }

    /// Only events that match.
    #[must_use]
    pub fn filter(mut self, filter: LogFilter) -> Self {
        self.filter = filter;
        self
    }

    /// The most events to answer.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The number of events to put on a page.
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, LogQuery::MAX_LIMIT)
    }
}

/// An event and its position in the order of recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// The event.
    #[serde(flatten)]
    pub event: UsageEvent,
    /// Continue after it with this cursor.
    pub cursor: LogCursor,
}

/// Events in the order of recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPage {
    /// The events in recording order, oldest first.
    pub items: Vec<RecordedEvent>,
    /// Continue with this cursor, also where there are no items.
    pub cursor: LogCursor,
    /// Whether more events may be available now. A page with few items or none may have more behind it: backends
    /// bound how many events they search for those that match.
    pub more: bool,
    /// Whether events after the query's cursor may have been dropped from the log before this page was read, by
    /// retention: reconcile with summaries then, which have all of them. Always `false` from [`LogCursor::START`].
    #[serde(default)]
    pub has_gap: bool,
}

/// Events in the order of recording, read from a backend and not filtered yet.
pub(crate) struct Scanned {
    pub(crate) events: Vec<RecordedEvent>,
    /// The end of what was read.
    pub(crate) cursor: LogCursor,
    /// Whether all there is was read.
    pub(crate) is_all: bool,
    /// Up to which place events have been dropped from the log.
    pub(crate) dropped: u64,
}

/// A page that is being filled.
pub(crate) struct Filling<'a> {
    query: &'a RecordedQuery,
    page: RecordedPage,
    scans: u8,
}

impl<'a> Filling<'a> {
    /// How often a backend is read for one page.
    const MOST_SCANS: u8 = 8;

    pub(crate) fn new(query: &'a RecordedQuery) -> Self {
        let page = RecordedPage {
            items: Vec::new(),
            cursor: query.after,
            more: true,
            has_gap: false,
        };
        let scans = 0;
        Self { query, page, scans }
    }

    /// After which cursor to read.
    pub(crate) fn cursor(&self) -> LogCursor {
        self.page.cursor
    }

    /// How many events to read at once.
    pub(crate) fn wanted(&self) -> usize {
        if self.query.filter == LogFilter::default() {
            self.query.page_size() - self.page.items.len()
        } else {
            LogQuery::MAX_LIMIT
        }
    }

    /// Adds what matches; whether the page is complete.
    pub(crate) fn add(&mut self, scanned: Scanned) -> bool {
        let after = self.query.after;
        // Of a batch that was read in part, the rest may have been dropped.
        let seen = after.place + u64::from(after.within.is_none());
        self.page.has_gap |= after != LogCursor::START && seen <= scanned.dropped;
        for recorded in scanned.events {
            self.page.cursor = recorded.cursor;
            if self.query.filter.matches(&recorded.event) {
                self.page.items.push(recorded);
                if self.page.items.len() == self.query.page_size() {
                    return true;
                }
            }
        }
        self.page.cursor = scanned.cursor;
        if scanned.is_all && scanned.cursor.place < scanned.dropped {
            // What was dropped behind it is reported once.
            self.page.cursor = LogCursor::new(scanned.dropped);
        }
        self.page.more = !scanned.is_all;
        self.scans += 1;
        scanned.is_all || self.scans == Self::MOST_SCANS
    }

    pub(crate) fn page(self) -> RecordedPage {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let event = UsageEvent::at("2026-11-01T10:00:00.123456789Z".parse().unwrap());
        let cursors = [
            LogCursor::START,
            LogCursor::new(7),
            LogCursor::new(i64::MAX.cast_unsigned()),
            LogCursor::within(7, &event),
        ];
        for cursor in cursors {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in [
            "",
            "-1",
            "+1",
            "01",
            "1.",
            "1.2",
            "1.2.3",
            "1.x",
            "x",
            " 1",
            "9223372036854775808",
            "1.5.01890a5d-ac96-774b-bcce-b302099a8057.",
            "1.05.01890a5d-ac96-774b-bcce-b302099a8057",
            "1.5.01890A5D-AC96-774B-BCCE-B302099A8057",
        ] {
            assert_eq!(text.parse::<LogCursor>(), Err(InvalidLogCursor), "{text}");
        }
    }

    #[test]
    fn a_page_ends_where_the_cursor_says() {
        let scan = |places: std::ops::RangeInclusive<u64>, is_all| Scanned {
            cursor: LogCursor::new(*places.end()),
            events: places
                .map(|place| RecordedEvent {
                    event: UsageEvent::at(Timestamp::UNIX_EPOCH),
                    cursor: LogCursor::new(place),
                })
                .collect(),
            is_all,
            dropped: 0,
        };
        let query = RecordedQuery::default().limit(3);
        let mut filling = Filling::new(&query);
        assert!(!filling.add(scan(1..=2, false)));
        assert!(filling.add(scan(3..=9, true)));
        let page = filling.page();
        assert_eq!(
            (page.items.len(), page.cursor, page.more),
            (3, LogCursor::new(3), true)
        );

        let event = UsageEvent::at(Timestamp::UNIX_EPOCH);
        for (after, has_gap) in [
            (LogCursor::START, false),
            (LogCursor::new(4), true),
            (LogCursor::within(5, &event), true),
            (LogCursor::new(5), false),
            (LogCursor::within(6, &event), false),
        ] {
            let query = RecordedQuery::after(after);
            let mut filling = Filling::new(&query);
            let scanned = Scanned {
                dropped: 5,
                ..scan(7..=8, true)
            };
            assert!(filling.add(scanned));
            assert_eq!(filling.page().has_gap, has_gap, "{after}");
        }

        let nobody = RecordedQuery::default().filter(LogFilter::new().owner("nobody"));
        let mut filling = Filling::new(&nobody);
        let scans = (1..).find(|&n| filling.add(scan(n..=n, false)));
        assert_eq!(scans, Some(8));
        let page = filling.page();
        assert_eq!(
            (page.items.len(), page.cursor, page.more),
            (0, LogCursor::new(8), true)
        );
    }
}
