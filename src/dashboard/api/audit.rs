//! The audit log.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::{AuditAction, AuditQuery, KeyAdmin};
use crate::page::{PageRequest, PageToken};
use crate::web::Problem;
use crate::web::schema::{AuditEntry, Page, names};
use crate::web::{Query, at_most, in_order};

/// Filters of the audit log, combined with AND.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only entries about this key.
    #[param(inline, value_type = Option<names::KeyId>)]
    key: Option<KeyId>,
    /// Only entries about this owner, not about its keys.
    owner: Option<String>,
    /// Only entries about this plan.
    plan: Option<String>,
    /// Only entries by this actor.
    actor: Option<String>,
    /// Only entries with this action.
    #[param(inline, value_type = Option<names::AuditAction>)]
    action: Option<AuditAction>,
    /// Only entries at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Only entries before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// The maximum number of entries to return. 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The page token: `next` of the previous page.
    #[param(value_type = Option<String>)]
    after: Option<PageToken>,
}

impl TryFrom<Wanted> for AuditQuery {
    type Error = Problem;

    fn try_from(wanted: Wanted) -> Result<Self, Problem> {
        in_order(wanted.from, wanted.to)?;
        let mut query = Self::new();
        if let Some(limit) = at_most(PageRequest::MAX_LIMIT, "limit", wanted.limit)? {
            query.page.limit = limit;
        }
        if let Some(actor) = wanted.actor {
            query = query.actor(actor);
        }
        query.key = wanted.key;
        query.owner = wanted.owner;
        query.plan = wanted.plan;
        query.action = wanted.action;
        query.from = wanted.from;
        query.to = wanted.to;
        query.page.after = wanted.after;
        Ok(query)
    }
}

/// Lists audit log entries, newest first.
#[utoipa::path(
    get, path = "/audit",
    operation_id = "list_audit_entries",
    tag = "audit",
    params(Wanted),
    responses(
        (status = 200, description = "A page of entries", body = Page<AuditEntry>),
        Problem,
    ),
)]
pub(super) async fn entries(
    State(shared): State<Arc<Shared>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let query = wanted.try_into()?;
    let none = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "This store does not keep an audit log.",
        )
    };
    let log = shared.keys.audit_log().ok_or_else(none)?;
    let entries = log.audit_entries(&query).await?;
    Ok(Json(Page::of(entries, AuditEntry::from)))
}
