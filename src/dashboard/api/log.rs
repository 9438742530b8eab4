//! Lists, counts and exports requests.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::dashboard::download::{As, Format, download, export_as};
use crate::dashboard::event::{self, EventId};
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::page::{PageRequest, PageToken};
use crate::usage::{
    self, Cause, LogCursor, LogFilter, LogQuery, Method, Outcome, RecordedQuery, RejectionReason,
    StatusFilter, UsageReader,
};
use crate::web::Problem;
use crate::web::schema::{Page, RecordedPage, Request, names};
use crate::web::{List, Query, at_most, in_order};

/// A query with the filters of the request log and other fields. Not `#[serde(flatten)]`, with which errors do not name
/// the field.
macro_rules! filtered {
    ($(#[$doc:meta])* $query:ident { $($rest:tt)* }) => {
        $(#[$doc])*
        #[derive(Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $query {
            /// Only requests with this key.
            #[param(inline, value_type = Option<names::KeyId>)]
            key: Option<KeyId>,
            /// Only requests with keys of this owner.
            owner: Option<String>,
            /// Only requests with keys whose owner contains this text, case-insensitively.
            owner_contains: Option<String>,
            /// Only requests that started at or after this time.
            #[param(value_type = Option<String>, format = DateTime)]
            from: Option<Timestamp>,
            /// Only requests that started before this time.
            #[param(value_type = Option<String>, format = DateTime)]
            to: Option<Timestamp>,
            /// Only requests with one of these outcomes, separated by commas.
            #[serde(default)]
            #[param(inline, required = false, style = Form, explode = false, value_type = Vec<names::Outcome>)]
            outcome: List<Outcome>,
            /// Only requests that failed with this cause.
            #[param(inline, value_type = Option<names::Cause>)]
            cause: Option<Cause>,
            /// Only requests that were rejected for this reason.
            #[param(inline, value_type = Option<names::RejectionReason>)]
            rejection_reason: Option<RejectionReason>,
            /// Only requests with one of these methods, separated by commas.
            #[serde(default)]
            #[param(inline, required = false, style = Form, explode = false, value_type = Vec<names::Method>)]
            method: List<Method>,
            /// Only requests to this endpoint.
            endpoint: Option<String>,
            /// Only requests to endpoints that contain this text, case-insensitively, or are a route pattern of this path.
            endpoint_contains: Option<String>,
            /// Only responses with one of these statuses, separated by commas: HTTP or gRPC codes, classes such as `4xx`, or
            /// `none`.
            #[serde(default)]
            #[param(inline, required = false, style = Form, explode = false, value_type = Vec<names::StatusFilter>)]
            status: List<StatusFilter>,
            /// Only requests about this resource.
            resource_id: Option<String>,
            /// Only requests of this client.
            #[param(value_type = Option<String>)]
            client_ip: Option<IpAddr>,
            /// Only the request with this `x-request-id` or event id.
            request_id: Option<String>,
            $($rest)*
        }

        impl $query {
            fn filter(&self) -> Result<LogFilter, Problem> {
                in_order(self.from, self.to)?;
                let mut filter = LogFilter::new();
                filter.key = self.key;
                filter.owner = self.owner.clone();
                filter.owner_contains = self.owner_contains.clone();
                filter.from = self.from;
                filter.to = self.to;
                filter.outcomes = self.outcome.0.clone();
                filter.cause = self.cause;
                filter.rejection_reason = self.rejection_reason;
                filter.methods = self.method.0.clone();
                filter.endpoint = self.endpoint.clone();
                filter.endpoint_contains = self.endpoint_contains.clone();
                filter.statuses = self.status.0.clone();
                filter.resource_id = self.resource_id.clone();
                filter.client_ip = self.client_ip;
                filter.request_id = self.request_id.clone();
                Ok(filter)
            }
        }
    };
}

filtered! {
    /// Filters of requests, combined with AND.
    Wanted {}
}

filtered! {
    /// Filters of requests, combined with AND, and the page to return.
    WantedPage {
        /// The maximum number of requests to return. 50 by default.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<usize>,
        /// The page token: `next` of the previous page.
        #[param(value_type = Option<String>)]
        after: Option<PageToken>,
    }
}

filtered! {
    /// Filters of requests, combined with AND, and the page to return, in recording order.
    WantedRecorded {
        /// The maximum number of requests to return. 1,000 by default.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<usize>,
        /// The `cursor` of the previous page or of any item. By default, starts at the beginning of the log.
        #[serde(default)]
        #[param(required = false, value_type = Option<String>)]
        after_cursor: LogCursor,
    }
}

filtered! {
    /// Filters of requests, combined with AND, and options of the file.
    WantedFile {
        /// Exports requests in recording order after this cursor, each with its own cursor. `0` is the beginning of the
        /// log. By default, exports requests newest first.
        #[param(value_type = Option<String>)]
        after_cursor: Option<LogCursor>,
        /// Whether CSV starts with a byte order mark, which Excel needs to detect UTF-8. `false` by default.
        #[serde(default)]
        #[param(required = false)]
        bom: bool,
    }
}

/// Lists requests, newest first.
#[utoipa::path(
    get, path = "/log",
    operation_id = "list_requests",
    tag = "usage",
    params(WantedPage),
    responses(
        (status = 200, description = "A page of requests", body = Page<Request>),
        Problem,
    ),
)]
pub(super) async fn requests(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<WantedPage>,
) -> Result<Json<Page<Request>>, Problem> {
    let mut query = LogQuery::new(wanted.filter()?);
    if let Some(limit) = at_most(PageRequest::MAX_LIMIT, "limit", wanted.limit)? {
        query.page.limit = limit;
    }
    query.page.after = wanted.after;
    let page = shared.usage.requests(&query).await?;
    Ok(Json(Page::of(page, Request::from)))
}

/// Returns a request.
#[utoipa::path(
    get, path = "/log/{id}",
    operation_id = "get_request",
    tag = "usage",
    params(("id" = String, Path, format = "uuid", description = "The id of the event")),
    responses((status = 200, description = "The request", body = Request), Problem),
)]
pub(super) async fn request(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<EventId>, PathRejection>,
) -> Result<Json<Request>, Problem> {
    let not_found = || Problem::new(StatusCode::NOT_FOUND, "There is no request with this id.");
    let Path(EventId { id }) = path.map_err(|_| not_found())?;
    let event = event::read(&*shared.usage, id).await?;
    event.map(Request::from).map(Json).ok_or_else(not_found)
}

/// Lists requests in recording order, to sync them to another system. Every request is returned once, regardless of when
/// it started. Store the cursor with the synced data, and continue after it.
#[utoipa::path(
    get, path = "/log/recorded",
    operation_id = "list_recorded_requests",
    tag = "usage",
    params(WantedRecorded),
    responses(
        (status = 200, description = "A page of requests", body = RecordedPage),
        Problem,
    ),
)]
pub(super) async fn recorded(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<WantedRecorded>,
) -> Result<Json<RecordedPage>, Problem> {
    let mut query = RecordedQuery::after(wanted.after_cursor).filter(wanted.filter()?);
    if let Some(limit) = at_most(PageRequest::MAX_LIMIT, "limit", wanted.limit)? {
        query.limit = limit;
    }
    let page = shared.usage.recorded(&query).await?;
    Ok(Json(page.into()))
}

/// A number of requests.
#[derive(Serialize, ToSchema)]
pub(super) struct Count {
    /// The number of requests.
    count: u64,
    /// Whether the count is exact. If `false`, there are more: counting stopped at a limit.
    exact: bool,
}

impl From<usage::Count> for Count {
    fn from(count: usage::Count) -> Self {
        let (count, exact) = match count {
            usage::Count::Exactly(count) => (count, true),
            usage::Count::MoreThan(count) => (count, false),
        };
        Self { count, exact }
    }
}

/// Counts requests.
#[utoipa::path(
    get, path = "/log/count",
    operation_id = "count_requests",
    tag = "usage",
    params(Wanted),
    responses(
        (status = 200, description = "The number of requests", body = Count),
        Problem,
    ),
)]
pub(super) async fn count(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Count>, Problem> {
    let count = shared.usage.count(&wanted.filter()?).await?;
    Ok(Json(count.into()))
}

/// Exports requests as a file, newest first or in recording order. CSV has the names of their keys.
#[utoipa::path(
    get, path = "/log/export/{format}",
    operation_id = "export_requests",
    tag = "usage",
    params(("format" = inline(Format), Path, description = "The file format"), WantedFile),
    responses(
        (
            status = 200,
            description = "The file",
            content((String = "text/csv"), (String = "application/jsonl")),
        ),
        Problem,
    ),
)]
pub(super) async fn export(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<As>, PathRejection>,
    Query(wanted): Query<WantedFile>,
) -> Result<Response, Problem> {
    let Ok(Path(As { format })) = path else {
        return Err(Problem::parameter("format", "Must be `csv` or `jsonl`."));
    };
    let filter = wanted.filter()?;
    let mut export = export_as(format, &shared, filter);
    if wanted.bom {
        export = export.byte_order_mark();
    }
    if let Some(cursor) = wanted.after_cursor {
        export = export.after_cursor(cursor);
    }
    Ok(download(export))
}
