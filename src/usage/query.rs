//! What can be asked about usage.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::UsageEvent;
use super::outcome::{Cause, Outcome};
use super::rollup::Rollup;
use super::summary::{Summary, SummarySpec, Totals};
use super::wire::{Method, Status, StatusClass};
use crate::id::KeyId;
use crate::page::{InvalidPageToken, Page, PageToken};

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
    /// From this time on. Sums are kept by buckets of time: the bucket it lies in counts whole. Buckets
    /// are minutes, or whatever wider ones a backend folds old minutes into.
    pub from: Option<Timestamp>,
    /// Before this time; the bucket it lies in counts whole, unless it begins there.
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
        self.key.is_none_or(|key| rollup.key == Some(key))
            && self
                .owner
                .as_deref()
                .is_none_or(|owner| rollup.owner.as_deref() == Some(owner))
            && self.from.is_none_or(|from| end_of(rollup) > from)
            && self.to.is_none_or(|to| rollup.start < to)
    }
}

/// The end of a bucket of UTC.
fn end_of(rollup: &Rollup) -> Timestamp {
    let width = jiff::SignedDuration::from_secs(rollup.width.seconds());
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

/// Which requests of the log: those that match every filter that is set.
///
/// ```
/// use keytally::usage::{LogFilter, Method, StatusClass};
///
/// let failed_writes = LogFilter::new()
///     .method(Method::Post)
///     .status_class(StatusClass::ServerError);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogFilter {
    /// Of this key.
    pub key: Option<KeyId>,
    /// Of this owner's keys.
    pub owner: Option<String>,
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// Failed for this cause.
    pub cause: Option<Cause>,
    /// Of this method.
    pub method: Option<Method>,
    /// Of this endpoint.
    pub endpoint: Option<String>,
    /// Answered with this status.
    pub status: Option<Status>,
    /// Answered with a status of this class.
    pub status_class: Option<StatusClass>,
    /// About this resource.
    pub resource_id: Option<String>,
    /// The id on the wire or the event's own.
    pub request_id: Option<String>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: impl Into<$type>) -> Self {
            self.$name = Some($name.into());
            self
        }
    )*};
}

impl LogFilter {
    /// Every request.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Of this key.
        key: KeyId;
        /// Of this owner's keys.
        owner: String;
        /// From this time on.
        from: Timestamp;
        /// Before this time.
        to: Timestamp;
        /// With this outcome.
        outcome: Outcome;
        /// Failed for this cause.
        cause: Cause;
        /// Of this method.
        method: Method;
        /// Of this endpoint.
        endpoint: String;
        /// Answered with this status.
        status: Status;
        /// Answered with a status of this class.
        status_class: StatusClass;
        /// About this resource.
        resource_id: String;
        /// With this id on the wire, or this event id.
        request_id: String;
    }

    /// Whether an event passes every filter: what every backend's log agrees with.
    pub fn matches(&self, event: &UsageEvent) -> bool {
        self.key.is_none_or(|key| event.key == Some(key))
            && self
                .owner
                .as_deref()
                .is_none_or(|owner| event.owner.as_deref() == Some(owner))
            && self.from.is_none_or(|from| event.time >= from)
            && self.to.is_none_or(|to| event.time < to)
            && self.outcome.is_none_or(|outcome| event.outcome == outcome)
            && self.cause.is_none_or(|cause| event.cause == Some(cause))
            && self.method.is_none_or(|method| event.method == method)
            && self
                .endpoint
                .as_deref()
                .is_none_or(|endpoint| &*event.endpoint == endpoint)
            && self.status.is_none_or(|status| event.status == status)
            && self
                .status_class
                .is_none_or(|class| event.status.class() == class)
            && self
                .resource_id
                .as_deref()
                .is_none_or(|id| event.resource_id.as_deref() == Some(id))
            && self
                .request_id
                .as_deref()
                .is_none_or(|id| event.is_known_as(id))
    }
}

/// One page of the request log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogQuery {
    /// Which requests.
    pub filter: LogFilter,
    /// At most this many; `0` and more than [`LogQuery::MAX_LIMIT`] are brought into bounds.
    pub limit: usize,
    /// After this place.
    pub after: Option<PageToken>,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self {
            filter: LogFilter::default(),
            limit: 50,
            after: None,
        }
    }
}

impl LogQuery {
    /// Requests on one page at most.
    pub const MAX_LIMIT: usize = 1_000;

    /// The newest fifty requests that match.
    pub fn new(filter: LogFilter) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    /// So many requests a page.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The page behind this place.
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.after = Some(token);
        self
    }

    /// The number of requests to put on a page.
    pub fn page_size(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }

    /// An event's place in the log: newest first, then by id from high to low.
    pub fn place(event: &UsageEvent) -> PageToken {
        PageToken::new(event.time, event.id)
    }
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// So many.
    Exactly(u64),
    /// More than the backend cares to count.
    MoreThan(u64),
}

/// What a backend could not answer. The text of its own error is in the `source`, for logs only.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The page token is not one of this list.
    #[error(transparent)]
    Page(#[from] InvalidPageToken),
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
        }
    )*};
}

forward_to_pointee!(Arc, Box);

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::backend::MemoryBackend;
    use crate::usage::{Batch, UsageSink, Width};

    const TICK: SignedDuration = SignedDuration::from_micros(1);

    fn key(letter: &str) -> KeyId {
        letter.repeat(16).parse().unwrap()
    }

    fn event() -> UsageEvent {
        let mut event = UsageEvent::at("2026-11-01T10:00:30Z".parse().unwrap());
        event.key = Some(key("a"));
        event.owner = Some("customer-17".into());
        (event.outcome, event.cause) = (Outcome::Failed, Some(Cause::ServerError));
        event.method = Method::Post;
        event.endpoint = "/v1/postings".into();
        event.status = Status::Http(503);
        event.resource_id = Some("7".into());
        event.request_id = Some("r-1".into());
        event
    }

    #[test]
    fn an_event_matches_where_it_passes_every_filter() {
        let event = event();
        type Set = fn(LogFilter, &UsageEvent) -> LogFilter;
        // A filter that it passes, and the same one that it does not pass.
        let filters: [(Set, Set); 12] = [
            (|it, _| it.key(key("a")), |it, _| it.key(key("b"))),
            (
                |it, _| it.owner("customer-17"),
                |it, _| it.owner("customer-1"),
            ),
            (
                |it, event| it.from(event.time),
                |it, event| it.from(event.time + TICK),
            ),
            (
                |it, event| it.to(event.time + TICK),
                |it, event| it.to(event.time),
            ),
            (
                |it, _| it.outcome(Outcome::Failed),
                |it, _| it.outcome(Outcome::Completed),
            ),
            (
                |it, _| it.cause(Cause::ServerError),
                |it, _| it.cause(Cause::Refused),
            ),
            (
                |it, _| it.method(Method::Post),
                |it, _| it.method(Method::Get),
            ),
            (
                |it, _| it.endpoint("/v1/postings"),
                |it, _| it.endpoint("/v1"),
            ),
            (
                |it, _| it.status(Status::Http(503)),
                |it, _| it.status(Status::Http(500)),
            ),
            (
                |it, _| it.status_class(StatusClass::ServerError),
                |it, _| it.status_class(StatusClass::ClientError),
            ),
            (|it, _| it.resource_id("7"), |it, _| it.resource_id("70")),
            (|it, _| it.request_id("r-1"), |it, _| it.request_id("r-2")),
        ];
        let whole = filters
            .iter()
            .fold(LogFilter::new(), |filter, (passes, _)| {
                let alone = passes(LogFilter::new(), &event);
                assert!(alone.matches(&event), "{alone:?}");
                passes(filter, &event)
            });
        assert!(whole.matches(&event));
        for (_, fails) in filters {
            for filter in [LogFilter::new(), whole.clone()] {
                let filter = fails(filter, &event);
                assert!(!filter.matches(&event), "{filter:?}");
            }
        }
        let by_own_id = LogFilter::new().request_id(event.id.to_string());
        assert!(by_own_id.matches(&event));
        let bare = UsageEvent::at(event.time);
        assert!(LogFilter::new().matches(&bare) && !by_own_id.matches(&bare));
    }

    #[test]
    fn a_sum_belongs_to_a_range_that_its_bucket_touches() {
        let rollup = Rollup::of(&event(), Width::Minute);
        let (start, end) = (rollup.start, rollup.start + SignedDuration::from_mins(1));
        let all = UsageRange::new;
        let within = all().key(key("a")).owner("customer-17");
        let within = within.from(end - TICK).to(start + TICK);
        assert!(all().includes(&rollup) && within.includes(&rollup));
        for outside in [
            within.clone().key(key("b")),
            within.clone().owner("customer-1"),
            within.clone().from(end),
            within.clone().to(start),
            all().key(key("b")),
            all().owner("customer-1"),
            all().from(end),
            all().to(start),
        ] {
            assert!(!outside.includes(&rollup), "{outside:?}");
        }
    }

    #[test]
    fn a_page_has_one_to_a_thousand() {
        let of = |limit| LogQuery::new(LogFilter::new()).limit(limit);
        assert_eq!(
            [0, 1, 7, 1_001].map(|limit| of(limit).page_size()),
            [1, 1, 7, 1_000]
        );
        let token = LogQuery::place(&event());
        assert_eq!(of(7).after(token.clone()).after, Some(token));
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
    fn questions_and_batches_round_trip_through_json() {
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
        let spec = SummarySpec::new().by_key().over_time(Width::Day, zone);
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
