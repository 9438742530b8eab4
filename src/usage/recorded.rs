//! The request log in recording order, for syncing it into another system.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::UsageEvent;
use super::log::LogFilter;
use crate::page::{PageRequest, whole_micros};
use crate::parse_error::ParseError;

/// A position in the recording order of the request log, for
/// [`UsageReader::recorded`](super::UsageReader::recorded).
///
/// Its string form is opaque to clients. A cursor is valid only for the log of the database that produced it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LogCursor {
    place: u64,
    within: Option<(Timestamp, Uuid)>,
}

const INVALID: ParseError = ParseError::new("invalid cursor");

impl LogCursor {
    /// The position before the first event.
    pub const START: Self = Self {
        place: 0,
        within: None,
    };

    /// The position after the event or batch with this number.
    ///
    /// Backends number events or batches from 1, in the order in which they become visible to readers.
    pub fn new(place: u64) -> Self {
        let within = None;
        Self { place, within }
    }

    /// The position after this event within the batch with this number. The events of a batch are ordered by time
    /// and then by id.
    pub fn within(place: u64, event: &UsageEvent) -> Self {
        let within = Some((whole_micros(event.time), event.id));
        Self { place, within }
    }

    /// The number of the last event or batch that was read.
    pub fn position(&self) -> u64 {
        self.place
    }

    /// The time and id of the last event that was read from a batch; `None` if the whole batch was read.
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
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next();
        let place = part().and_then(|place| place.parse().ok());
        let within = match (part(), part()) {
            (None, _) => None,
            (Some(micros), Some(id)) => {
                let time = micros.parse().ok().map(Timestamp::from_microsecond);
                let time = time.and_then(Result::ok).ok_or(INVALID)?;
                Some((time, id.parse().map_err(|_| INVALID)?))
            }
            _ => return Err(INVALID),
        };
        let place = place.ok_or(INVALID)?;
        let cursor = Self { place, within };
        // Accept the canonical form only. Databases cannot store numbers above `i64::MAX`.
        let is_valid = cursor.to_string() == text && i64::try_from(place).is_ok();
        is_valid.then_some(cursor).ok_or(INVALID)
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

/// A query for events in recording order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RecordedQuery {
    /// The events to include. All by default.
    pub filter: LogFilter,
    /// The maximum number of events per page. 1,000 by default; clamped to 1 to [`PageRequest::MAX_LIMIT`].
    pub limit: usize,
    /// The cursor of the previous page. [`LogCursor::START`] by default.
    pub after: LogCursor,
}

impl Default for RecordedQuery {
    fn default() -> Self {
        Self {
            filter: LogFilter::default(),
            limit: PageRequest::MAX_LIMIT,
            after: LogCursor::START,
        }
    }
}

impl RecordedQuery {
    /// Creates a query for all events after this cursor.
    pub fn after(cursor: LogCursor) -> Self {
        Self {
            after: cursor,
            ..Self::default()
        }
    }

    /// Includes only events that match the filter.
    #[must_use]
    pub fn filter(mut self, filter: LogFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Sets the maximum number of events per page.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The effective page size: [`limit`](Self::limit) clamped to 1 to [`PageRequest::MAX_LIMIT`].
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, PageRequest::MAX_LIMIT)
    }
}

/// An event and its position in recording order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// The event.
    #[serde(flatten)]
    pub event: UsageEvent,
    /// The position after this event.
    pub cursor: LogCursor,
}

/// A page of events in recording order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPage {
    /// The events in recording order, oldest first.
    pub items: Vec<RecordedEvent>,
    /// The cursor to continue from. Set even if the page is empty.
    pub cursor: LogCursor,
    /// Whether more events may be available. A short or empty page can have more after it, since backends limit
    /// how many events they scan for matches per page.
    pub more: bool,
    /// Whether the retention period may have pruned events after the query's cursor before this page was read. If
    /// so, reconcile with summaries, which include all events. Always `false` for queries from
    /// [`LogCursor::START`].
    #[serde(default)]
    pub has_gap: bool,
}

/// Events in recording order as read from a backend, before filtering.
pub(crate) struct Scanned {
    pub(crate) events: Vec<RecordedEvent>,
    /// The position after the last event scanned.
    pub(crate) cursor: LogCursor,
    /// Whether the scan reached the end of the log.
    pub(crate) is_all: bool,
    /// The highest number of an event or batch that was pruned from the log.
    pub(crate) dropped: u64,
}

/// Builds a page from one or more scans.
pub(crate) struct PageBuilder<'a> {
    query: &'a RecordedQuery,
    page: RecordedPage,
    scans: u8,
}

impl<'a> PageBuilder<'a> {
    /// The maximum number of scans for one page.
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

    /// The cursor to scan from next.
    pub(crate) fn cursor(&self) -> LogCursor {
        self.page.cursor
    }

    /// The number of events to scan next.
    pub(crate) fn wanted(&self) -> usize {
        if self.query.filter == LogFilter::default() {
            self.query.page_size() - self.page.items.len()
        } else {
            PageRequest::MAX_LIMIT
        }
    }

    /// Adds the matching events. Returns whether the page is complete.
    pub(crate) fn add(&mut self, scanned: Scanned) -> bool {
        let after = self.query.after;
        // After a partly read batch, the rest of that batch may have been pruned too.
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
            // Move past the pruned events, so that the gap is reported once.
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
    fn only_canonical_cursors_parse() {
        let event = UsageEvent::new("2026-11-01T10:00:00.123456789Z".parse().unwrap());
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
            assert_eq!(text.parse::<LogCursor>(), Err(INVALID), "{text}");
        }
    }

    #[test]
    fn a_page_ends_at_its_cursor() {
        let scan = |places: std::ops::RangeInclusive<u64>, is_all| Scanned {
            cursor: LogCursor::new(*places.end()),
            events: places
                .map(|place| RecordedEvent {
                    event: UsageEvent::new(Timestamp::UNIX_EPOCH),
                    cursor: LogCursor::new(place),
                })
                .collect(),
            is_all,
            dropped: 0,
        };
        let query = RecordedQuery::default().limit(3);
        let mut filling = PageBuilder::new(&query);
        assert!(!filling.add(scan(1..=2, false)));
        assert!(filling.add(scan(3..=9, true)));
        let page = filling.page();
        assert_eq!(
            (page.items.len(), page.cursor, page.more),
            (3, LogCursor::new(3), true)
        );

        let event = UsageEvent::new(Timestamp::UNIX_EPOCH);
        for (after, has_gap) in [
            (LogCursor::START, false),
            (LogCursor::new(4), true),
            (LogCursor::within(5, &event), true),
            (LogCursor::new(5), false),
            (LogCursor::within(6, &event), false),
        ] {
            let query = RecordedQuery::after(after);
            let mut filling = PageBuilder::new(&query);
            let scanned = Scanned {
                dropped: 5,
                ..scan(7..=8, true)
            };
            assert!(filling.add(scanned));
            assert_eq!(filling.page().has_gap, has_gap, "{after}");
        }

        let no_match = RecordedQuery::default().filter(LogFilter::new().owner("unknown"));
        let mut filling = PageBuilder::new(&no_match);
        let scans = (1..).find(|&n| filling.add(scan(n..=n, false)));
        assert_eq!(scans, Some(8));
        let page = filling.page();
        assert_eq!(
            (page.items.len(), page.cursor, page.more),
            (0, LogCursor::new(8), true)
        );
    }
}
