//! Requests of the log.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::names;
use crate::id::KeyId;
use crate::usage::{
    self, Cause, Method, Outcome, RecordedEvent, RejectionReason, Status, UsageEvent,
};

/// An accounted request.
#[derive(Serialize, ToSchema)]
pub(crate) struct Request {
    /// The event's own id.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// The id on the wire, in `x-request-id`.
    request_id: String,
    /// When the request began.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// The key it was sent with.
    #[schema(value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// The key's owner then.
    #[schema(value_type = Option<String>)]
    owner: Option<Arc<str>>,
    /// The HTTP method.
    #[schema(value_type = names::Method)]
    method: Method,
    /// The endpoint: the route, without what differs from request to request.
    #[schema(value_type = String)]
    endpoint: Arc<str>,
    /// The path as it was asked for.
    #[schema(value_type = String)]
    path: Box<str>,
    /// What the request was about, where the application tells.
    #[schema(value_type = Option<String>)]
    resource_id: Option<Box<str>>,
    /// The code of the answer: of HTTP, of gRPC, or none.
    #[schema(value_type = names::Status)]
    status: Status,
    /// What came of it.
    #[schema(value_type = names::Outcome)]
    outcome: Outcome,
    /// Why it failed.
    #[schema(value_type = Option<names::Cause>)]
    cause: Option<Cause>,
    /// Why it was refused.
    #[schema(value_type = Option<names::RejectionReason>)]
    refusal: Option<RejectionReason>,
    /// What it cost of the key's limits.
    cost: u32,
    /// Microseconds until the end of the answer.
    latency_us: u64,
    /// Bytes of its body.
    request_bytes: u64,
    /// Bytes of the answer's body.
    response_bytes: u64,
    /// Whence it came.
    #[schema(value_type = Option<String>)]
    client_address: Option<IpAddr>,
}

impl From<UsageEvent> for Request {
    fn from(event: UsageEvent) -> Self {
        Self {
            request_id: event.wire_id().into_owned(),
            id: event.id,
            time: event.time,
            key: event.key,
            owner: event.owner,
            method: event.method,
            endpoint: event.endpoint,
            path: event.path,
            resource_id: event.resource_id,
            status: event.status,
            outcome: event.outcome,
            cause: event.cause,
            refusal: event.rejection_reason,
            cost: event.cost,
            latency_us: event.latency_us,
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
            client_address: event.client_ip,
        }
    }
}

/// An accounted request in the order of recording.
#[derive(Serialize, ToSchema)]
struct RecordedRequest {
    #[serde(flatten)]
    request: Request,
    /// Continue after this request with it, as `after_cursor`.
    cursor: String,
}

/// Requests in the order of recording.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecordedPage {
    /// The requests in recording order, oldest first.
    items: Vec<RecordedRequest>,
    /// Give it back as `after_cursor` to continue, also where there are no items.
    cursor: String,
    /// Whether more requests may be available now. A page with few items or none may have more behind it.
    more: bool,
    /// Whether requests after `after_cursor` may have been dropped from the log before this page was read.
    has_gap: bool,
}

impl From<usage::RecordedPage> for RecordedPage {
    fn from(page: usage::RecordedPage) -> Self {
        let item = |item: RecordedEvent| RecordedRequest {
            request: item.event.into(),
            cursor: item.cursor.to_string(),
        };
        Self {
            items: page.items.into_iter().map(item).collect(),
            cursor: page.cursor.to_string(),
            more: page.more,
            has_gap: page.has_gap,
        }
    }
}
