//! Writing and reading usage in the in-memory backend.

use std::collections::BTreeMap;

use super::backend::MemoryBackend;
use crate::backend::key_activity::KeyActivity;
use crate::id::KeyId;
use crate::page::Page;
use crate::usage::summary::by_key;
use crate::usage::{
    Batch, Count, EventRef, LogFilter, LogQuery, PageBuilder, ReadError, RecordedPage,
    RecordedQuery, Rollup, SinkError, Summary, SummaryQuery, Totals, UsageEvent, UsageRange,
    UsageReader, UsageSink,
};
use async_trait::async_trait;

#[async_trait]
impl UsageSink for MemoryBackend {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let now = self.shared.clock.now().timestamp();
        if self.usage().write(batch, now) {
            let request = |event: EventRef<'_>| {
                let fields = event.fields();
                let is_rejected = fields.rejection_reason.is_some();
                Some((event.attributed()?.key?, fields.time, is_rejected))
            };
            let requests = || batch.rows().iter().filter_map(request);
            let mut keys = self.keys();
            for (key, activity) in KeyActivity::of_batch(requests, now.as_microsecond()) {
                keys.add_activity(key, &activity);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl UsageReader for MemoryBackend {
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
        let rollups = self.usage().around(&query.range);
        let matching = rollups.iter().filter(|rollup| query.range.includes(rollup));
        let mut summary = query.spec.summarize(matching);
        // An end in the future cannot cut a rollup.
        let now = self.shared.clock.now().timestamp();
        let mut range = query.range.clone();
        range.to = range.to.filter(|to| *to < now);
        let is_cut = |rollup: &Rollup| range.splits(rollup) || query.spec.cuts(rollup);
        summary.exact = !rollups.iter().any(is_cut);
        Ok(summary)
    }

    async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let rollups = self.usage().around(range);
        let matching = rollups.iter().filter(|rollup| range.includes(rollup));
        Ok(by_key(matching))
    }

    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        let snapshot = self.usage().around(range);
        let matching = snapshot.iter().filter(|rollup| range.includes(rollup));
        let mut rollups: Vec<Rollup> = matching.cloned().collect();
        rollups.sort_by_key(|rollup| (rollup.start, rollup.granularity));
        Ok(rollups)
    }

    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        self.usage().requests(query)
    }

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        let usage = self.usage();
        Ok(Count::Exactly(usage.matching(filter).count() as u64))
    }

    async fn revision(&self) -> Result<Option<String>, ReadError> {
        Ok(Some(self.usage().written.to_string()))
    }

    /// Cursors are valid only within the process.
    async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
        let mut filling = PageBuilder::new(query);
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

    use super::super::MemoryConfig;
    use super::*;
    use jiff::Timestamp;

    use crate::clock::Clock;
    use crate::usage::SummarySpec;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    async fn write(backend: &MemoryBackend, time: &str) {
        let batch = Batch::new(vec![UsageEvent::new(at(time))]);
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
    async fn rollup_at_the_edge_of_a_range_counts_where_it_starts() {
        let backend = backend(MemoryConfig::new().minutes(HOUR).quarter_hours(3 * HOUR));
        for time in ["2026-11-01T10:05:00Z", "2026-11-01T10:55:00Z"] {
            write(&backend, time).await;
        }
        let half = at("2026-11-01T10:30:00Z");
        let (later, earlier) = (UsageRange::new().from(half), UsageRange::new().to(half));
        assert_eq!(count(&backend, later.clone()).await, 1);
        assert_eq!(count(&backend, earlier.clone()).await, 1);
        // Old minutes are merged into quarters of an hour, and those into hours.
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
    async fn hours_are_pruned() {
        let backend = backend(MemoryConfig::new().hours(48 * HOUR));
        write(&backend, "2026-11-01T10:05:00Z").await;
        write(&backend, "2026-11-03T10:05:00Z").await;
        assert_eq!(count(&backend, UsageRange::new()).await, 2);
        write(&backend, "2026-11-03T11:30:00Z").await;
        assert_eq!(count(&backend, UsageRange::new()).await, 2);
        assert_eq!(backend.usage().rollups.len(), 2);
    }

    #[tokio::test]
    async fn future_event_does_not_age_others() {
        let backend = backend(MemoryConfig::new().hours(48 * HOUR));
        write(&backend, "2026-11-09T10:05:00Z").await;
        write(&backend, "2099-01-01T00:00:00Z").await;
        assert_eq!(count(&backend, UsageRange::new()).await, 2);
    }
}
