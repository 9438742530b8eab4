//! The request log, its count and its export.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Query, at_most, in_order};
use super::problem::Problem;
use super::schema::{Page, Request, names};
use crate::dashboard::Shared;
use crate::dashboard::download::{As, Format, download};
use crate::id::KeyId;
use crate::page::PageToken;
use crate::usage::{
    self, Cause, LogFilter, LogQuery, Method, Outcome, Status, StatusClass, UsageReader,
};

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
    /// Which requests, and what their file is like; all that is given has to hold.
    WantedFile {
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

/// Exports requests as a file, the newest first.
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
    Ok(download(shared.backend.clone(), filter, format, wanted.bom))
}
