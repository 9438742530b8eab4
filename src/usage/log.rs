//! Questions about the request log: which requests, and which page of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::UsageEvent;
use super::outcome::{Cause, Outcome};
use super::wire::{Method, Status, StatusClass};
use crate::id::KeyId;
use crate::page::PageToken;

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

#[cfg(test)]
pub(super) mod tests {
    use jiff::SignedDuration;

    use super::*;

    pub(in crate::usage) const TICK: SignedDuration = SignedDuration::from_micros(1);

    pub(in crate::usage) fn key(letter: &str) -> KeyId {
        letter.repeat(16).parse().unwrap()
    }

    pub(in crate::usage) fn event() -> UsageEvent {
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
    fn a_page_has_one_to_a_thousand() {
        let of = |limit| LogQuery::new(LogFilter::new()).limit(limit);
        assert_eq!(
            [0, 1, 7, 1_001].map(|limit| of(limit).page_size()),
            [1, 1, 7, 1_000]
        );
        let token = LogQuery::place(&event());
        assert_eq!(of(7).after(token.clone()).after, Some(token));
    }
}
