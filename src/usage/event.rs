//! Usage events.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::outcome::{Cause, Outcome, RejectionReason};
use super::wire::{Method, Status};
use crate::id::KeyId;
/// A new event id: a version 7 UUID for the given time.
pub(crate) use crate::id::uuid_at as event_id;
use crate::page::whole_micros;

/// The endpoint name of requests that matched no route.
pub const UNMATCHED: &str = "(unmatched)";

/// The endpoint name shared by all endpoints beyond the first 1,024.
pub const OTHER_ENDPOINTS: &str = "(other)";

/// One recorded request: its key, endpoint, time, status, outcome, cost and latency.
///
/// The layer creates an event when a request ends. To build one yourself, start from
/// [`UsageEvent::new`] and set its fields; [`Batch`](super::Batch) normalizes them for storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UsageEvent {
    /// The event id, a version 7 UUID (RFC 9562).
    pub id: Uuid,
    /// The request id sent by the client or set by an outer layer. `None` if there was none; the event id is then
    /// used as the request id.
    pub request_id: Option<Box<str>>,
    /// The key of the request; `None` for an anonymous request, if the layer admits those.
    pub key: Option<KeyId>,
    /// The key's owner at the time of the request.
    pub owner: Option<Arc<str>>,
    /// The time at which the request arrived, in whole microseconds.
    pub time: Timestamp,
    /// The request method.
    pub method: Method,
    /// The route template, such as `/v1/postings/{id}`, or the full name of a gRPC method.
    pub endpoint: Arc<str>,
    /// The path as sent, without the query. Truncated to 1 KiB; anything that looks like a secret is replaced by
    /// its hint.
    pub path: Box<str>,
    /// The id of the resource that the request concerns, if the application sets it.
    pub resource_id: Option<Box<str>>,
    /// The response status.
    pub status: Status,
    /// The outcome of the request.
    pub outcome: Outcome,
    /// The cause of the failure, if the request failed.
    pub cause: Option<Cause>,
    /// The rejection reason, if the layer rejected the request.
    #[serde(alias = "refusal")]
    pub rejection_reason: Option<RejectionReason>,
    /// Whether the request is billable. By default, completed requests are; see
    /// [`RecorderBuilder::billable`](super::RecorderBuilder::billable).
    pub billable: bool,
    /// The cost of the request: what was charged to the key's rate limits, unless the application set another cost;
    /// `0` if the layer rejected the request.
    pub cost: u32,
    /// The time from the request's arrival to the end of the response, in microseconds.
    pub latency_us: u64,
    /// The size of the request body in bytes, as declared by `content-length`; at most 2⁴⁰ (1 TiB).
    pub request_bytes: u64,
    /// The number of response body bytes that were sent.
    pub response_bytes: u64,
    /// The client IP.
    #[serde(alias = "client_address")]
    pub client_ip: Option<IpAddr>,
}

impl UsageEvent {
    /// Creates an event with a new id for a completed `GET` request to [`UNMATCHED`] with status 200.
    ///
    /// The time is truncated to whole microseconds and clamped to the years 1 to 9999.
    pub fn new(time: Timestamp) -> Self {
        Self {
            id: event_id(time.as_microsecond()),
            request_id: None,
            key: None,
            owner: None,
            time: whole_micros(time),
            method: Method::Get,
            endpoint: UNMATCHED.into(),
            path: "/".into(),
            resource_id: None,
            status: Status::Http(200),
            outcome: Outcome::Completed,
            cause: None,
            rejection_reason: None,
            billable: true,
            cost: 1,
            latency_us: 0,
            request_bytes: 0,
            response_bytes: 0,
            client_ip: None,
        }
    }

    /// The cost of the request if it is billable, otherwise 0.
    pub fn billable_cost(&self) -> u32 {
        if self.billable { self.cost } else { 0 }
    }

    /// The request id that the client received in `x-request-id`: [`request_id`](Self::request_id), or else the
    /// event id.
    pub fn request_id_or_id(&self) -> std::borrow::Cow<'_, str> {
        match &self.request_id {
            Some(id) => id.as_ref().into(),
            None => self.id.to_string().into(),
        }
    }
}

impl UsageEvent {
    /// Returns whether `id` is the event's request id or event id.
    pub fn has_id(&self, id: &str) -> bool {
        self.request_id.as_deref() == Some(id) || id.parse() == Ok(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_round_trips_through_json() {
        let mut event = UsageEvent::new("2026-11-01T10:00:00.5Z".parse().unwrap());
        event.key = Some("3fK9aB0000zzZZ19".parse().unwrap());
        event.status = Status::Grpc(7);
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<UsageEvent>(&text).unwrap(), event);
    }
}
