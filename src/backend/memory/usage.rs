//! The usage data of the in-memory backend.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::config::MemoryConfig;
use crate::page::Page;
use crate::usage::{
    Batch, EventRef, EventRows, Granularity, LogCursor, LogFilter, LogQuery, LogSampling,
    ReadError, RecordedEvent, RollupStore, Scanned, UsageEvent, UsageRange,
};

pub(super) struct Usage {
    config: MemoryConfig,
    pub(super) log: Log,
    pub(super) rollups: RollupStore,
    /// The ids of recently written batches, to detect retries.
    applied: VecDeque<Uuid>,
    /// The number of batches written.
    pub(super) written: u64,
    /// The time of the newest event when rollups were last merged and pruned.
    folded_at: Timestamp,
}

/// The request log: the most recent batches in recording order. Batches are shared, not copied.
#[derive(Default)]
pub(super) struct Log {
    batches: VecDeque<Arc<EventRows>>,
    /// The number of events in removed batches.
    before: u64,
    /// The number of events in `batches`.
    held: usize,
    /// The number of events at the front that exceed the capacity.
    skipped: usize,
}

impl Log {
    fn add(&mut self, batch: Arc<EventRows>, capacity: usize) {
        if batch.is_empty() {
            return;
        }
        self.held += batch.len();
        self.batches.push_back(batch);
        self.skipped = self.held.saturating_sub(capacity);
        while let Some(oldest) = self.batches.front()
            && oldest.len() <= self.skipped
        {
            self.before += oldest.len() as u64;
            self.held -= oldest.len();
            self.skipped -= oldest.len();
            self.batches.pop_front();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = EventRef<'_>> {
        let events = self.batches.iter().flat_map(|batch| batch.iter());
        events.skip(self.skipped)
    }

    /// The events after a cursor, in recording order. The position of an event is its number, counted from 1.
    pub(super) fn recorded(&self, after: LogCursor, wanted: usize) -> Result<Scanned, ReadError> {
        let end = self.before + self.held as u64;
        let seen = after.position().checked_sub(self.before);
        let seen = seen.map_or(self.skipped, |seen| self.skipped.max(seen as usize));
        if after.position() > end || after.event().is_some() {
            return Err(ReadError::Cursor);
        }
        let events = self.batches.iter().flat_map(|batch| batch.iter());
        let positions = (self.before + 1)..;
        let read = positions.zip(events).skip(seen).take(wanted);
        let events: Vec<_> = read
            .map(|(position, event)| RecordedEvent {
                event: event.to_event(),
                cursor: LogCursor::new(position),
            })
            .collect();
        let cursor = events.last().map_or(after, |last| last.cursor);
        let is_all = events.is_empty() || cursor.position() == end;
        Ok(Scanned {
            events,
            cursor,
            is_all,
            dropped: self.before + self.skipped as u64,
        })
    }
}

/// The number of batch ids to remember. A batch that is retried after more than this many others, for instance
/// from a spool, is counted twice.
const APPLIED: usize = 1_024;
/// How often rollups are merged and pruned, in event time.
const FOLD_EVERY: SignedDuration = SignedDuration::from_mins(10);

impl Usage {
    pub(super) fn new(config: MemoryConfig) -> Self {
        Self {
            config,
            log: Log::default(),
            rollups: RollupStore::new(),
            applied: VecDeque::new(),
            written: 0,
            folded_at: Timestamp::MIN,
        }
    }

    /// Writes a batch unless it was already written. Returns whether it was new.
    pub(super) fn write(&mut self, batch: &Batch, now: Timestamp) -> bool {
        if self.applied.contains(&batch.id) {
            return false;
        }
        if self.applied.len() == APPLIED {
            self.applied.pop_front();
        }
        self.applied.push_back(batch.id);
        self.written += 1;
        self.rollups.add_batch(batch, Granularity::Minute);
        let (keep, rows) = (self.config.log_sampling, batch.rows());
        let logged = match keep {
            LogSampling::All => rows.clone(),
            _ => {
                let events = rows.iter().map(EventRef::to_event);
                Arc::new(events.filter(|event| keep.keeps(event)).collect())
            }
        };
        self.log.add(logged, self.config.log_capacity);
        if let Some(newest) = rows.iter().map(|event| event.fields().time).max() {
            let newest = Timestamp::from_microsecond(newest).unwrap_or(now);
            // An event in the future must not age the others.
            self.fold(newest.min(now));
        }
        true
    }

    fn fold(&mut self, newest: Timestamp) {
        if newest.duration_since(self.folded_at) < FOLD_EVERY {
            return;
        }
        self.folded_at = newest;
        let before = |kept| {
            newest
                .checked_sub(SignedDuration::try_from(kept).ok()?)
                .ok()
        };
        let minutes = self.config.minutes;
        let quarters = self.config.quarter_hours.max(minutes);
        if let Some(before) = before(minutes).filter(|_| minutes < quarters) {
            self.rollups.fold(before, Granularity::QuarterHour);
        }
        if let Some(before) = before(quarters) {
            self.rollups.fold(before, Granularity::Hour);
        }
        if let Some(before) = before(self.config.hours) {
            self.rollups.prune(before);
        }
    }

    /// A snapshot of the rollups that may belong to a range, so that they can be aggregated without holding the
    /// lock.
    pub(super) fn around(&self, range: &UsageRange) -> RollupStore {
        // The widest bucket that can contain the start of the range starts at most an hour earlier.
        let hour = SignedDuration::from_hours(1);
        let from = range.from.map_or(Timestamp::MIN, |from| {
            from.checked_sub(hour).unwrap_or(Timestamp::MIN)
        });
        let starts = from..range.to.unwrap_or(Timestamp::MAX);
        self.rollups.snapshot(range.key, starts)
    }

    pub(super) fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        let before = match &query.page.after {
            Some(token) => Some((token.time(), token.id::<Uuid>()?)),
            None => None,
        };
        let place = |event: &EventRef<'_>| (event.time(), event.fields().id);
        let mut matching: Vec<EventRef<'_>> = self
            .matching(&query.filter)
            .filter(|event| before.is_none_or(|before| place(event) < before))
            .collect();
        let limit = query.page.size();
        if matching.len() > limit + 1 {
            matching.select_nth_unstable_by_key(limit, |event| std::cmp::Reverse(place(event)));
            matching.truncate(limit + 1);
        }
        matching.sort_unstable_by_key(|event| std::cmp::Reverse(place(event)));
        let items = matching.into_iter().map(EventRef::to_event).collect();
        Ok(Page::from_surplus(items, limit, LogQuery::page_token))
    }

    /// The logged events that match a filter.
    pub(super) fn matching(&self, filter: &LogFilter) -> impl Iterator<Item = EventRef<'_>> {
        self.log.iter().filter(|event| filter.matches_row(*event))
    }
}
