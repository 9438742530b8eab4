//! Statements for the audit log.

use sqlx::Error as SqlError;
use uuid::Uuid;

use super::engine::{Row, Statement, Value};
use super::names::Names;
use super::value::{
    as_micros, ceil_micros, from_json, parse_name, parsed, required, time, to_json,
};
use crate::key::{AuditEntry, AuditQuery, AuditState, AuditSubject, Key, Owner, Plan, StoreError};

const INSERT: &str = "INSERT INTO {prefix}audit_log (id, time, actor, action, key_id, owner, plan, before, after) VALUES ";

pub(super) fn insert(names: &Names, entries: &[AuditEntry]) -> Statement {
    let mut sql = Statement::new(names, INSERT);
    sql.push_rows(entries, |entry| {
        let (mut key, mut owner, mut plan) = (None, None, None);
        match &entry.subject {
            AuditSubject::Key(id) => key = Some(id.as_str()),
            AuditSubject::Owner(id) => owner = Some(&**id),
            AuditSubject::Plan(name) => plan = Some(&**name),
        }
        [
            entry.id.into(),
            Value::Time(Some(as_micros(entry.time))),
            entry.actor.as_deref().into(),
            entry.action.as_str().into(),
            key.into(),
            owner.into(),
            plan.into(),
            Value::Json(entry.before.as_ref().map(to_json)),
            Value::Json(entry.after.as_ref().map(to_json)),
        ]
    });
    sql
}

/// Selects a page of entries, and one more to detect the last page.
pub(super) fn page(names: &Names, query: &AuditQuery) -> Result<Statement, StoreError> {
    let mut sql = Statement::new(names, "SELECT * FROM {prefix}audit_log WHERE TRUE");
    if let Some(key) = query.key {
        sql.push(" AND key_id = ").push_bind(key);
    }
    if let Some(owner) = query.owner.as_deref() {
        sql.push(" AND owner = ").push_bind(owner);
    }
    if let Some(plan) = query.plan.as_deref() {
        sql.push(" AND plan = ").push_bind(plan);
    }
    if let Some(actor) = query.actor.as_deref() {
        sql.push(" AND actor = ").push_bind(actor);
    }
    if let Some(action) = query.action {
        sql.push(" AND action = ").push_bind(action.as_str());
    }
    if let Some(from) = query.from {
        sql.push(" AND time >= ")
            .push_bind(Value::Time(Some(ceil_micros(from))));
    }
    if let Some(to) = query.to {
        sql.push(" AND time < ")
            .push_bind(Value::Time(Some(ceil_micros(to))));
    }
    if let Some(token) = &query.page.after {
        let id: Uuid = token.id()?;
        sql.push(" AND (time, id) < (")
            .push_bind(Value::Time(Some(as_micros(token.time()))))
            .push(", ")
            .push_bind(id)
            .push(")");
    }
    sql.push(" ORDER BY time DESC, id DESC LIMIT ")
        .push_bind(query.page.size() as i64 + 1);
    Ok(sql)
}

pub(super) fn entry_of(row: &impl Row) -> Result<AuditEntry, SqlError> {
    let texts = (row.text("key_id")?, row.text("owner")?, row.text("plan")?);
    let subject = match texts {
        (Some(id), ..) => AuditSubject::Key(parsed(id)?),
        (None, Some(id), _) => AuditSubject::Owner(id.into()),
        (None, None, plan) => AuditSubject::Plan(required(plan)?.into()),
    };
    // Not as any state: errors name the field then.
    let state = |column: &str| -> Result<Option<AuditState>, SqlError> {
        let Some(json) = row.json(column)? else {
            return Ok(None);
        };
        Ok(Some(match &subject {
            AuditSubject::Key(_) => from_json::<Key>(json)?.into(),
            AuditSubject::Owner(_) => from_json::<Owner>(json)?.into(),
            AuditSubject::Plan(_) => from_json::<Plan>(json)?.into(),
        }))
    };
    let (before, after) = (state("before")?, state("after")?);
    let action = parse_name(required(row.text("action")?)?)?;
    let mut entry = AuditEntry::new(action, subject, time(row, "time")?);
    entry.id = row.uuid("id")?;
    entry.actor = row.text("actor")?.map(Into::into);
    (entry.before, entry.after) = (before, after);
    Ok(entry)
}
