//! Usage in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use foldhash::fast::RandomState;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{MemoryBackend, MemoryConfig};
use crate::id::KeyId;
use crate::page::Page;
use crate::usage::summary::by_key;
use crate::usage::{
    Batch, Count, Filling, Granularity, InvalidLogCursor, LogCursor, LogFilter, LogQuery,
    ReadError, RecordedEvent, RecordedPage, RecordedQuery, Rollup, RollupStore, Scanned, SinkError,
    Summary, SummaryQuery, Totals, UsageEvent, UsageRange, UsageReader, UsageSink,
};

pub(super) struct Usage {
    config: MemoryConfig,
    log: Log,
    rollups: RollupStore,
    /// The batches written last: a batch is tried again before many others are.
    applied: VecDeque<Uuid>,
    /// The newest event's time when minutes were folded last.
    folded_at: Timestamp,
}

/// The newest requests in the order in which they were written: the batches as they came, so that
/// keeping one costs nothing.
#[derive(Default)]
struct Log {
    batches: VecDeque<Arc<[UsageEvent]>>,
    /// Events of the batches before these.
    before: u64,
    /// Events of all the batches.
    held: usize,
    /// The oldest of them, which count no more.
    skipped: usize,
}

impl Log {
    fn add(&mut self, batch: Arc<[UsageEvent]>, capacity: usize) {
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

    fn iter(&self) -> impl Iterator<Item = &UsageEvent> {
        let events = self.batches.iter().flat_map(|batch| batch.iter());
        events.skip(self.skipped)
    }

    /// Events in the order of recording. The place of each is its number, counted from 1.
    fn recorded(&self, after: LogCursor, wanted: usize) -> Result<Scanned, InvalidLogCursor> {
        let end = self.before + self.held as u64;
        let seen = after.place().checked_sub(self.before);
        let seen = seen.map_or(self.skipped, |seen| self.skipped.max(seen as usize));
        if after.place() > end || after.event().is_some() {
            return Err(InvalidLogCursor);
        }
        let events = self.batches.iter().flat_map(|batch| batch.iter());
        let places = (self.before + 1)..;
        let read = places.zip(events).skip(seen).take(wanted);
        let events: Vec<_> = read
            .map(|(place, event)| RecordedEvent {
                event: event.clone(),
                cursor: LogCursor::new(place),
            })
            .collect();
        let cursor = events.last().map_or(after, |last| last.cursor);
        let is_all = events.is_empty() || cursor.place() == end;
        Ok(Scanned {
            events,
            cursor,
            is_all,
            dropped: self.before + self.skipped as u64,
        })
    }
}

/// Ids of batches remembered, so that a batch counts once. The oldest is forgotten for another: a batch that is
/// tried again after so many others, as from a spool, counts twice.
const APPLIED: usize = 1_024;
/// How often minutes are folded, by the events' own time.
const FOLD_EVERY: SignedDuration = SignedDuration::from_mins(10);

impl Usage {
    pub(super) fn new(config: MemoryConfig) -> Self {
        Self {
            config,
            log: Log::default(),
            rollups: RollupStore::new(),
            applied: VecDeque::new(),
            folded_at: Timestamp::MIN,
        }
    }

    /// Writes a batch unless it was written; whether it was new.
    fn write(&mut self, batch: &Batch, now: Timestamp) -> bool {
        if self.applied.contains(&batch.id) {
            return false;
        }
        if self.applied.len() == APPLIED {
            self.applied.pop_front();
        }
        self.applied.push_back(batch.id);
        self.rollups.add_events(&batch.events, Granularity::Minute);
        let keep = self.config.log;
        let logged = match batch.events.iter().all(|event| keep.keeps(event)) {
            true => batch.events.clone(),
            false => {
                let logged = batch.events.iter().filter(|event| keep.keeps(event));
                logged.cloned().collect()
            }
        };
        self.log.add(logged, self.config.log_capacity);
        if let Some(newest) = batch.events.iter().map(|event| event.time).max() {
            // An event of the future must not make all others old.
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
        let minutes = self.config.minutes_kept;
        let quarters = self.config.quarters_kept.max(minutes);
        if let Some(before) = before(minutes).filter(|_| minutes < quarters) {
            self.rollups.fold(before, Granularity::QuarterHour);
        }
        if let Some(before) = before(quarters) {
            self.rollups.fold(before, Granularity::Hour);
        }
        if let Some(before) = before(self.config.hours_kept) {
            self.rollups.prune(before);
        }
    }

    /// The sums that may belong to a range, to be added up without the lock held.
    fn around(&self, range: &UsageRange) -> RollupStore {
        // The widest bucket that may hold the range's beginning starts an hour before it at most.
        let hour = SignedDuration::from_hours(1);
        let from = range.from.map_or(Timestamp::MIN, |from| {
            from.checked_sub(hour).unwrap_or(Timestamp::MIN)
        });
        let starts = from..range.to.unwrap_or(Timestamp::MAX);
        self.rollups.snapshot(range.key, starts)
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
        let now = self.shared.clock.now().timestamp();
        if self.usage().write(batch, now) {
            let mut used: HashMap<KeyId, Timestamp, RandomState> = HashMap::default();
            for event in batch.events.iter() {
                if let Some(key) = event.key {
                    let last = used.entry(key).or_insert(event.time);
                    *last = event.time.max(*last);
                }
            }
            let mut keys = self.keys();
            for (key, last) in used {
                keys.touch(key, last);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl UsageReader for MemoryBackend {
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
        let held = self.usage().around(&query.range);
        let matching = held.iter().filter(|rollup| query.range.includes(rollup));
        let mut summary = query.spec.summarize(matching);
        // What is to come cannot have been counted.
        let now = self.shared.clock.now().timestamp();
        let mut range = query.range.clone();
        range.to = range.to.filter(|to| *to < now);
        let is_cut = |rollup: &Rollup| range.cuts(rollup) || query.spec.cuts(rollup);
        summary.exact = !held.iter().any(is_cut);
        Ok(summary)
    }

    async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let held = self.usage().around(range);
        Ok(by_key(held.iter().filter(|rollup| range.includes(rollup))))
    }

    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        let held = self.usage().around(range);
        let matching = held.iter().filter(|rollup| range.includes(rollup));
        let mut rollups: Vec<Rollup> = matching.cloned().collect();
        rollups.sort_by_key(|rollup| (rollup.start, rollup.granularity));
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

    /// Cursors end with the process.
    async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
        let mut filling = Filling::new(query);
        let usage = self.usage();
        loop {
            let scanned = usage.log.recorded(filling.cursor(), filling.wanted())?;
            if filling.add(scanned) {
                return Ok(filling.page());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::usage::SummarySpec;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    async fn write(backend: &MemoryBackend, time: &str) {
        let batch = Batch::new(vec![UsageEvent::at(at(time))]);
        backend.write(&batch).await.unwrap();
    }

    async fn count(backend: &MemoryBackend, range: UsageRange) -> u64 {
        let query = SummaryQuery::new(range, SummarySpec::new());
        let totals = backend.summary(&query).await.unwrap().totals;
        totals.total()
    }

    fn backend(config: MemoryConfig) -> MemoryBackend {
        let now = at("2026-11-10T00:00:00Z");
        MemoryBackend::with_clock(config, Clock::manual(now))
    }

    #[tokio::test]
    async fn the_bucket_at_a_ranges_edge_counts_where_it_starts() {
        let backend = backend(
            MemoryConfig::new()
                .minutes_kept(HOUR)
                .quarters_kept(3 * HOUR),
        );
        for time in ["2026-11-01T10:05:00Z", "2026-11-01T10:55:00Z"] {
            write(&backend, time).await;
        }
        let half = at("2026-11-01T10:30:00Z");
        let (later, earlier) = (UsageRange::new().from(half), UsageRange::new().to(half));
        assert_eq!(count(&backend, later.clone()).await, 1);
        assert_eq!(count(&backend, earlier.clone()).await, 1);
        // Minutes that are old enough become quarters of an hour, and those an hour.
        write(&backend, "2026-11-01T12:30:00Z").await;
        let exact = async |range: UsageRange| {
            let query = SummaryQuery::new(range, SummarySpec::new());
            backend.summary(&query).await.unwrap().exact
        };
        assert_eq!(count(&backend, later).await, 2);
        assert!(exact(earlier.clone()).await);
        assert!(!exact(earlier.clone().to(at("2026-11-01T10:10:00Z"))).await);
        write(&backend, "2026-11-01T14:30:00Z").await;
        let later = UsageRange::new().from(half).to(at("2026-11-01T11:00:00Z"));
        assert_eq!(count(&backend, later.clone()).await, 0);
        assert_eq!(count(&backend, earlier).await, 2);
        let query = SummaryQuery::new(later, SummarySpec::new());
        assert!(!backend.summary(&query).await.unwrap().exact);
        assert_eq!(count(&backend, UsageRange::new()).await, 4);
    }

    #[tokio::test]
    async fn hours_are_forgotten_in_the_end() {
        let backend = backend(MemoryConfig::new().hours_kept(48 * HOUR));
        write(&backend, "2026-11-01T10:05:00Z").await;
        write(&backend, "2026-11-03T10:05:00Z").await;
        assert_eq!(count(&backend, UsageRange::new()).await, 2);
        write(&backend, "2026-11-03T11:30:00Z").await;
        assert_eq!(count(&backend, UsageRange::new()).await, 2);
        assert_eq!(backend.usage().rollups.len(), 2);
    }

    #[tokio::test]
    async fn an_event_of_the_future_makes_nothing_old() {
        let backend = backend(MemoryConfig::new().hours_kept(48 * HOUR));
        write(&backend, "2026-11-09T10:05:00Z").await;
        write(&backend, "2099-01-01T00:00:00Z").await;
        assert_eq!(count(&backend, UsageRange::new()).await, 2);
    }
}
