//! What can be asked about usage.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::UsageEvent;
use super::log::{Count, LogFilter, LogQuery};
use super::recorded::{InvalidLogCursor, RecordedPage, RecordedQuery};
use super::rollup::Rollup;
use super::summary::{Summary, SummarySpec, Totals};
use crate::id::KeyId;
use crate::page::{InvalidPageToken, Page};

/// Reads what a [`UsageSink`](super::UsageSink) has kept.
#[async_trait]
pub trait UsageReader: Send + Sync + 'static {
    /// The summary of what matches, which equals the pure function over the events that do.
    ///
    /// # Errors
    ///
    /// When the backend cannot answer.
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError>;

    /// The totals of what matches, by key: as [`Summary::by_key`] has them, where that is all that is
    /// needed. `None` stands for anonymous requests.
    ///
    /// Backends that keep sums by key answer this with far less than a whole summary.
    ///
    /// # Errors
    ///
    /// When the backend cannot answer.
    async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let query = SummaryQuery::new(range.clone(), SummarySpec::new().by_key());
        Ok(self.summary(&query).await?.by_key.unwrap_or_default())
    }

    /// The sums of what matches, ordered by time and then by the rest.
    ///
    /// The answer holds each of them: one for every bucket, key, endpoint, method and status. Bound the
    /// range by a key or by time; where totals will do, [`summary`](Self::summary) costs far less.
    ///
    /// # Errors
    ///
    /// When the backend cannot answer.
    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError>;

    /// One page of the request log, newest first.
    ///
    /// # Errors
    ///
    /// [`ReadError::Page`] when the page token is not one of this list, or when the backend cannot
    /// answer.
    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError>;

    /// How many requests in the log match.
    ///
    /// # Errors
    ///
    /// When the backend cannot answer.
    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError>;

    /// Events of the request log in the order in which they were recorded, oldest first: for programs that sync
    /// the log into another system, such as a billing system.
    ///
    /// An event is dated by its request's beginning and recorded after its end, later still from a
    /// [`Spool`](super::Spool). A program that asks [`requests`](Self::requests) for events since its last poll misses
    /// those. One that keeps [`RecordedPage::cursor`] together with what it has synced, and continues after
    /// it, reads every event that the log keeps exactly once, whatever their times and however many instances write.
    ///
    /// ```
    /// # use std::error::Error;
    /// use keytally::usage::{LogCursor, RecordedQuery, UsageReader};
    ///
    /// /// Reads all that was recorded after a cursor, and returns where to continue.
    /// async fn sync(
    ///     log: &impl UsageReader,
    ///     mut cursor: LogCursor,
    /// ) -> Result<LogCursor, Box<dyn Error>> {
    ///     loop {
    ///         let page = log.recorded(&RecordedQuery::after(cursor)).await?;
    ///         // Here: save the events and the cursor, in one transaction.
    ///         cursor = page.cursor;
    ///         if !page.more {
    ///             return Ok(cursor);
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReadError::Unsupported`] unless a backend implements this, [`ReadError::Cursor`] when the cursor is one of
    /// another log, or when the backend cannot answer.
    async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
        let _ = query;
        Err(ReadError::Unsupported)
    }
}

/// Whose usage, and from when to when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UsageRange {
    /// Of this key.
    pub key: Option<KeyId>,
    /// Of this owner's keys.
    pub owner: Option<String>,
    /// From this time on. RollupStore are kept by buckets of time, and a bucket belongs to the range in which it starts, so
    /// that no request counts in two adjacent ranges. Buckets are minutes, or hours where a backend has dropped the
    /// minutes. A summary whose range cuts a bucket is not [`exact`](Summary::exact).
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
}

impl UsageRange {
    /// Everybody's, for all time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of this key.
    #[must_use]
    pub fn key(mut self, key: KeyId) -> Self {
        self.key = Some(key);
        self
    }

    /// Of this owner's keys.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// From this time on.
    #[must_use]
    pub fn from(mut self, time: Timestamp) -> Self {
        self.from = Some(time);
        self
    }

    /// Before this time.
    #[must_use]
    pub fn to(mut self, time: Timestamp) -> Self {
        self.to = Some(time);
        self
    }

    /// Whether a sum belongs to it.
    pub fn includes(&self, rollup: &Rollup) -> bool {
        self.is_of(rollup)
            && self.from.is_none_or(|from| rollup.start >= from)
            && self.to.is_none_or(|to| rollup.start < to)
    }

    /// Whether it begins or ends within a rollup.
    pub fn cuts(&self, rollup: &Rollup) -> bool {
        // Times of events are whole microseconds.
        let last = end_of(rollup).saturating_sub(SignedDuration::from_micros(1));
        let last = last.unwrap_or(rollup.start);
        let is_within = |edge: Timestamp| rollup.start < edge && edge <= last;
        let mut edges = self.from.into_iter().chain(self.to);
        self.is_of(rollup) && edges.any(is_within)
    }

    fn is_of(&self, rollup: &Rollup) -> bool {
        let owner = self.owner.as_deref();
        self.key.is_none_or(|key| rollup.key == Some(key))
            && owner.is_none_or(|owner| rollup.owner.as_deref() == Some(owner))
    }
}

/// The end of a bucket of UTC.
fn end_of(rollup: &Rollup) -> Timestamp {
    let width = SignedDuration::from_secs(rollup.granularity.seconds());
    rollup.start.checked_add(width).unwrap_or(Timestamp::MAX)
}

/// Which usage to sum up, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SummaryQuery {
    /// Whose, and from when to when.
    pub range: UsageRange,
    /// What to tell besides the totals.
    pub spec: SummarySpec,
}

impl SummaryQuery {
    /// Sums up this range in this way.
    pub fn new(range: UsageRange, spec: SummarySpec) -> Self {
        Self { range, spec }
    }
}

/// What a backend could not answer. The text of its own error is in the `source`, for logs only.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The page token is not one of this list.
    #[error(transparent)]
    Page(#[from] InvalidPageToken),
    /// The cursor is not one of this log.
    #[error(transparent)]
    Cursor(#[from] InvalidLogCursor),
    /// The backend does not have what was asked for.
    #[error("the usage backend does not support this")]
    Unsupported,
    /// The backend cannot answer.
    #[error("the usage backend is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl ReadError {
    /// Wraps a backend's own error.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }
}

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: UsageReader + ?Sized> UsageReader for $pointer<S> {
            async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
                (**self).summary(query).await
            }

            async fn totals_by_key(
                &self,
                range: &UsageRange,
            ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
                (**self).totals_by_key(range).await
            }

            async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
                (**self).rollups(range).await
            }

            async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
                (**self).requests(query).await
            }

            async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
                (**self).count(filter).await
            }

            async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
                (**self).recorded(query).await
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::usage::log::tests::{TICK, event, key};
    use crate::usage::{Batch, Granularity, UsageSink};

    #[test]
    fn a_rollup_belongs_to_the_range_in_which_it_starts() {
        let rollup = Rollup::of(&event(), Granularity::Minute);
        let (start, end) = (rollup.start, rollup.start + SignedDuration::from_mins(1));
        let all = UsageRange::new;
        let within = all().key(key("a")).owner("customer-17");
        let within = within.from(start).to(start + TICK);
        assert!(all().includes(&rollup) && within.includes(&rollup));
        for outside in [
            within.clone().key(key("b")),
            within.clone().owner("customer-1"),
            within.clone().from(start + TICK),
            within.clone().to(start),
            all().key(key("b")),
            all().owner("customer-1"),
            all().from(end),
            all().to(start),
        ] {
            assert!(!outside.includes(&rollup), "{outside:?}");
        }
        for (range, cuts) in [
            (all(), false),
            (all().from(start).to(end), false),
            (all().from(start + TICK), true),
            (all().to(end - TICK), true),
            (all().to(start), false),
            (all().key(key("b")).to(end - TICK), false),
        ] {
            assert_eq!(range.cuts(&rollup), cuts, "{range:?}");
        }
    }

    /// A backend that keeps no sums by key.
    struct Plain(MemoryBackend);

    #[async_trait]
    impl UsageReader for Plain {
        async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
            self.0.summary(query).await
        }

        async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
            self.0.rollups(range).await
        }

        async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
            self.0.requests(query).await
        }

        async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
            self.0.count(filter).await
        }
    }

    #[tokio::test]
    async fn totals_by_key_are_those_of_the_summary() {
        let backend = MemoryBackend::new();
        let mut events = vec![event(), event(), event()];
        events[1].key = Some(key("b"));
        events[2].key = None;
        backend.write(&Batch::new(events)).await.unwrap();
        let range = UsageRange::new();
        let totals = Plain(backend.clone()).totals_by_key(&range).await.unwrap();
        let keys: Vec<_> = totals.keys().copied().collect();
        assert_eq!(keys, [None, Some(key("a")), Some(key("b"))]);
        assert!(totals.values().all(|totals| totals.failed() == 1));
        assert_eq!(totals, backend.totals_by_key(&range).await.unwrap());
    }

    #[test]
    #[cfg_attr(miri, ignore = "time zones are not found there")]
    fn questions_and_batches_round_trip_through_json() {
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
        let spec = SummarySpec::new()
            .by_key()
            .over_time(Granularity::Day, zone);
        let query = SummaryQuery::new(UsageRange::new().owner("customer-17"), spec);
        let json = serde_json::to_string(&query).unwrap();
        assert_eq!(serde_json::from_str::<SummaryQuery>(&json).unwrap(), query);
        let batch = Batch::new(vec![UsageEvent::at(Timestamp::UNIX_EPOCH)]);
        let json = serde_json::to_string(&batch).unwrap();
        assert_eq!(serde_json::from_str::<Batch>(&json).unwrap(), batch);
        assert_eq!(
            serde_json::from_str::<SummaryQuery>("{}").unwrap(),
            SummaryQuery::default()
        );
    }
}
