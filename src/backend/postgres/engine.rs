//! The PostgreSQL implementation of [`Engine`].

use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{
    AssertSqlSafe, Error as SqlError, PgPool, Postgres, Row as _, Transaction, ValueRef as _,
};
use uuid::Uuid;

use super::listener::Listener;
use super::partition_cache::PartitionCache;
use super::rollups::{add_rollups, insert_rollups};
use super::types::{Id, Json, Time, address};
use crate::backend::sql::{
    ActivityWriter, CallerCache, Changed, Dictionaries, Engine, Names, Row, SeriesRollup, Session,
    Statement, Value, decode, timestamp,
};
use crate::key::InvalidationFeed;

pub(in crate::backend) struct PostgresEngine {
    pub(super) pool: PgPool,
    pub(super) names: Names,
    pub(super) dictionaries: Dictionaries,
    pub(super) callers: CallerCache,
    pub(super) activity: ActivityWriter,
    pub(super) partition_cache: PartitionCache,
    /// Listens for changes by other processes; `None` if disabled.
    pub(super) listener: Option<Listener>,
}

pub(in crate::backend) enum PostgresSession {
    Connection(PoolConnection<Postgres>),
    Transaction(Transaction<'static, Postgres>),
}

impl PostgresSession {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Connection(connection) => connection,
            Self::Transaction(transaction) => transaction,
        }
    }
}

/// Advisory locks, per set of tables.
#[derive(Clone, Copy)]
pub(super) enum LockKey {
    /// Held while tables and partitions are created.
    Schema = 0,
    /// Held by a batch from getting its position in the log until its commit.
    LogOrder = 1,
    /// Held while rollups are merged.
    Merge = 2,
    /// Held while callers and kinds are registered.
    Register = 3,
}

/// The default lock timeout.
pub(super) const LOCK_TIMEOUT: &str = "2s";

/// Sets the lock timeout of the transaction.
pub(super) fn lock_timeout(time: &str) -> String {
    format!("SET LOCAL lock_timeout = '{time}'")
}

impl PostgresEngine {
    /// An SQL expression for an identifier of this set of tables, in hexadecimal digits, for database-wide
    /// namespaces. It is the same for a configured schema and for one found by the `search_path`.
    fn digits(&self) -> String {
        let schema = self.names.schema_in_sql();
        let name = format!("'\"' || coalesce({schema}, '') || '\".{{unqualified_prefix}}'");
        let digits = format!("left(encode(sha256(convert_to({name}, 'UTF8')), 'hex'), 16)");
        self.names.sql(&digits)
    }

    /// An SQL expression for the key of an advisory lock.
    pub(super) fn lock_key(&self, key: LockKey) -> String {
        format!(
            "('x' || {})::bit(64)::bigint # {}",
            self.digits(),
            key as u8
        )
    }

    /// Begins a transaction.
    ///
    /// In a task, so that it cannot be cancelled: sqlx does not roll back a transaction whose `BEGIN` was cancelled,
    /// and later queries on its connection would read from its snapshot.
    async fn begin(&self, statement: &'static str) -> Result<PostgresSession, SqlError> {
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(statement).await });
        // The task only fails if the runtime shuts down.
        let transaction = begun.await.map_err(|_| SqlError::PoolClosed)??;
        Ok(PostgresSession::Transaction(transaction))
    }

    /// A transaction that is exclusive across processes. `wait` is the timeout for the exclusive lock. Other locks
    /// have the default timeout, since waiting processes occupy connections that lookups may need.
    pub(super) async fn exclusive(
        &self,
        key: LockKey,
        wait: &str,
    ) -> Result<PostgresSession, SqlError> {
        let mut session = self.writer().await?;
        session.execute_script(&lock_timeout(wait)).await?;
        let key = self.lock_key(key);
        let lock = format!("SELECT pg_advisory_xact_lock({key})");
        session.execute_script(&lock).await?;
        session.execute_script(&lock_timeout(LOCK_TIMEOUT)).await?;
        Ok(session)
    }

    /// An SQL expression for the notification channel for changed keys.
    pub(super) fn channel(&self) -> String {
        format!("'keytally_' || {}", self.digits())
    }
}

impl Engine for PostgresEngine {
    type Session = PostgresSession;

    fn names(&self) -> &Names {
        &self.names
    }

    fn callers(&self) -> &CallerCache {
        &self.callers
    }

    async fn reader(&self) -> Result<PostgresSession, SqlError> {
        self.pool.acquire().await.map(PostgresSession::Connection)
    }

    async fn snapshot(&self) -> Result<PostgresSession, SqlError> {
        // The planner would choose JIT compilation with many partitions, and parallel workers for several small parts.
        // These take hundreds of milliseconds and some twenty, for queries that take a few.
        self.begin(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off;
            SET LOCAL max_parallel_workers_per_gather = 0",
        )
        .await
    }

    async fn writer(&self) -> Result<PostgresSession, SqlError> {
        self.begin("BEGIN").await
    }

    async fn migrator(&self) -> Result<PostgresSession, SqlError> {
        // A migration in another process may take long.
        let mut session = self.exclusive(LockKey::Schema, "1min").await?;
        if let Some(schema) = self.names.schema() {
            // Checked first, since the user may lack the privilege to create a schema that already exists.
            let exists = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
            let exists = Statement::new(&self.names, exists).bind(schema);
            if session.fetch(exists).await?.is_empty() {
                session
                    .execute_script(&format!("CREATE SCHEMA \"{schema}\""))
                    .await?;
            }
        }
        Ok(session)
    }

    async fn registrar(&self) -> Result<PostgresSession, SqlError> {
        self.exclusive(LockKey::Register, LOCK_TIMEOUT).await
    }

    async fn merger(&self, waits: bool) -> Result<Option<PostgresSession>, SqlError> {
        let mut session = self.writer().await?;
        let key = self.lock_key(LockKey::Merge);
        if waits {
            session.execute_script(&lock_timeout("1min")).await?;
            let lock = format!("SELECT pg_advisory_xact_lock({key})");
            session.execute_script(&lock).await?;
        } else {
            let lock = format!("SELECT pg_try_advisory_xact_lock({key}) AS is_locked");
            let rows = session.fetch(Statement::new(&self.names, &lock)).await?;
            let is_locked = rows.first().map(|row| Row::boolean(row, "is_locked"));
            if !is_locked.transpose()?.unwrap_or(false) {
                return Ok(None);
            }
        }
        // Other processes cannot merge meanwhile, even if this one is gone without closing its connection.
        let timeouts = "SET LOCAL idle_in_transaction_session_timeout = '1min'";
        let timeouts = format!("{}; {timeouts}", lock_timeout(LOCK_TIMEOUT));
        session.execute_script(&timeouts).await?;
        Ok(Some(session))
    }

    async fn add_rollups(
        &self,
        session: &mut PostgresSession,
        table: &str,
        rollups: &[SeriesRollup],
        are_new: bool,
    ) -> Result<(), SqlError> {
        let connection = session.connection();
        match are_new {
            true => insert_rollups(connection, &self.names, table, rollups).await,
            false => add_rollups(connection, &self.names, table, rollups).await,
        }
    }

    /// The time of the server, so that a process with a wrong clock does not prune usage too early.
    async fn now(&self) -> Result<Timestamp, SqlError> {
        let now = Statement::new(&self.names, "SELECT now() AS now");
        let rows = self.reader().await?.fetch(now).await?;
        let now = rows.first().map(|row| Row::time(row, "now")).transpose()?;
        timestamp(now.flatten().ok_or(SqlError::RowNotFound)?)
    }

    async fn prune_log(&self, before: i64) -> Result<u64, SqlError> {
        self.prune_partitions(before).await
    }

    async fn announce(
        &self,
        session: &mut PostgresSession,
        changed: &[Changed],
    ) -> Result<(), SqlError> {
        let channel = self.channel();
        let notify = format!("SELECT pg_notify({channel}, payload) FROM (VALUES ");
        let mut notify = Statement::new(&self.names, &notify);
        notify.push_rows(changed, |changed| [(&*changed.payload()).into()]);
        notify.push(") changed (payload)");
        session.execute(notify).await?;
        Ok(())
    }

    fn before_lookup(&self, changes: &InvalidationFeed) {
        if let Some(listener) = &self.listener {
            listener.ensure(&self.pool, || self.channel(), changes);
        }
    }
}

impl Session for PostgresSession {
    type Row = PgRow;

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<PgRow>, SqlError> {
        let query = sqlx::query_with(AssertSqlSafe(statement.text), bound(statement.values)?);
        query.fetch_all(self.connection()).await
    }

    async fn execute(&mut self, statement: Statement) -> Result<u64, SqlError> {
        let query = sqlx::query_with(AssertSqlSafe(statement.text), bound(statement.values)?);
        let done = query.execute(self.connection()).await?;
        Ok(done.rows_affected())
    }

    async fn execute_script(&mut self, text: &str) -> Result<(), SqlError> {
        let script = sqlx::raw_sql(AssertSqlSafe(text));
        script.execute(self.connection()).await?;
        Ok(())
    }

    async fn commit(self) -> Result<(), SqlError> {
        match self {
            Self::Connection(_) => Ok(()),
            Self::Transaction(transaction) => transaction.commit().await,
        }
    }
}

pub(super) fn bound(values: Vec<Value>) -> Result<PgArguments, SqlError> {
    use sqlx::Arguments as _;

    let mut arguments = PgArguments::default();
    for value in values {
        let added = match value {
            Value::Text(text) => arguments.add(text),
            Value::Integer(number) => arguments.add(number),
            Value::Integers(numbers) => arguments.add(numbers),
            Value::Boolean(value) => arguments.add(value),
            Value::Time(time) => arguments.add(time.map(Time)),
            Value::Uuid(id) => arguments.add(Id(id.into_bytes())),
            Value::Bytes(bytes) => arguments.add(bytes),
            Value::Json(text) => arguments.add(text.map(Json)),
        };
        added.map_err(SqlError::Encode)?;
    }
    Ok(arguments)
}

impl Row for PgRow {
    fn text(&self, column: &str) -> Result<Option<&str>, SqlError> {
        self.try_get(column)
    }

    fn integer(&self, column: &str) -> Result<Option<i64>, SqlError> {
        let value = self.try_get_raw(column)?;
        if value.is_null() {
            return Ok(None);
        }
        // A `bigint` or an `integer`.
        let bytes = value.as_bytes().map_err(decode)?;
        if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
            return Ok(Some(i64::from_be_bytes(bytes)));
        }
        let bytes = <[u8; 4]>::try_from(bytes).map_err(decode)?;
        Ok(Some(i32::from_be_bytes(bytes).into()))
    }

    fn boolean(&self, column: &str) -> Result<bool, SqlError> {
        self.try_get(column)
    }

    fn bytes(&self, column: &str) -> Result<Option<&[u8]>, SqlError> {
        self.try_get(column)
    }

    fn time(&self, column: &str) -> Result<Option<i64>, SqlError> {
        let time: Option<Time> = self.try_get(column)?;
        Ok(time.map(|time| time.0))
    }

    fn uuid(&self, column: &str) -> Result<Uuid, SqlError> {
        let id: Id = self.try_get(column)?;
        Ok(Uuid::from_bytes(id.0))
    }

    fn json(&self, column: &str) -> Result<Option<&str>, SqlError> {
        let json: Option<Json<&str>> = self.try_get(column)?;
        Ok(json.map(|json| json.0))
    }

    fn address(&self, column: &str) -> Result<Option<String>, SqlError> {
        let value = self.try_get_raw(column)?;
        if value.is_null() {
            return Ok(None);
        }
        let ip = address(value.as_bytes().map_err(decode)?);
        let ip = ip.ok_or_else(|| decode("malformed inet value"))?;
        Ok(Some(ip.to_string()))
    }
}
