//! One accounted request.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::outcome::{Cause, Outcome, RejectionReason};
use super::wire::{Method, Status};
use crate::id::KeyId;
/// An event's id, with the event's own time.
pub(crate) use crate::id::uuid_at as event_id;
use crate::page::whole_micros;

/// The endpoint of requests that no route matched.
pub const UNMATCHED: &str = "(unmatched)";

/// The endpoint that stands for all that came after the first thousand or so names.
pub const OTHER_ENDPOINTS: &str = "(other)";

/// One accounted request: who asked for what, when, and what came of it.
///
/// Made by the layer at the end of a request. To make one by hand, start from
/// [`UsageEvent::at`] and set its fields; a [`Batch`](super::Batch) brings them into the form in which
/// they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UsageEvent {
    /// The event's own id, a UUID of version 7.
    pub id: Uuid,
    /// The request id on the wire where the client or an outer layer sent one; otherwise the wire
    /// carries the event's id.
    pub request_id: Option<Box<str>>,
    /// The key that asked; `None` for anonymous requests, where those are let in.
    pub key: Option<KeyId>,
    /// The key's owner at the time.
    pub owner: Option<Arc<str>>,
    /// When the request arrived, in whole microseconds.
    pub time: Timestamp,
    /// The request's method.
    pub method: Method,
    /// The route's template, such as `/v1/postings/{id}`, or the full name of a gRPC method.
    pub endpoint: Arc<str>,
    /// The path as it was sent, without the query: its first KiB, and of what has the form of a secret only
    /// the hint.
    pub path: Box<str>,
    /// What the request was about, where the application tells.
    pub resource_id: Option<Box<str>>,
    /// How it was answered.
    pub status: Status,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it failed, if it did.
    pub cause: Option<Cause>,
    /// Why it was refused, if it was.
    #[serde(alias = "refusal")]
    pub rejection_reason: Option<RejectionReason>,
    /// What it cost of the key's limits; `0` when the layer refused it.
    pub cost: u32,
    /// Microseconds from its arrival to the end of its answer.
    pub latency_us: u64,
    /// Bytes of the request's body, as announced by `content-length`; a tebibyte (2⁴⁰) at most.
    pub request_bytes: u64,
    /// Bytes of the response's body that were handed on.
    pub response_bytes: u64,
    /// Where it came from.
    #[serde(alias = "client_address")]
    pub client_ip: Option<IpAddr>,
}

impl UsageEvent {
    /// A completed `GET` of no endpoint in particular at this time, cut to whole microseconds of the
    /// years 1 to 9999, with a fresh id.
    pub fn at(time: Timestamp) -> Self {
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
            cost: 1,
            latency_us: 0,
            request_bytes: 0,
            response_bytes: 0,
            client_ip: None,
        }
    }

    /// The request id that the client saw in `x-request-id`.
    pub fn wire_id(&self) -> std::borrow::Cow<'_, str> {
        match &self.request_id {
            Some(id) => id.as_ref().into(),
            None => self.id.to_string().into(),
        }
    }
}

impl UsageEvent {
    /// Whether this is its id on the wire or its own.
    pub fn is_known_as(&self, id: &str) -> bool {
        self.request_id.as_deref() == Some(id) || id.parse() == Ok(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_round_trips_through_json() {
        let mut event = UsageEvent::at("2026-11-01T10:00:00.5Z".parse().unwrap());
        event.key = Some("3fK9aB0000zzZZ19".parse().unwrap());
        event.status = Status::Grpc(7);
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<UsageEvent>(&text).unwrap(), event);
    }
}
