//! Queries for the request log.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::{UNMATCHED, UsageEvent};
use super::event_rows::EventRef;
use super::outcome::{Cause, Outcome, RejectionReason};
use super::wire::{Method, Status, StatusClass, StatusFilter};
use crate::id::KeyId;
use crate::page::{PageRequest, PageToken};
use crate::text::{contains_ignoring_case, endpoint_matches};

/// A filter for requests in the log. A request must match every field that is set, and any value of a list.
///
/// ```
/// use keytally::usage::{LogFilter, Method, Status, StatusClass};
///
/// // 429 or 5xx responses to POST requests.
/// let rejected_writes = LogFilter::new()
///     .method(Method::Post)
///     .status(Status::Http(429))
///     .status_class(StatusClass::ServerError);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogFilter {
    /// The key.
    pub key: Option<KeyId>,
    /// The key's owner at the time of the request.
    pub owner: Option<String>,
    /// A part of the key's owner at the time of the request, in upper or lower case.
    pub owner_contains: Option<String>,
    /// The earliest arrival time, inclusive.
    pub from: Option<Timestamp>,
    /// The latest arrival time, exclusive.
    pub to: Option<Timestamp>,
    /// The outcomes. Empty for any.
    pub outcomes: Vec<Outcome>,
    /// The cause of the failure.
    pub cause: Option<Cause>,
    /// The rejection reason.
    pub rejection_reason: Option<RejectionReason>,
    /// The request methods. Empty for any.
    pub methods: Vec<Method>,
    /// The endpoint, such as a route template.
    pub endpoint: Option<String>,
    /// A part of the endpoint, in upper or lower case, or a path that the endpoint is a route template of, such as
    /// `/v1/postings/7` of `/v1/postings/{id}`.
    pub endpoint_contains: Option<String>,
    /// The response statuses, each a code or a class. Empty for any.
    pub statuses: Vec<StatusFilter>,
    /// The resource id.
    pub resource_id: Option<String>,
    /// The client IP.
    pub client_ip: Option<IpAddr>,
    /// The request id or event id.
    pub request_id: Option<String>,
    /// The event id. At most one request has it.
    pub event_id: Option<Uuid>,
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
    /// Creates a filter that matches every request.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Matches requests of this key.
        key: KeyId;
        /// Matches requests of this owner's keys.
        owner: String;
        /// Matches requests of keys whose owner contains this text, ignoring case.
        owner_contains: String;
        /// Matches requests that arrived at or after this time.
        from: Timestamp;
        /// Matches requests that arrived before this time.
        to: Timestamp;
        /// Matches requests that failed for this cause.
        cause: Cause;
        /// Matches requests that the layer rejected for this reason.
        rejection_reason: RejectionReason;
        /// Matches requests to this endpoint.
        endpoint: String;
        /// Matches requests to endpoints that contain this text, ignoring case, or are a route template of this path.
        endpoint_contains: String;
        /// Matches requests for this resource id.
        resource_id: String;
        /// Matches requests of this client.
        client_ip: IpAddr;
        /// Matches requests with this request id or event id.
        request_id: String;
        /// Matches the request with this event id.
        event_id: Uuid;
    }

    /// Matches requests with this outcome, in addition to those with outcomes set before.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcomes.push(outcome);
        self
    }

    /// Matches requests with this method, in addition to those with methods set before.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.methods.push(method);
        self
    }

    /// Matches requests with this response status, in addition to those with statuses and classes set before.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.statuses.push(status.into());
        self
    }

    /// Matches requests whose response status is in this class, in addition to those with statuses and classes set
    /// before.
    #[must_use]
    pub fn status_class(mut self, class: StatusClass) -> Self {
        self.statuses.push(class.into());
        self
    }

    /// Returns whether an event matches every field that is set. All backends filter as this method does.
    pub fn matches(&self, event: &UsageEvent) -> bool {
        self.matches_fields(&FilterFields {
            id: event.id,
            request_id: event.request_id.as_deref(),
            key: event.key,
            owner: event.owner.as_deref(),
            time: event.time,
            method: event.method,
            endpoint: &event.endpoint,
            resource_id: event.resource_id.as_deref(),
            client_ip: event.client_ip,
            status: event.status,
            outcome: event.outcome,
            cause: event.cause,
            rejection_reason: event.rejection_reason,
        })
    }

    /// As [`matches`](Self::matches), for an event that is not converted.
    pub(crate) fn matches_row(&self, event: EventRef<'_>) -> bool {
        let (fields, attributed) = (event.fields(), event.attributed());
        self.matches_fields(&FilterFields {
            id: fields.id,
            request_id: event.request_id(),
            key: attributed.and_then(|it| it.key),
            owner: attributed.and_then(|it| it.owner.as_deref()),
            time: event.time(),
            method: fields.method,
            endpoint: event.endpoint().map_or(UNMATCHED, |endpoint| endpoint),
            resource_id: event.resource_id(),
            client_ip: fields.client_ip,
            status: fields.status,
            outcome: fields.outcome,
            cause: fields.cause,
            rejection_reason: fields.rejection_reason,
        })
    }

    #[inline]
    fn matches_fields(&self, event: &FilterFields<'_>) -> bool {
        self.key.is_none_or(|key| event.key == Some(key))
            && self
                .owner
                .as_deref()
                .is_none_or(|owner| event.owner == Some(owner))
            && self.owner_contains.as_deref().is_none_or(|part| {
                let owner = event.owner;
                owner.is_some_and(|owner| contains_ignoring_case(owner, part))
            })
            && self.from.is_none_or(|from| event.time >= from)
            && self.to.is_none_or(|to| event.time < to)
            && (self.outcomes.is_empty() || self.outcomes.contains(&event.outcome))
            && self.cause.is_none_or(|cause| event.cause == Some(cause))
            && self
                .rejection_reason
                .is_none_or(|reason| event.rejection_reason == Some(reason))
            && (self.methods.is_empty() || self.methods.contains(&event.method))
            && self
                .endpoint
                .as_deref()
                .is_none_or(|endpoint| event.endpoint == endpoint)
            && self
                .endpoint_contains
                .as_deref()
                .is_none_or(|text| endpoint_matches(event.endpoint, text))
            && (self.statuses.is_empty() || self.statuses.iter().any(|it| it.matches(event.status)))
            && self
                .resource_id
                .as_deref()
                .is_none_or(|id| event.resource_id == Some(id))
            && self.client_ip.is_none_or(|ip| event.client_ip == Some(ip))
            && self
                .request_id
                .as_deref()
                .is_none_or(|id| event.request_id == Some(id) || id.parse() == Ok(event.id))
            && self.event_id.is_none_or(|id| event.id == id)
    }
}

/// The fields of an event that a filter reads.
struct FilterFields<'a> {
    id: Uuid,
    request_id: Option<&'a str>,
    key: Option<KeyId>,
    owner: Option<&'a str>,
    time: Timestamp,
    method: Method,
    endpoint: &'a str,
    resource_id: Option<&'a str>,
    client_ip: Option<IpAddr>,
    status: Status,
    outcome: Outcome,
    cause: Option<Cause>,
    rejection_reason: Option<RejectionReason>,
}

/// A query for one page of the request log, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogQuery {
    /// The requests to include. All by default.
    pub filter: LogFilter,
    /// The page to read.
    #[serde(flatten)]
    pub page: PageRequest,
}

impl LogQuery {
    /// Creates a query for the newest 50 requests that match the filter.
    pub fn new(filter: LogFilter) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    /// Sets the maximum number of requests per page.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.page.limit = limit;
        self
    }

    /// Continues after the page that returned this token.
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.page.after = Some(token);
        self
    }

    /// The page token of an event's position. The log is sorted by time and then by event id, both descending.
    pub fn page_token(event: &UsageEvent) -> PageToken {
        PageToken::new(event.time, event.id)
    }
}

/// The number of matching requests, which may be a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// The exact number.
    Exactly(u64),
    /// More than this number: the backend stopped counting.
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
        let mut event = UsageEvent::new("2026-11-01T10:00:30Z".parse().unwrap());
        event.key = Some(key("a"));
        event.owner = Some("customer-17".into());
        (event.outcome, event.cause) = (Outcome::Failed, Some(Cause::ServerError));
        event.rejection_reason = Some(RejectionReason::Scope);
        event.method = Method::Post;
        event.endpoint = "/v1/postings".into();
        event.status = Status::Http(503);
        event.resource_id = Some("7".into());
        event.request_id = Some("r-1".into());
        event.client_ip = Some([203, 0, 113, 7].into());
        event
    }

    #[test]
    fn an_event_matches_any_value_of_a_list() {
        let event = event();
        let statuses = LogFilter::new().status(Status::Http(429));
        assert!(!statuses.matches(&event));
        assert!(
            statuses
                .status_class(StatusClass::ServerError)
                .matches(&event)
        );
        let methods = LogFilter::new().method(Method::Get);
        assert!(methods.method(Method::Post).matches(&event));
        let outcomes = LogFilter::new().outcome(Outcome::RateLimited);
        assert!(outcomes.outcome(Outcome::Failed).matches(&event));
    }

    #[test]
    fn an_event_matches_if_it_matches_every_field() {
        let event = event();
        type Set = fn(LogFilter, &UsageEvent) -> LogFilter;
        // For each field, a value that matches the event and one that does not.
        let filters: [(Set, Set); 16] = [
            (|it, _| it.key(key("a")), |it, _| it.key(key("b"))),
            (
                |it, _| it.owner("customer-17"),
                |it, _| it.owner("customer-1"),
            ),
            (
                |it, _| it.owner_contains("MER-1"),
                |it, _| it.owner_contains("customer-18"),
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
                |mut it, _| {
                    it.outcomes = vec![Outcome::Completed, Outcome::RateLimited];
                    it
                },
            ),
            (
                |it, _| it.cause(Cause::ServerError),
                |it, _| it.cause(Cause::Rejected),
            ),
            (
                |it, _| it.rejection_reason(RejectionReason::Scope),
                |it, _| it.rejection_reason(RejectionReason::Revoked),
            ),
            (
                |it, _| it.method(Method::Post),
                |mut it, _| {
                    it.methods = vec![Method::Get];
                    it
                },
            ),
            (
                |it, _| it.endpoint("/v1/postings"),
                |it, _| it.endpoint("/v1"),
            ),
            (
                |it, _| it.endpoint_contains("POSTINGS"),
                |it, _| it.endpoint_contains("/v1/postings/7"),
            ),
            (
                |it, _| it.status(Status::Http(503)),
                |mut it, _| {
                    it.statuses = vec![StatusClass::ClientError.into()];
                    it
                },
            ),
            (|it, _| it.resource_id("7"), |it, _| it.resource_id("70")),
            (
                |it, event| it.client_ip(event.client_ip.unwrap()),
                |it, _| it.client_ip([203, 0, 113, 8]),
            ),
            (
                |it, event| it.event_id(event.id),
                |it, _| it.event_id(Uuid::nil()),
            ),
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
        let bare = UsageEvent::new(event.time);
        assert!(LogFilter::new().matches(&bare) && !by_own_id.matches(&bare));
    }
}
