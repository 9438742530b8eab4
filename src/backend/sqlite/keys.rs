//! Keys in SQLite.

use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use super::SqliteBackend;
use crate::backend::sql::{KeyRow, TablePrefix, as_micros, floor_micros};
use crate::id::KeyId;
use crate::key::{
    ChangeFeed, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStatus, KeyStore, Rotation,
    StoreError,
};
use crate::page::Page;

const SELECT: &str = "SELECT id, name, name_folded, owner, environment, scopes, limits, addresses,
    metadata, created, expires, disabled, revoked, rotated_from, line, last_used, hint, digest
    FROM §keys";

const INSERT: &str = "INSERT INTO §keys (id, name, name_folded, owner, environment, scopes, limits,
    addresses, metadata, created, expires, disabled, revoked, rotated_from, line, last_used, hint,
    digest)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
    ON CONFLICT DO NOTHING";

/// What changes of a key after it was issued, but for its last use, which the sink writes.
const UPDATE: &str = "UPDATE §keys SET name = ?2, name_folded = ?3, owner = ?4, environment = ?5,
    scopes = ?6, limits = ?7, addresses = ?8, metadata = ?9, expires = ?11, disabled = ?12,
    revoked = ?13
    WHERE id = ?1";

type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

/// The columns from `id` to `revoked`, as both statements number them.
fn bind_common<'q>(query: Bound<'q>, row: &KeyRow) -> Bound<'q> {
    query
        .bind(&*row.id)
        .bind(&*row.name)
        .bind(&*row.name_folded)
        .bind(row.owner.as_deref())
        .bind(row.environment.as_deref())
        .bind(&*row.scopes)
        .bind(&*row.limits)
        .bind(&*row.addresses)
        .bind(&*row.metadata)
        .bind(row.created)
        .bind(row.expires)
        .bind(row.disabled)
        .bind(row.revoked)
}

fn record_of(row: &SqliteRow) -> Result<KeyRecord, sqlx::Error> {
    KeyRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        name_folded: row.try_get("name_folded")?,
        owner: row.try_get("owner")?,
        environment: row.try_get("environment")?,
        scopes: row.try_get("scopes")?,
        limits: row.try_get("limits")?,
        addresses: row.try_get("addresses")?,
        metadata: row.try_get("metadata")?,
        created: row.try_get("created")?,
        expires: row.try_get("expires")?,
        disabled: row.try_get("disabled")?,
        revoked: row.try_get("revoked")?,
        rotated_from: row.try_get("rotated_from")?,
        line: row.try_get("line")?,
        last_used: row.try_get("last_used")?,
        hint: row.try_get("hint")?,
        digest: row.try_get("digest")?,
    }
    .try_into()
}

async fn fetch(
    tables: &TablePrefix,
    connection: &mut SqliteConnection,
    id: KeyId,
) -> Result<Option<KeyRecord>, StoreError> {
    let row = sqlx::query(tables.sql(&format!("{SELECT} WHERE id = ?")))
        .bind(id.as_str())
        .fetch_optional(connection)
        .await
        .map_err(StoreError::unavailable)?;
    let record = row.as_ref().map(record_of).transpose();
    record.map_err(StoreError::unavailable)
}

async fn insert(
    tables: &TablePrefix,
    connection: &mut SqliteConnection,
    record: &KeyRecord,
) -> Result<(), StoreError> {
    let row = KeyRow::from(record);
    let added = bind_common(sqlx::query(tables.sql(INSERT)), &row)
        .bind(row.rotated_from.as_deref())
        .bind(&*row.line)
        .bind(row.last_used)
        .bind(&*row.hint)
        .bind(&*row.digest)
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    if added.rows_affected() == 0 {
        return Err(StoreError::Conflict(record.key.id));
    }
    Ok(())
}

async fn update(
    tables: &TablePrefix,
    connection: &mut SqliteConnection,
    record: &KeyRecord,
) -> Result<(), StoreError> {
    bind_common(sqlx::query(tables.sql(UPDATE)), &KeyRow::from(record))
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

fn list_statement(
    tables: &TablePrefix,
    query: &KeyQuery,
) -> Result<QueryBuilder<Sqlite>, StoreError> {
    let mut sql = QueryBuilder::new(tables.sql(SELECT).0);
    sql.push(" WHERE TRUE");
    if let Some(owner) = &query.owner {
        sql.push(" AND owner = ").push_bind(owner.clone());
    }
    if let Some(part) = query.name.as_deref().filter(|part| !part.is_empty()) {
        sql.push(" AND instr(name_folded, ")
            .push_bind(part.to_lowercase())
            .push(") > 0");
    }
    if let Some((status, at)) = query.status {
        let at = floor_micros(at);
        match status {
            KeyStatus::Revoked => sql.push(" AND revoked IS NOT NULL"),
            KeyStatus::Expired => sql
                .push(" AND revoked IS NULL AND expires <= ")
                .push_bind(at),
            KeyStatus::Disabled | KeyStatus::Active => sql
                .push(" AND revoked IS NULL AND (expires IS NULL OR expires > ")
                .push_bind(at)
                .push(") AND disabled = ")
                .push_bind(status == KeyStatus::Disabled),
        };
    }
    if let Some(token) = &query.after {
        let id: KeyId = token.id()?;
        sql.push(" AND (created, id) < (")
            .push_bind(as_micros(token.time()))
            .push(", ")
            .push_bind(id.to_string())
            .push(")");
    }
    sql.push(" ORDER BY created DESC, id DESC LIMIT ")
        .push_bind(query.page_size() as i64 + 1);
    Ok(sql)
}

#[async_trait]
impl KeyStore for SqliteBackend {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let connection = self.0.readers.acquire().await;
        let mut connection = connection.map_err(StoreError::unavailable)?;
        fetch(&self.0.tables, &mut connection, id).await
    }

    fn changes(&self) -> Option<&ChangeFeed> {
        Some(&self.0.changes)
    }
}

#[async_trait]
impl KeyAdmin for SqliteBackend {
    async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
        record.key.validate()?;
        let record = record.in_whole_micros();
        let mut tx = self.begin().await.map_err(StoreError::unavailable)?;
        insert(&self.0.tables, &mut tx, &record).await?;
        tx.commit().await.map_err(StoreError::unavailable)?;
        self.0.changes.announce(record.key.id);
        Ok(())
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let mut sql = list_statement(&self.0.tables, query)?;
        let rows = sql.build().fetch_all(&self.0.readers).await;
        let rows = rows.map_err(StoreError::unavailable)?;
        let keys = rows
            .iter()
            .map(|row| record_of(row).map(|record| record.key))
            .collect::<Result<_, _>>()
            .map_err(StoreError::unavailable)?;
        Ok(Page::from_surplus(keys, query.page_size(), KeyQuery::place))
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        let mut tx = self.begin().await.map_err(StoreError::unavailable)?;
        let record = fetch(&self.0.tables, &mut tx, id).await?;
        let mut record = record.ok_or(StoreError::NotFound(id))?;
        record.apply(&change)?;
        update(&self.0.tables, &mut tx, &record).await?;
        // Also when the commit fails: whether it took place cannot be told.
        let committed = tx.commit().await;
        self.0.changes.announce(id);
        committed.map_err(StoreError::unavailable)?;
        Ok(record.key)
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
        let mut tx = self.begin().await.map_err(StoreError::unavailable)?;
        let old = fetch(&self.0.tables, &mut tx, id).await?;
        let mut old = old.ok_or(StoreError::NotFound(id))?;
        let new = old.rotate(&rotation)?;
        insert(&self.0.tables, &mut tx, &new).await?;
        update(&self.0.tables, &mut tx, &old).await?;
        let committed = tx.commit().await;
        self.0.changes.announce(id);
        self.0.changes.announce(new.key.id);
        committed.map_err(StoreError::unavailable)?;
        Ok(new.key)
    }

    async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
        let deleted = sqlx::query(self.0.tables.sql("DELETE FROM §keys WHERE id = ?"))
            .bind(id.as_str())
            .execute(&self.0.writer)
            .await;
        self.0.changes.announce(id);
        match deleted.map_err(StoreError::unavailable)?.rows_affected() {
            0 => Err(StoreError::NotFound(id)),
            _ => Ok(()),
        }
    }
}
