//! Statements for keys.

use sqlx::Error as SqlError;

use super::engine::{Row, Statement, Value};
use super::names::Names;
use super::value::{
    as_micros, ceil_micros, floor_micros, from_json, number, optional_time, parsed, required, text,
    time, to_json,
};
use crate::id::KeyId;
use crate::key::{EncryptedSecret, Key, KeyQuery, KeyRecord, KeyStatus, Policy, StoreError};
use crate::limit::RateLimit;

/// Does not read the encrypted secret, only whether there is one.
const SELECT: &str = "SELECT id, name, owner, plan, environment, scopes, limits, addresses, metadata,
    created_at, expires_at, disabled, revoked_at, rotated_from, replaced_by, lineage, first_accepted_at,
    last_accepted_at, rejected_since, hint, digest,
    encrypted_secret IS NOT NULL AS recoverable, imported
    FROM {prefix}keys";

/// The columns of [`policy_of`].
const SELECT_POLICY: &str =
    "kp.key_limits AS plan_key_limits, op.key_limits AS owner_plan_key_limits,
    o.limits AS owner_limits, op.owner_limits AS owner_plan_limits, o.status AS owner_status";

const SELECT_ENCRYPTED_SECRET: &str = "SELECT encrypted_secret FROM {prefix}keys WHERE id = $1";

const INSERT: &str = "INSERT INTO {prefix}keys (id, name, name_lower, owner, plan, environment, scopes, limits,
    addresses, metadata, expires_at, disabled, revoked_at, replaced_by, created_at, rotated_from, lineage,
    first_accepted_at, last_accepted_at, rejected_since, hint, digest, encrypted_secret, imported) VALUES ";

/// Updates the mutable columns except the activity, which the sink writes. The encrypted secret can only be
/// removed.
const UPDATE: &str =
    "UPDATE {prefix}keys SET name = $2, name_lower = $3, owner = $4, plan = $5,
    environment = $6, scopes = $7, limits = $8, addresses = $9, metadata = $10, expires_at = $11, disabled = $12,
    revoked_at = $13, replaced_by = $14, encrypted_secret = CASE WHEN $15 THEN encrypted_secret END, digest = $16
    WHERE id = $1";

pub(super) fn find(names: &Names, id: KeyId) -> Statement {
    let mut sql = Statement::new(names, SELECT);
    sql.push(" WHERE id = ").push_bind(id);
    sql
}

/// Selects a key with its policy.
pub(super) fn look_up(names: &Names, id: KeyId) -> Statement {
    let owner = names.dialect.in_byte_order("k.owner");
    let select = format!(
        "SELECT k.*, {SELECT_POLICY} FROM ({SELECT} WHERE id = $1) k
        LEFT JOIN {{prefix}}owners o ON o.id = {owner}
        LEFT JOIN {{prefix}}plans kp ON kp.name = k.plan
        LEFT JOIN {{prefix}}plans op ON op.name = o.plan"
    );
    Statement::new(names, &select).bind(id)
}

/// Selects a key and locks its row for an update.
pub(super) fn lock_key(names: &Names, id: KeyId) -> Statement {
    let mut sql = find(names, id);
    sql.push(names.dialect.lock_rows());
    sql
}

/// Inserts the records whose ids do not exist, and returns these ids.
pub(super) fn insert(names: &Names, records: &[KeyRecord]) -> Statement {
    let mut sql = Statement::new(names, INSERT);
    sql.push_rows(records, |record| {
        let key = &record.key;
        let encrypted = record.encrypted_secret.as_ref();
        let encrypted = encrypted.map(|encrypted| encrypted.as_bytes().to_vec());
        mutable(key).into_iter().chain([
            Value::Time(Some(as_micros(key.created_at))),
            key.rotated_from.as_ref().map(KeyId::as_str).into(),
            key.lineage.into(),
            Value::Time(key.first_accepted_at.map(as_micros)),
            Value::Time(key.last_accepted_at.map(as_micros)),
            i64::try_from(key.rejected_since).unwrap_or(i64::MAX).into(),
            (&*key.hint).into(),
            (&*record.digest.to_string()).into(),
            Value::Bytes(encrypted),
            Value::Boolean(key.imported),
        ])
    });
    sql.push(" ON CONFLICT DO NOTHING RETURNING id");
    sql
}

/// Decodes a row of [`insert`].
pub(super) fn id_of(row: &impl Row) -> Result<KeyId, SqlError> {
    parsed(required(row.text("id")?)?)
}

/// Selects the encrypted secret of a key.
pub(super) fn encrypted_secret(names: &Names, id: KeyId) -> Statement {
    Statement::new(names, SELECT_ENCRYPTED_SECRET).bind(id)
}

pub(super) fn update(names: &Names, record: &KeyRecord) -> Statement {
    let key = &record.key;
    let mut sql = Statement::new(names, UPDATE);
    sql.values.extend(mutable(key));
    sql.bind(Value::Boolean(key.recoverable))
        .bind(&*record.digest.to_string())
}

/// The id and the mutable columns, with which both statements begin.
fn mutable(key: &Key) -> [Value; 14] {
    [
        key.id.into(),
        (&*key.name).into(),
        (&*key.name.to_lowercase()).into(),
        key.owner.as_deref().into(),
        key.plan.as_deref().into(),
        key.environment.as_deref().into(),
        Value::Json(Some(to_json(&key.scopes))),
        Value::Json(Some(to_json(&key.limits))),
        Value::Json(Some(to_json(&key.addresses))),
        Value::Json(Some(to_json(&key.metadata))),
        Value::Time(key.expires_at.map(as_micros)),
        Value::Boolean(key.disabled),
        Value::Time(key.revoked_at.map(as_micros)),
        key.replaced_by.as_ref().map(KeyId::as_str).into(),
    ]
}

pub(super) fn delete(names: &Names, id: KeyId) -> Statement {
    Statement::new(names, "DELETE FROM {prefix}keys WHERE id = $1").bind(id)
}

/// Selects up to `limit` owners of keys, sorted by name. All of them have records, in this order.
pub(super) fn owners(names: &Names, limit: i64) -> Statement {
    let id = names.dialect.with_default_collation("o.id");
    let select = format!(
        "SELECT id AS owner FROM {{prefix}}owners o
        WHERE EXISTS (SELECT 1 FROM {{prefix}}keys k WHERE k.owner = {id}) ORDER BY id LIMIT $1"
    );
    Statement::new(names, &select).bind(limit)
}

/// Selects a page of keys, and one more to detect the last page. `owners` are those that contain the text in the query.
pub(super) fn list(
    names: &Names,
    query: &KeyQuery,
    owners: Option<&[String]>,
) -> Result<Statement, StoreError> {
    let mut sql = Statement::new(names, SELECT);
    sql.push(" WHERE TRUE");
    if let Some(owner) = query.owner.as_deref() {
        sql.push(" AND owner = ").push_bind(owner);
    }
    if let Some(plan) = query.plan.as_deref() {
        sql.push(" AND plan = ").push_bind(plan);
    }
    if let Some(owners) = owners {
        let place = sql.placeholder(Value::Json(Some(to_json(&owners))));
        let is_one = names.dialect.is_one_of_texts("owner", &place);
        sql.push(" AND ").push(&is_one);
    }
    let contains = |sql: &mut Statement, column: &str, part: &str| {
        let (before, after) = names.dialect.position(column);
        sql.push(&before).push_bind(part).push(after).push(" > 0");
    };
    if let Some(part) = query.name.as_deref().filter(|part| !part.is_empty()) {
        sql.push(" AND ");
        contains(&mut sql, "name_lower", &part.to_lowercase());
    }
    if let Some(text) = query.search.as_deref().filter(|text| !text.is_empty()) {
        sql.push(" AND (");
        contains(&mut sql, "name_lower", &text.to_lowercase());
        for column in ["hint", "id"] {
            sql.push(" OR ");
            contains(&mut sql, column, text);
        }
        sql.push(")");
    }
    if let Some((status, at)) = query.status {
        let at = Value::Time(Some(floor_micros(at)));
        match status {
            KeyStatus::Revoked => sql.push(" AND revoked_at IS NOT NULL"),
            KeyStatus::Expired => sql
                .push(" AND revoked_at IS NULL AND expires_at <= ")
                .push_bind(at),
            KeyStatus::Disabled | KeyStatus::Active => {
                sql.push(" AND revoked_at IS NULL AND (");
                // `expires_before` excludes keys without an expiry. With this condition, SQLite would not use the index
                // on `expires_at`.
                if query.expires_before.is_none() {
                    sql.push("expires_at IS NULL OR ");
                }
                sql.push("expires_at > ")
                    .push_bind(at)
                    .push(") AND disabled = ")
                    .push_bind(Value::Boolean(status == KeyStatus::Disabled))
            }
        };
    }
    if let Some(ids) = query.wanted_ids() {
        // `IN` needs at least one element; no key has an empty id.
        sql.push(" AND id IN (''");
        for &id in ids {
            sql.push(", ").push_bind(id);
        }
        sql.push(")");
    }
    if let Some(time) = query.unused_since {
        let time = || Value::Time(Some(ceil_micros(time)));
        sql.push(" AND created_at < ").push_bind(time());
        sql.push(" AND (last_accepted_at IS NULL OR last_accepted_at < ")
            .push_bind(time())
            .push(")");
    }
    if let Some(time) = query.expires_before {
        let time = Value::Time(Some(ceil_micros(time)));
        sql.push(" AND expires_at < ").push_bind(time);
    }
    if let Some(imported) = query.imported {
        let imported = Value::Boolean(imported);
        sql.push(" AND imported = ").push_bind(imported);
    }
    if let Some(token) = &query.page.after {
        let id: KeyId = token.id()?;
        sql.push(" AND (created_at, id) < (")
            .push_bind(Value::Time(Some(as_micros(token.time()))))
            .push(", ")
            .push_bind(id)
            .push(")");
    }
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT ")
        .push_bind(query.page.size() as i64 + 1);
    Ok(sql)
}

pub(super) fn record_of(row: &impl Row) -> Result<KeyRecord, SqlError> {
    let id: KeyId = parsed(required(row.text("id")?)?)?;
    let mut key = Key::new(id, text(row, "name")?, time(row, "created_at")?);
    key.owner = row.text("owner")?.map(Into::into);
    key.plan = row.text("plan")?.map(Into::into);
    key.environment = row.text("environment")?.map(Into::into);
    key.scopes = from_json(required(row.json("scopes")?)?)?;
    key.limits = from_json(required(row.json("limits")?)?)?;
    key.addresses = from_json(required(row.json("addresses")?)?)?;
    key.metadata = from_json(required(row.json("metadata")?)?)?;
    key.expires_at = optional_time(row, "expires_at")?;
    key.disabled = row.boolean("disabled")?;
    key.revoked_at = optional_time(row, "revoked_at")?;
    key.rotated_from = row.text("rotated_from")?.map(parsed).transpose()?;
    key.lineage = parsed(required(row.text("lineage")?)?)?;
    key.replaced_by = row.text("replaced_by")?.map(parsed).transpose()?;
    key.first_accepted_at = optional_time(row, "first_accepted_at")?;
    key.last_accepted_at = optional_time(row, "last_accepted_at")?;
    key.rejected_since = number(row, "rejected_since")?;
    key.hint = text(row, "hint")?;
    key.recoverable = row.boolean("recoverable")?;
    key.imported = row.boolean("imported")?;
    let digest = parsed(required(row.text("digest")?)?)?;
    Ok(KeyRecord::new(key, digest))
}

/// The record of a row of [`look_up`].
pub(super) fn record_with_policy(row: &impl Row) -> Result<KeyRecord, SqlError> {
    let limits = |column: &str| -> Result<Vec<RateLimit>, SqlError> {
        let limits = row.json(column)?.map(from_json).transpose()?;
        Ok(limits.unwrap_or_default())
    };
    let mut record = record_of(row)?;
    record.policy = Policy::resolve(
        [limits("plan_key_limits")?, limits("owner_plan_key_limits")?],
        [limits("owner_limits")?, limits("owner_plan_limits")?],
        row.text("owner_status")?.map(parsed).transpose()?,
    );
    Ok(record)
}

pub(super) fn encrypted_secret_of(row: &impl Row) -> Result<Option<EncryptedSecret>, SqlError> {
    Ok(row
        .bytes("encrypted_secret")?
        .map(EncryptedSecret::from_bytes))
}
