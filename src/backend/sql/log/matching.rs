//! The callers and kinds that match a filter.

use sqlx::Error as SqlError;

use super::conditions::{caller_condition, filters_callers, filters_kinds, kind_condition};
use crate::backend::sql::engine::{Row, Session, Statement};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::required;
use crate::text::{contains_ignoring_case, endpoint_matches};
use crate::usage::{LogFilter, RejectionReason};

/// The maximum number of callers to look up in the index.
const FEW_CALLERS: usize = 500;

/// The numbers of the callers and kinds that match a filter.
#[derive(Debug, Clone)]
pub(super) struct Matching {
    pub(super) callers: Callers,
    /// `None` if any kind matches.
    pub(super) kinds: Option<Vec<i64>>,
    /// A condition on requests, since kinds of before schema version 4 match for several reasons.
    pub(super) rejection_reason: Option<RejectionReason>,
}

#[derive(Debug, Clone)]
pub(super) enum Callers {
    Any,
    /// At most [`FEW_CALLERS`].
    Few(Vec<i64>),
    /// More than [`FEW_CALLERS`].
    Many(Vec<i64>),
}

impl Matching {
    /// `None` if no request can match.
    pub(super) async fn read<S: Session>(
        session: &mut S,
        names: &Names,
        filter: &LogFilter,
    ) -> Result<Option<Self>, SqlError> {
        let texts = [
            &filter.owner,
            &filter.endpoint,
            &filter.endpoint_contains,
            &filter.resource_id,
            &filter.request_id,
        ];
        // Stored texts never contain U+0000, which PostgreSQL rejects.
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Ok(None);
        }
        let mut callers = Callers::Any;
        if filters_callers(filter) {
            let mut sql = Statement::new(names, "SELECT id, owner FROM {prefix}callers");
            let condition = caller_condition(&mut sql, filter);
            sql.push(&condition);
            let mut rows = session.fetch(sql).await?;
            if let Some(part) = &filter.owner_contains {
                rows.retain(|row| match row.text("owner") {
                    Ok(owner) => owner.is_some_and(|owner| contains_ignoring_case(owner, part)),
                    Err(_) => true,
                });
            }
            let matching = ids(&rows)?;
            callers = match matching.len() {
                0 => return Ok(None),
                1..=FEW_CALLERS => Callers::Few(matching),
                _ => Callers::Many(matching),
            };
        }
        let mut kinds = None;
        if filters_kinds(filter) {
            let mut sql = Statement::new(names, "SELECT id, endpoint FROM {prefix}kinds");
            let condition = kind_condition(&mut sql, filter);
            sql.push(&condition);
            let mut rows = session.fetch(sql).await?;
            if let Some(text) = &filter.endpoint_contains {
                rows.retain(|row| match row.text("endpoint") {
                    Ok(endpoint) => endpoint.is_some_and(|it| endpoint_matches(it, text)),
                    Err(_) => true,
                });
            }
            kinds = Some(ids(&rows)?);
        }
        let is_possible = kinds.as_ref().is_none_or(|kinds| !kinds.is_empty());
        Ok(is_possible.then_some(Self {
            callers,
            kinds,
            rejection_reason: filter.rejection_reason,
        }))
    }
}

fn ids<R: Row>(rows: &[R]) -> Result<Vec<i64>, SqlError> {
    rows.iter()
        .map(|row| required(row.integer("id")?))
        .collect()
}
