//! Queries for recorded usage.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::UsageEvent;
use super::log::{Count, LogFilter, LogQuery};
use super::merge_backlog::MergeBacklog;
use super::recorded::{RecordedPage, RecordedQuery};
use super::rollup::Rollup;
use super::summary::{Summary, SummarySpec, Totals};
use crate::id::KeyId;
use crate::page::{InvalidPageToken, Page};

/// Reads events and rollups written by a [`UsageSink`](super::UsageSink).
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`). The required methods are
/// [`summary`](Self::summary), [`rollups`](Self::rollups), [`requests`](Self::requests) and
/// [`count`](Self::count).
#[async_trait]
pub trait UsageReader: Send + Sync + 'static {
    /// Summarizes the usage in a range.
    ///
    /// The result equals that of [`SummarySpec::summarize`] over the matching events, as long as the summary is
    /// [`exact`](Summary::exact).
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError>;

    /// Returns the totals of a range by key, as in [`Summary::by_key`]. `None` stands for anonymous requests.
    ///
    /// By default this computes a whole [`summary`](Self::summary). Backends that maintain totals by key can
    /// override it with a cheaper query.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let query = SummaryQuery::new(range.clone(), SummarySpec::new().by_key());
        Ok(self.summary(&query).await?.by_key.unwrap_or_default())
    }

    /// Returns the totals of a range by key, of these keys. Keys without requests are left out.
    ///
    /// By default this computes the [totals of all keys](Self::totals_by_key). Backends can override it with a cheaper
    /// query.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn totals_of_keys(
        &self,
        range: &UsageRange,
        keys: &[Option<KeyId>],
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let mut totals = self.totals_by_key(range).await?;
        let keys: HashSet<_> = keys.iter().collect();
        totals.retain(|key, _| keys.contains(key));
        Ok(totals)
    }

    /// Returns the rollups of a range, ordered by start time, then by their other grouping fields.
    ///
    /// The result has one rollup for each time bucket, key, owner, endpoint, method, status, outcome and cause,
    /// all in memory. Limit the range by key or time. If totals are enough, [`summary`](Self::summary) is much
    /// cheaper.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError>;

    /// Returns one page of the request log, newest first.
    ///
    /// # Errors
    ///
    /// [`ReadError::Page`] if the page token is invalid for this list, or [`ReadError::Unavailable`] if the
    /// backend fails.
    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError>;

    /// Returns the number of matching requests in the log.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError>;

    /// Returns the endpoints of recorded requests in byte order, up to a limit, to suggest them as filters.
    ///
    /// By default this computes a whole [`summary`](Self::summary). Backends can override it with a cheaper query,
    /// which may include endpoints whose usage was pruned.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn endpoints(&self, limit: usize) -> Result<Vec<String>, ReadError> {
        let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new());
        let summary = self.summary(&query).await?;
        let endpoints = summary.by_endpoint.into_keys().take(limit);
        Ok(endpoints.map(|endpoint| (*endpoint).into()).collect())
    }

    /// Returns events of the request log in recording order, oldest first, for programs that sync the log into
    /// another system, such as a billing system.
    ///
    /// An event has the time at which its request arrived, but is recorded after the request ends, or later still
    /// if it passes through a [`Spool`](super::Spool). Polling [`requests`](Self::requests) for events since the
    /// last poll therefore misses events. A program that stores [`RecordedPage::cursor`] in the same transaction
    /// as the synced events, and continues after it, reads every event in the log exactly once, even with several
    /// instances writing.
    ///
    /// ```
    /// # use std::error::Error;
    /// use keytally::usage::{LogCursor, RecordedQuery, UsageReader};
    ///
    /// /// Reads all events recorded after a cursor and returns the cursor to continue from.
    /// async fn sync(
    ///     log: &impl UsageReader,
    ///     mut cursor: LogCursor,
    /// ) -> Result<LogCursor, Box<dyn Error>> {
    ///     loop {
    ///         let page = log.recorded(&RecordedQuery::after(cursor)).await?;
    ///         // Save the events and the cursor here, in one transaction.
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
    /// [`ReadError::Unsupported`] if the backend does not implement this method (the default),
    /// [`ReadError::Cursor`] if the cursor belongs to another log, or [`ReadError::Unavailable`] if the backend
    /// fails.
    async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
        let _ = query;
        Err(ReadError::Unsupported)
    }

    /// Returns how far merging is behind, for backends that merge usage in the background after it was written. `None`
    /// for others, the default.
    ///
    /// Queries include usage that is not merged, but become slower with it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn merge_backlog(&self) -> Result<Option<MergeBacklog>, ReadError> {
        Ok(None)
    }

    /// An opaque text that changes whenever usage is recorded, so that readers can tell cheaply that nothing has
    /// changed. It may change at other times too.
    ///
    /// The default implementation returns `None`: unsupported, usage may have changed.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unavailable`] if the backend fails.
    async fn revision(&self) -> Result<Option<String>, ReadError> {
        Ok(None)
    }
}

/// A selection of usage by key, owner and time. Includes all usage by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UsageRange {
    /// The key; `None` for all keys and anonymous requests.
    pub key: Option<KeyId>,
    /// The owner of the keys; `None` for all owners.
    pub owner: Option<String>,
    /// The start of the range, inclusive; `None` for no lower bound.
    ///
    /// Usage is stored in time buckets: minutes, or hours where the backend has pruned the minutes. A bucket
    /// belongs to the range that contains its start, so no request counts in two adjacent ranges. A summary of a
    /// range that starts or ends within a bucket is not [`exact`](Summary::exact).
    pub from: Option<Timestamp>,
    /// The end of the range, exclusive; `None` for no upper bound.
    pub to: Option<Timestamp>,
}

impl UsageRange {
    /// Selects all usage.
    pub fn new() -> Self {
        Self::default()
    }

    /// Selects usage of this key.
    #[must_use]
    pub fn key(mut self, key: KeyId) -> Self {
        self.key = Some(key);
        self
    }

    /// Selects usage of this owner's keys.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Sets the start of the range, inclusive.
    #[must_use]
    pub fn from(mut self, time: Timestamp) -> Self {
        self.from = Some(time);
        self
    }

    /// Sets the end of the range, exclusive.
    #[must_use]
    pub fn to(mut self, time: Timestamp) -> Self {
        self.to = Some(time);
        self
    }

    /// Returns whether the range includes a rollup: key and owner match, and its bucket starts in the range.
    pub fn includes(&self, rollup: &Rollup) -> bool {
        self.is_of(rollup)
            && self.from.is_none_or(|from| rollup.start >= from)
            && self.to.is_none_or(|to| rollup.start < to)
    }

    /// Returns whether the range starts or ends within a rollup's time bucket.
    pub fn splits(&self, rollup: &Rollup) -> bool {
        // Event times are whole microseconds.
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

/// The end of a rollup's time bucket, in UTC.
fn end_of(rollup: &Rollup) -> Timestamp {
    let width = SignedDuration::from_secs(rollup.granularity.seconds());
    rollup.start.checked_add(width).unwrap_or(Timestamp::MAX)
}

/// A query for a [`Summary`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SummaryQuery {
    /// The usage to summarize.
    pub range: UsageRange,
    /// The optional parts of the summary.
    pub spec: SummarySpec,
}

impl SummaryQuery {
    /// Creates a query for a summary of `range` with the parts in `spec`.
    pub fn new(range: UsageRange, spec: SummarySpec) -> Self {
        Self { range, spec }
    }
}

/// An error from a [`UsageReader`]. Its message is safe to show to clients; the backend's own error is only in
/// [`source`](Error::source).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The page token is invalid for this list.
    #[error(transparent)]
    Page(#[from] InvalidPageToken),
    /// The cursor is invalid for this log.
    #[error("invalid cursor for this log")]
    Cursor,
    /// The backend does not support this query.
    #[error("the usage backend does not support this query")]
    Unsupported,
    /// The backend is unavailable or failed.
    #[error("the usage backend is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl ReadError {
    /// Wraps a backend's error as [`ReadError::Unavailable`].
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

            async fn totals_of_keys(
                &self,
                range: &UsageRange,
                keys: &[Option<KeyId>],
            ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
                (**self).totals_of_keys(range, keys).await
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

            async fn endpoints(&self, limit: usize) -> Result<Vec<String>, ReadError> {
                (**self).endpoints(limit).await
            }

            async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
                (**self).recorded(query).await
            }

            async fn merge_backlog(&self) -> Result<Option<MergeBacklog>, ReadError> {
                (**self).merge_backlog().await
            }

            async fn revision(&self) -> Result<Option<String>, ReadError> {
                (**self).revision().await
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
    fn a_rollup_belongs_to_the_range_that_contains_its_start() {
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
            assert_eq!(range.splits(&rollup), cuts, "{range:?}");
        }
    }

    /// A backend with only the required methods.
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
    async fn default_totals_by_key_equal_those_of_the_summary() {
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
    #[cfg_attr(miri, ignore = "no time zone database")]
    fn queries_and_batches_round_trip_through_json() {
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
        let spec = SummarySpec::new()
            .by_key()
            .over_time(Granularity::Day, zone);
        let query = SummaryQuery::new(UsageRange::new().owner("customer-17"), spec);
        let json = serde_json::to_string(&query).unwrap();
        assert_eq!(serde_json::from_str::<SummaryQuery>(&json).unwrap(), query);
        let batch = Batch::new(vec![UsageEvent::new(Timestamp::UNIX_EPOCH)]);
        let json = serde_json::to_string(&batch).unwrap();
        assert_eq!(serde_json::from_str::<Batch>(&json).unwrap(), batch);
        assert_eq!(
            serde_json::from_str::<SummaryQuery>("{}").unwrap(),
            SummaryQuery::default()
        );
    }
}
