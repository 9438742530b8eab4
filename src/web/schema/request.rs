//! Requests of the request log.

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

/// A recorded request.
#[derive(Serialize, ToSchema)]
pub(crate) struct Request {
    /// The id of the event.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// The request id in the `x-request-id` header.
    request_id: String,
    /// When the request started.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// The key of the request.
    #[schema(value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// The owner of the key at the time of the request.
    #[schema(value_type = Option<String>)]
    owner: Option<Arc<str>>,
    /// The HTTP method.
    #[schema(value_type = names::Method)]
    method: Method,
    /// The endpoint: the route pattern, without variable parts of the path.
    #[schema(value_type = String)]
    endpoint: Arc<str>,
    /// The path of the request.
    #[schema(value_type = String)]
    path: Box<str>,
    /// The resource of the request, if the application sets it.
    #[schema(value_type = Option<String>)]
    resource_id: Option<Box<str>>,
    /// The status of the response: an HTTP or gRPC code, or `none`.
    #[schema(value_type = names::Status)]
    status: Status,
    /// The outcome.
    #[schema(value_type = names::Outcome)]
    outcome: Outcome,
    /// Why the request failed.
    #[schema(value_type = Option<names::Cause>)]
    cause: Option<Cause>,
    /// Why the layer rejected the request.
    #[schema(value_type = Option<names::RejectionReason>)]
    rejection_reason: Option<RejectionReason>,
    /// The cost: what was charged to the rate limits, unless the application set another cost.
    cost: u32,
    /// Whether the request is billable.
    billable: bool,
    /// The time until the end of the response, in microseconds.
    latency_us: u64,
    /// The size of the request body in bytes.
    request_bytes: u64,
    /// The size of the response body in bytes.
    response_bytes: u64,
    /// The client IP.
    #[schema(value_type = Option<String>)]
    client_ip: Option<IpAddr>,
}

impl From<UsageEvent> for Request {
    fn from(event: UsageEvent) -> Self {
        Self {
            request_id: event.request_id_or_id().into_owned(),
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
            rejection_reason: event.rejection_reason,
            cost: event.cost,
            billable: event.billable,
            latency_us: event.latency_us,
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
            client_ip: event.client_ip,
        }
    }
}

/// A request in recording order.
#[derive(Serialize, ToSchema)]
struct RecordedRequest {
    #[serde(flatten)]
    request: Request,
    /// The cursor of this request. Pass it as `after_cursor` to continue after it.
    cursor: String,
}

/// A page of requests in recording order.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecordedPage {
    /// The requests in recording order, oldest first.
    items: Vec<RecordedRequest>,
    /// The cursor to pass as `after_cursor` for the next page, even if `items` is empty.
    cursor: String,
    /// Whether more requests may be available. Can be `true` even if `items` is empty.
    more: bool,
    /// Whether requests after `after_cursor` may have been pruned from the log before this page was read.
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
