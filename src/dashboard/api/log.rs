//! The request log, its count and its export.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::dashboard::download::{As, Format, download, export_as};
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::page::PageToken;
use crate::usage::{
    self, Cause, LogCursor, LogFilter, LogQuery, Method, Outcome, RecordedQuery, Status,
    StatusClass, UsageReader,
};
use crate::web::Problem;
use crate::web::schema::{Page, RecordedPage, Request, names};
use crate::web::{Query, at_most, in_order};

/// A query that filters the log, and what else it has. Serde could take the filter in by itself, but
/// would no longer tell which field is wrong.
macro_rules! filtered {
    ($(#[$doc:meta])* $query:ident { $($rest:tt)* }) => {
        $(#[$doc])*
        #[derive(Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $query {
            /// Those with this key.
            #[param(inline, value_type = Option<names::KeyId>)]
            key: Option<KeyId>,
            /// Those of this owner's keys.
            owner: Option<String>,
            /// Those that began then or later.
            #[param(value_type = Option<String>, format = DateTime)]
            from: Option<Timestamp>,
            /// Those that began before.
            #[param(value_type = Option<String>, format = DateTime)]
            to: Option<Timestamp>,
            /// Those of which this came.
            #[param(inline, value_type = Option<names::Outcome>)]
            outcome: Option<Outcome>,
            /// Those that failed for this cause.
            #[param(inline, value_type = Option<names::Cause>)]
            cause: Option<Cause>,
            /// Those of this method.
            #[param(inline, value_type = Option<names::Method>)]
            method: Option<Method>,
            /// Those of this endpoint.
            endpoint: Option<String>,
            /// Those answered with this code: of HTTP, of gRPC, or none.
            #[param(inline, value_type = Option<names::Status>)]
            status: Option<Status>,
            /// Those whose answers are of this class.
            #[param(inline, value_type = Option<names::StatusClass>)]
            status_class: Option<StatusClass>,
            /// Those about this.
            resource_id: Option<String>,
            /// The one with this id, on the wire or its own.
            request_id: Option<String>,
            $($rest)*
        }

        impl $query {
            fn filter(&self) -> Result<LogFilter, Problem> {
                in_order(self.from, self.to)?;
                let mut filter = LogFilter::new();
                filter.key = self.key;
                filter.owner = self.owner.clone();
                filter.from = self.from;
                filter.to = self.to;
                filter.outcome = self.outcome;
                filter.cause = self.cause;
                filter.method = self.method;
                filter.endpoint = self.endpoint.clone();
                filter.status = self.status;
                filter.status_class = self.status_class;
                filter.resource_id = self.resource_id.clone();
                filter.request_id = self.request_id.clone();
                Ok(filter)
            }
        }
    };
}

filtered! {
    /// Which requests; all that is given has to hold.
    Wanted {}
}

filtered! {
    /// Which requests, and which page of them; all that is given has to hold.
    WantedPage {
        /// How many at most; 50 unless told.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<usize>,
        /// The `next` of the page before.
        #[param(value_type = Option<String>)]
        after: Option<PageToken>,
    }
}

filtered! {
    /// Which requests, and which page of them in the order of recording; all that is given has to hold.
    WantedRecorded {
        /// The most to answer; 1,000 unless set.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<usize>,
        /// The `cursor` of the page before, or that of its last item. From the beginning of the log unless set.
        #[serde(default)]
        #[param(required = false, value_type = Option<String>)]
        after_cursor: LogCursor,
    }
}

filtered! {
    /// Which requests, and what their file is like; all that is given has to hold.
    WantedFile {
        /// Requests in the order of recording, from after this cursor, each with a cursor to continue after. `0` is the
        /// beginning of the log. The newest first unless set.
        #[param(value_type = Option<String>)]
        after_cursor: Option<LogCursor>,
        /// Whether CSV begins with a byte order mark, from which Excel tells UTF-8. No unless set.
        #[serde(default)]
        #[param(required = false)]
        bom: bool,
    }
}

/// Lists requests, the newest first.
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
    if let Some(limit) = at_most(LogQuery::MAX_LIMIT, "limit", wanted.limit)? {
        query.limit = limit;
    }
    query.after = wanted.after;
    let page = shared.backend.requests(&query).await?;
    Ok(Json(Page::of(page, Request::from)))
}

/// Lists requests in the order of recording, for syncing them into another system: every request comes once,
/// whenever it began. Save the cursor with what was synced, and continue after it.
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
    if let Some(limit) = at_most(LogQuery::MAX_LIMIT, "limit", wanted.limit)? {
        query.limit = limit;
    }
    let page = shared.backend.recorded(&query).await?;
    Ok(Json(page.into()))
}

/// How many requests there are.
#[derive(Serialize, ToSchema)]
pub(super) struct Count {
    /// How many.
    count: u64,
    /// Whether those are all: counting ends where it would take too long.
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
        (status = 200, description = "How many there are", body = Count),
        Problem,
    ),
)]
pub(super) async fn count(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Count>, Problem> {
    let count = shared.backend.count(&wanted.filter()?).await?;
    Ok(Json(count.into()))
}

/// Exports requests as a file, the newest first or in the order of recording.
#[utoipa::path(
    get, path = "/log/export/{format}",
    operation_id = "export_requests",
    tag = "usage",
    params(("format" = inline(Format), Path, description = "What the file is like"), WantedFile),
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
    wanted_as: Result<Path<As>, PathRejection>,
    Query(wanted): Query<WantedFile>,
) -> Result<Response, Problem> {
    let Ok(Path(As { format })) = wanted_as else {
        return Err(Problem::parameter("format", "This is csv or jsonl."));
    };
    let filter = wanted.filter()?;
    let mut export = export_as(format, shared.backend.clone(), filter);
    if wanted.bom {
        export = export.byte_order_mark();
    }
    if let Some(cursor) = wanted.after_cursor {
        export = export.after_cursor(cursor);
    }
    Ok(download(export))
}
