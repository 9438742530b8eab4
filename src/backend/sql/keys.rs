//! Statements for keys.

use sqlx::Error as SqlError;

use super::engine::{Row, Statement, Value};
use super::names::Names;
use super::value::{
    as_micros, ceil_micros, floor_micros, from_json, optional_time, parsed, required, text, time,
    to_json,
};
use crate::id::KeyId;
use crate::key::{EncryptedSecret, Key, KeyQuery, KeyRecord, KeyStatus, StoreError};

/// Does not read the encrypted secret, only whether there is one.
const SELECT: &str = "SELECT id, name, owner, environment, scopes, limits, addresses, metadata,
    created_at, expires_at, disabled, revoked_at, rotated_from, lineage, last_used_at, hint, digest,
    encrypted_secret IS NOT NULL AS recoverable
    FROM §keys";

const SELECT_ENCRYPTED_SECRET: &str = "SELECT encrypted_secret FROM §keys WHERE id = $1";

const INSERT: &str = "INSERT INTO §keys (id, name, name_lower, owner, environment, scopes, limits,
    addresses, metadata, expires_at, disabled, revoked_at, created_at, rotated_from, lineage, last_used_at, hint,
    digest, encrypted_secret)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
    ON CONFLICT DO NOTHING";

/// Updates the mutable columns except `last_used_at`, which the sink writes. The encrypted secret can only be
/// removed.
const UPDATE: &str = "UPDATE §keys SET name = $2, name_lower = $3, owner = $4, environment = $5,
    scopes = $6, limits = $7, addresses = $8, metadata = $9, expires_at = $10, disabled = $11,
    revoked_at = $12, encrypted_secret = CASE WHEN $13 THEN encrypted_secret END
    WHERE id = $1";

pub(super) fn find(names: &Names, id: KeyId) -> Statement {
    let mut sql = Statement::new(names, SELECT);
    sql.push(" WHERE id = ").push_bind(id);
    sql
}

/// Selects a key and locks its row for an update.
pub(super) fn lock_key(names: &Names, id: KeyId) -> Statement {
    let mut sql = find(names, id);
    sql.push(names.dialect.lock_rows());
    sql
}

pub(super) fn insert(names: &Names, record: &KeyRecord) -> Statement {
    let key = &record.key;
    let encrypted = record.encrypted_secret.as_ref();
    let encrypted = encrypted.map(|encrypted| encrypted.as_bytes().to_vec());
    bind_mutable(Statement::new(names, INSERT), key)
        .bind(Value::Time(Some(as_micros(key.created_at))))
        .bind(key.rotated_from.as_ref().map(KeyId::as_str))
        .bind(key.lineage)
        .bind(Value::Time(key.last_used_at.map(as_micros)))
        .bind(&*key.hint)
        .bind(&*record.digest.to_string())
        .bind(Value::Bytes(encrypted))
}

/// Selects the encrypted secret of a key.
pub(super) fn encrypted_secret(names: &Names, id: KeyId) -> Statement {
    Statement::new(names, SELECT_ENCRYPTED_SECRET).bind(id)
}

pub(super) fn update(names: &Names, record: &KeyRecord) -> Statement {
    let key = &record.key;
    bind_mutable(Statement::new(names, UPDATE), key).bind(Value::Boolean(key.recoverable))
}

/// Binds the id and the mutable columns, with which both statements begin.
fn bind_mutable(sql: Statement, key: &Key) -> Statement {
    sql.bind(key.id)
        .bind(&*key.name)
        .bind(&*key.name.to_lowercase())
        .bind(key.owner.as_deref())
        .bind(key.environment.as_deref())
        .bind(Value::Json(Some(to_json(&key.scopes))))
        .bind(Value::Json(Some(to_json(&key.limits))))
        .bind(Value::Json(Some(to_json(&key.addresses))))
        .bind(Value::Json(Some(to_json(&key.metadata))))
        .bind(Value::Time(key.expires_at.map(as_micros)))
        .bind(Value::Boolean(key.disabled))
        .bind(Value::Time(key.revoked_at.map(as_micros)))
}

pub(super) fn delete(names: &Names, id: KeyId) -> Statement {
    Statement::new(names, "DELETE FROM §keys WHERE id = $1").bind(id)
}

/// Selects a page of keys, and one more to detect the last page.
pub(super) fn list(names: &Names, query: &KeyQuery) -> Result<Statement, StoreError> {
    let mut sql = Statement::new(names, SELECT);
    sql.push(" WHERE TRUE");
    if let Some(owner) = query.owner.as_deref() {
        sql.push(" AND owner = ").push_bind(owner);
    }
    if let Some(part) = query.name.as_deref().filter(|part| !part.is_empty()) {
        let (before, after) = names.dialect.position("name_lower");
        sql.push(" AND ").push(&before);
        sql.push_bind(&*part.to_lowercase())
            .push(after)
            .push(" > 0");
    }
    if let Some((status, at)) = query.status {
        let at = Value::Time(Some(floor_micros(at)));
        match status {
            KeyStatus::Revoked => sql.push(" AND revoked_at IS NOT NULL"),
            KeyStatus::Expired => sql
                .push(" AND revoked_at IS NULL AND expires_at <= ")
                .push_bind(at),
            KeyStatus::Disabled | KeyStatus::Active => sql
                .push(" AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ")
                .push_bind(at)
                .push(") AND disabled = ")
                .push_bind(Value::Boolean(status == KeyStatus::Disabled)),
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
        sql.push(" AND (last_used_at IS NULL OR last_used_at < ")
            .push_bind(time())
            .push(")");
    }
    if let Some(time) = query.expires_before {
        let time = Value::Time(Some(ceil_micros(time)));
        sql.push(" AND expires_at < ").push_bind(time);
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
    key.last_used_at = optional_time(row, "last_used_at")?;
    key.hint = text(row, "hint")?;
    key.recoverable = row.boolean("recoverable")?;
    let digest = parsed(required(row.text("digest")?)?)?;
    Ok(KeyRecord {
        key,
        digest,
        encrypted_secret: None,
    })
}

pub(super) fn encrypted_secret_of(row: &impl Row) -> Result<Option<EncryptedSecret>, SqlError> {
    Ok(row
        .bytes("encrypted_secret")?
        .map(EncryptedSecret::from_bytes))
}
