//! PostgreSQL as a database that keys and usage can be kept in.

use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{
    AssertSqlSafe, Error as SqlError, PgPool, Postgres, Row as _, Transaction, ValueRef as _,
};
use uuid::Uuid;

use super::known_days::KnownDays;
use super::listener::Listener;
use super::types::{Id, Json, Time, address};
use crate::backend::sql::{
    Engine, Names, Row, SeriesCache, Session, Statement, Value, decode, timestamp,
};
use crate::id::KeyId;
use crate::key::InvalidationFeed;

pub(in crate::backend) struct PostgresEngine {
    pub(super) pool: PgPool,
    pub(super) names: Names,
    pub(super) known: SeriesCache,
    pub(super) known_days: KnownDays,
    /// Hears of changes that other processes make; `None` where nobody shall.
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

/// The advisory locks of these tables.
#[derive(Clone, Copy)]
pub(super) enum LockKey {
    /// Held while tables are made.
    Schema = 0,
    /// Held by a batch that has its place in the log until it is committed.
    LogOrder = 1,
}

/// How long a lock is waited for.
pub(super) const PATIENCE: &str = "2s";

/// Lets the transaction wait so long for each lock.
pub(super) fn lock_timeout(time: &str) -> String {
    format!("SET LOCAL lock_timeout = '{time}'")
}

impl PostgresEngine {
    /// Digits that stand for these tables wherever the whole database has one space of names, in SQL: the
    /// same for those who name their schema and those who find it by `search_path`.
    fn digits(&self) -> String {
        let schema = self.names.schema_in_sql();
        let name = format!("'\"' || coalesce({schema}, '') || '\".¶'");
        let digits = format!("left(encode(sha256(convert_to({name}, 'UTF8')), 'hex'), 16)");
        self.names.sql(&digits)
    }

    /// The key of an advisory lock, in SQL.
    pub(super) fn lock_key(&self, key: LockKey) -> String {
        format!(
            "('x' || {})::bit(64)::bigint # {}",
            self.digits(),
            key as u8
        )
    }

    /// A transaction that one process has at a time. It waits so long for the others, and not long for
    /// what else it needs: who waits for it holds a connection that look-ups may need.
    pub(super) async fn alone(&self, wait: &str) -> Result<PostgresSession, SqlError> {
        let mut session = self.writer().await?;
        session.script(&lock_timeout(wait)).await?;
        let key = self.lock_key(LockKey::Schema);
        let lock = format!("SELECT pg_advisory_xact_lock({key})");
        session.script(&lock).await?;
        session.script(&lock_timeout(PATIENCE)).await?;
        Ok(session)
    }

    /// Where changes of keys are told of, in SQL.
    pub(super) fn channel(&self) -> String {
        format!("'keytally_' || {}", self.digits())
    }
}

impl Engine for PostgresEngine {
    type Session = PostgresSession;

    fn names(&self) -> &Names {
        &self.names
    }

    async fn reader(&self) -> Result<PostgresSession, SqlError> {
        self.pool.acquire().await.map(PostgresSession::Connection)
    }

    async fn snapshot(&self) -> Result<PostgresSession, SqlError> {
        // Answers take milliseconds, and compiling a statement takes hundreds: for a log of many
        // partitions, the server would.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off";
        let begun = self.pool.begin_with(begin).await;
        begun.map(PostgresSession::Transaction)
    }

    async fn writer(&self) -> Result<PostgresSession, SqlError> {
        self.pool.begin().await.map(PostgresSession::Transaction)
    }

    async fn migrator(&self) -> Result<PostgresSession, SqlError> {
        // Another process may have a lot to change.
        let mut session = self.alone("1min").await?;
        if let Some(schema) = self.names.schema() {
            // Asking first: who may not make schemas may well have one.
            let found = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
            let found = Statement::new(&self.names, found).bind(schema);
            if session.rows(found).await?.is_empty() {
                session
                    .script(&format!("CREATE SCHEMA \"{schema}\""))
                    .await?;
            }
        }
        Ok(session)
    }

    /// The server's: a process whose clock is wrong must not drop what others need.
    async fn now(&self) -> Result<Timestamp, SqlError> {
        let now = Statement::new(&self.names, "SELECT now() AS now");
        let rows = self.reader().await?.rows(now).await?;
        let now = rows.first().map(|row| Row::time(row, "now")).transpose()?;
        timestamp(now.flatten().ok_or(SqlError::RowNotFound)?)
    }

    async fn prune_log(&self, before: i64) -> Result<u64, SqlError> {
        self.drop_partitions(before).await
    }

    async fn announce(&self, session: &mut PostgresSession, id: KeyId) -> Result<(), SqlError> {
        let tell = format!("SELECT pg_notify({}, $1)", self.channel());
        let tell = Statement::new(&self.names, &tell).bind(id);
        session.run(tell).await?;
        Ok(())
    }

    fn about_to_look_up(&self, changes: &InvalidationFeed) {
        if let Some(listener) = &self.listener {
            listener.ensure(&self.pool, || self.channel(), changes);
        }
    }
}

impl Session for PostgresSession {
    type Row = PgRow;

    async fn rows(&mut self, statement: Statement) -> Result<Vec<PgRow>, SqlError> {
        let query = sqlx::query_with(AssertSqlSafe(statement.text), bound(statement.values)?);
        query.fetch_all(self.connection()).await
    }

    async fn run(&mut self, statement: Statement) -> Result<u64, SqlError> {
        let query = sqlx::query_with(AssertSqlSafe(statement.text), bound(statement.values)?);
        let done = query.execute(self.connection()).await?;
        Ok(done.rows_affected())
    }

    async fn script(&mut self, text: &str) -> Result<(), SqlError> {
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

fn bound(values: Vec<Value>) -> Result<PgArguments, SqlError> {
    use sqlx::Arguments as _;

    let mut arguments = PgArguments::default();
    for value in values {
        let added = match value {
            Value::Text(text) => arguments.add(text),
            Value::Integer(number) => arguments.add(number),
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
        // Of either size.
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
        let found = address(value.as_bytes().map_err(decode)?);
        let found = found.ok_or_else(|| decode("not an address"))?;
        Ok(Some(found.to_string()))
    }
}
