//! Statements for owners and plans.

use jiff::Timestamp;
use sqlx::Error as SqlError;

use super::engine::{Row, Statement, Value};
use super::names::Names;
use super::value::{as_micros, from_json, parsed, required, text, time, to_json};
use crate::key::{Owner, OwnerQuery, Plan};

const SELECT_OWNER: &str =
    "SELECT id, name, plan, limits, status, metadata, created_at FROM {prefix}owners";

const SELECT_PLAN: &str =
    "SELECT name, key_limits, owner_limits, metadata, created_at FROM {prefix}plans";

/// Inserts the owners whose ids do not exist.
pub(super) fn insert(names: &Names, owners: &[Owner]) -> Statement {
    let insert =
        "INSERT INTO {prefix}owners (id, name, plan, limits, status, metadata, created_at) VALUES ";
    let mut sql = Statement::new(names, insert);
    sql.push_rows(owners, |owner| {
        let created_at = Value::Time(Some(as_micros(owner.created_at)));
        owner_columns(owner).into_iter().chain([created_at])
    });
    sql.push(" ON CONFLICT DO NOTHING");
    sql
}

pub(super) fn update(names: &Names, owner: &Owner) -> Statement {
    let update = "UPDATE {prefix}owners SET name = $2, plan = $3, limits = $4, status = $5, metadata = $6 WHERE id = $1";
    let mut sql = Statement::new(names, update);
    sql.values.extend(owner_columns(owner));
    sql
}

/// The id and the mutable columns, with which both statements begin.
fn owner_columns(owner: &Owner) -> [Value; 6] {
    [
        (&*owner.id).into(),
        owner.name.as_deref().into(),
        owner.plan.as_deref().into(),
        Value::Json(Some(to_json(&owner.limits))),
        owner.status.as_str().into(),
        Value::Json(Some(to_json(&owner.metadata))),
    ]
}

pub(super) fn find(names: &Names, id: &str) -> Statement {
    let mut sql = Statement::new(names, SELECT_OWNER);
    sql.push(" WHERE id = ").push_bind(id);
    sql
}

/// Selects an owner and locks its row for an update.
pub(super) fn lock(names: &Names, id: &str) -> Statement {
    let mut sql = find(names, id);
    sql.push(names.dialect.lock_rows());
    sql
}

/// Selects up to `limit` owners after a place. Ignores the text in the query.
pub(super) fn list(
    names: &Names,
    query: &OwnerQuery,
    after: Option<&(Timestamp, String)>,
    limit: usize,
) -> Statement {
    let mut sql = Statement::new(names, SELECT_OWNER);
    sql.push(" WHERE TRUE");
    if let Some(plan) = query.plan.as_deref() {
        sql.push(" AND plan = ").push_bind(plan);
    }
    if let Some(status) = query.status {
        sql.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(ids) = query.wanted_ids() {
        // `IN` needs at least one element; no owner has an empty id. Stored texts never contain U+0000, which
        // PostgreSQL rejects.
        sql.push(" AND id IN (''");
        for id in ids.iter().filter(|id| !id.contains('\0')) {
            sql.push(", ").push_bind(&**id);
        }
        sql.push(")");
    }
    if let Some((time, id)) = after {
        sql.push(" AND (created_at, id) < (")
            .push_bind(Value::Time(Some(as_micros(*time))))
            .push(", ")
            .push_bind(&**id)
            .push(")");
    }
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT ")
        .push_bind(limit as i64);
    sql
}

pub(super) fn owner_of(row: &impl Row) -> Result<Owner, SqlError> {
    let mut owner = Owner::new(text(row, "id")?, time(row, "created_at")?);
    owner.name = row.text("name")?.map(Into::into);
    owner.plan = row.text("plan")?.map(Into::into);
    owner.limits = from_json(required(row.json("limits")?)?)?;
    owner.status = parsed(required(row.text("status")?)?)?;
    owner.metadata = from_json(required(row.json("metadata")?)?)?;
    Ok(owner)
}

/// Inserts a plan if its name does not exist.
pub(super) fn insert_plan(names: &Names, plan: &Plan) -> Statement {
    let insert = "INSERT INTO {prefix}plans (name, key_limits, owner_limits, metadata, created_at)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    let mut sql = Statement::new(names, insert);
    sql.values.extend(plan_columns(plan));
    sql.bind(Value::Time(Some(as_micros(plan.created_at))))
}

pub(super) fn update_plan(names: &Names, plan: &Plan) -> Statement {
    let update = "UPDATE {prefix}plans SET key_limits = $2, owner_limits = $3, metadata = $4 WHERE name = $1";
    let mut sql = Statement::new(names, update);
    sql.values.extend(plan_columns(plan));
    sql
}

/// The name and the mutable columns, with which both statements begin.
fn plan_columns(plan: &Plan) -> [Value; 4] {
    [
        (&*plan.name).into(),
        Value::Json(Some(to_json(&plan.key_limits))),
        Value::Json(Some(to_json(&plan.owner_limits))),
        Value::Json(Some(to_json(&plan.metadata))),
    ]
}

pub(super) fn find_plan(names: &Names, name: &str) -> Statement {
    let mut sql = Statement::new(names, SELECT_PLAN);
    sql.push(" WHERE name = ").push_bind(name);
    sql
}

/// Selects a plan and locks its row for an update or a deletion.
pub(super) fn lock_plan(names: &Names, name: &str) -> Statement {
    let mut sql = find_plan(names, name);
    sql.push(names.dialect.lock_rows());
    sql
}

/// Selects a plan and prevents its deletion.
pub(super) fn share_plan(names: &Names, name: &str) -> Statement {
    let mut sql = find_plan(names, name);
    sql.push(names.dialect.share_rows());
    sql
}

pub(super) fn plans(names: &Names) -> Statement {
    let mut sql = Statement::new(names, SELECT_PLAN);
    sql.push(" ORDER BY name");
    sql
}

/// Selects a row if a key or an owner has the plan.
pub(super) fn uses_of_plan(names: &Names, name: &str) -> Statement {
    let select = "SELECT 1 AS used FROM {prefix}keys WHERE plan = $1
        UNION ALL SELECT 1 AS used FROM {prefix}owners WHERE plan = $1 LIMIT 1";
    Statement::new(names, select).bind(name)
}

pub(super) fn delete_plan(names: &Names, name: &str) -> Statement {
    Statement::new(names, "DELETE FROM {prefix}plans WHERE name = $1").bind(name)
}

pub(super) fn plan_of(row: &impl Row) -> Result<Plan, SqlError> {
    let mut plan = Plan::new(text(row, "name")?, time(row, "created_at")?);
    plan.key_limits = from_json(required(row.json("key_limits")?)?)?;
    plan.owner_limits = from_json(required(row.json("owner_limits")?)?)?;
    plan.metadata = from_json(required(row.json("metadata")?)?)?;
    Ok(plan)
}
