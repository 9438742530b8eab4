//! Usage in memory.

use std::collections::VecDeque;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{MemoryBackend, MemoryConfig};
use crate::page::{Page, whole_micros};
use crate::usage::{
    Batch, Count, LogFilter, LogQuery, ReadError, Rollup, Rollups, SinkError, Summary,
    SummaryQuery, UsageEvent, UsageRange, UsageReader, UsageSink, Width,
};

pub(super) struct Usage {
    config: MemoryConfig,
    /// The newest requests in the order in which they were written.
    log: VecDeque<UsageEvent>,
    rollups: Rollups,
    /// The batches written last: a batch is tried again before many others are.
    applied: VecDeque<Uuid>,
    /// The newest event's time when minutes were folded last.
    folded_at: Timestamp,
}

/// Batches remembered, against writing one twice.
const APPLIED: usize = 1_024;
/// How often minutes are folded, by the events' own time.
const FOLD_EVERY: SignedDuration = SignedDuration::from_mins(10);

impl Usage {
    pub(super) fn new(config: MemoryConfig) -> Self {
        Self {
            config,
            log: VecDeque::new(),
            rollups: Rollups::new(),
            applied: VecDeque::new(),
            folded_at: Timestamp::MIN,
        }
    }

    /// Writes a batch unless it was written; whether it was new.
    fn write(&mut self, batch: &Batch) -> bool {
        if self.applied.contains(&batch.id) {
            return false;
        }
        if self.applied.len() == APPLIED {
            self.applied.pop_front();
        }
        self.applied.push_back(batch.id);
        self.rollups.add_events(&batch.events, Width::Minute);
        let capacity = self.config.log_capacity;
        let kept = batch.events.len().min(capacity);
        let surplus = (self.log.len() + kept).saturating_sub(capacity);
        self.log.drain(..surplus);
        let newest = &batch.events[batch.events.len() - kept..];
        self.log.extend(newest.iter().map(|event| UsageEvent {
            time: whole_micros(event.time),
            ..event.clone()
        }));
        if let Some(newest) = batch.events.iter().map(|event| event.time).max() {
            self.fold(newest);
        }
        true
    }

    fn fold(&mut self, newest: Timestamp) {
        if newest.duration_since(self.folded_at) < FOLD_EVERY {
            return;
        }
        self.folded_at = newest;
        let kept = SignedDuration::try_from(self.config.minutes_kept);
        if let Some(before) = kept.ok().and_then(|kept| newest.checked_sub(kept).ok()) {
            self.rollups.fold(before, Width::Hour);
        }
    }

    /// The sums that belong to a range.
    fn within<'a>(&'a self, range: &'a UsageRange) -> Box<dyn Iterator<Item = &'a Rollup> + 'a> {
        // The widest bucket that may hold the range's beginning starts an hour before it at most.
        let hour = SignedDuration::from_hours(1);
        let from = range.from.map_or(Timestamp::MIN, |from| {
            from.checked_sub(hour).unwrap_or(Timestamp::MIN)
        });
        let starts = from..range.to.unwrap_or(Timestamp::MAX);
        let held: Box<dyn Iterator<Item = &Rollup>> = match range.key {
            Some(key) => Box::new(self.rollups.of_key(Some(key), starts)),
            None => Box::new(self.rollups.within(starts)),
        };
        Box::new(held.filter(|rollup| range.includes(rollup)))
    }

    fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        let before = match &query.after {
            Some(token) => Some((token.time(), token.id::<Uuid>()?)),
            None => None,
        };
        let place = |event: &UsageEvent| (event.time, event.id);
        let mut matching: Vec<&UsageEvent> = self
            .log
            .iter()
            .filter(|event| before.is_none_or(|before| place(event) < before))
            .filter(|event| query.filter.matches(event))
            .collect();
        let limit = query.page_size();
        if matching.len() > limit + 1 {
            matching.select_nth_unstable_by_key(limit, |event| std::cmp::Reverse(place(event)));
            matching.truncate(limit + 1);
        }
        matching.sort_unstable_by_key(|event| std::cmp::Reverse(place(event)));
        let items = matching.into_iter().cloned().collect();
        Ok(Page::from_surplus(items, limit, LogQuery::place))
    }
}

#[async_trait]
impl UsageSink for MemoryBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        if self.usage().write(batch) {
            let mut keys = self.keys();
            for event in &batch.events {
                if let Some(key) = event.key {
                    keys.touch(key, whole_micros(event.time));
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl UsageReader for MemoryBackend {
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
        let usage = self.usage();
        Ok(query.spec.summarize(usage.within(&query.range)))
    }

    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        let usage = self.usage();
        let mut rollups: Vec<Rollup> = usage.within(range).cloned().collect();
        rollups.sort_by_key(|rollup| (rollup.start, rollup.width));
        Ok(rollups)
    }

    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        self.usage().requests(query)
    }

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        let usage = self.usage();
        let matching = usage.log.iter().filter(|event| filter.matches(event));
        Ok(Count::Exactly(matching.count() as u64))
    }
}
