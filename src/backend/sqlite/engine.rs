//! The SQLite implementation of [`Engine`].

use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{
    AssertSqlSafe, Connection as _, Error as SqlError, Row as _, Sqlite, SqlitePool, Transaction,
};
use uuid::Uuid;

use super::rollups::{add_rollups, insert_rollups};
use crate::backend::sql::{
    ActivityWriter, CallerCache, Changed, Dictionaries, Engine, Names, Row, SeriesRollup, Session,
    Statement, Value, decode, delete_in_batches,
};

pub(super) struct SqliteEngine {
    /// A single connection, since SQLite has a single writer: writers queue for it in the pool, not in SQLite.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    pub(super) names: Names,
    pub(super) dictionaries: Dictionaries,
    pub(super) callers: CallerCache,
    pub(super) activity: ActivityWriter,
    /// Keeps an in-memory database alive, which is deleted with its last connection: the pool may close
    /// connections when an acquire is cancelled.
    pub(super) keeper: Option<SqlitePool>,
}

pub(in crate::backend) enum SqliteSession {
    Connection(PoolConnection<Sqlite>),
    Transaction(Transaction<'static, Sqlite>),
}

impl SqliteEngine {
    pub(super) fn new(writer: SqlitePool, readers: SqlitePool, names: Names) -> Self {
        Self {
            writer,
            readers,
            names,
            dictionaries: Dictionaries::default(),
            callers: CallerCache::default(),
            activity: ActivityWriter::default(),
            keeper: None,
        }
    }
}

/// Begins a transaction.
///
/// If the disk is full or fails, SQLite rolls back a transaction by itself. sqlx still regards its connection as being
/// in the transaction and cannot begin another one, so such connections are closed.
pub(super) async fn begin(
    pool: &SqlitePool,
    statement: &'static str,
) -> Result<Transaction<'static, Sqlite>, SqlError> {
    // The pool hands out its connections in turn.
    let mut usable = Vec::new();
    loop {
        match pool.begin_with(statement).await {
            Err(SqlError::InvalidSavePointStatement) => {
                let connection = pool.acquire().await?;
                match connection.is_in_transaction() {
                    true => connection.close().await?,
                    false => usable.push(connection),
                }
            }
            begun => return begun,
        }
    }
}

impl SqliteSession {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Connection(connection) => connection,
            Self::Transaction(transaction) => transaction,
        }
    }
}

impl Engine for SqliteEngine {
    type Session = SqliteSession;

    fn names(&self) -> &Names {
        &self.names
    }

    fn callers(&self) -> &CallerCache {
        &self.callers
    }

    async fn reader(&self) -> Result<SqliteSession, SqlError> {
        self.readers.acquire().await.map(SqliteSession::Connection)
    }

    async fn snapshot(&self) -> Result<SqliteSession, SqlError> {
        let transaction = begin(&self.readers, "BEGIN").await;
        transaction.map(SqliteSession::Transaction)
    }

    /// Takes the write lock at the start. A transaction that upgrades to it later fails without waiting if another
    /// has written in the meantime.
    async fn writer(&self) -> Result<SqliteSession, SqlError> {
        let transaction = begin(&self.writer, "BEGIN IMMEDIATE").await;
        transaction.map(SqliteSession::Transaction)
    }

    async fn migrator(&self) -> Result<SqliteSession, SqlError> {
        self.writer().await
    }

    async fn registrar(&self) -> Result<SqliteSession, SqlError> {
        self.writer().await
    }

    async fn merger(&self, _: bool) -> Result<Option<SqliteSession>, SqlError> {
        self.writer().await.map(Some)
    }

    async fn add_rollups(
        &self,
        session: &mut SqliteSession,
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

    async fn now(&self) -> Result<Timestamp, SqlError> {
        Ok(Timestamp::now())
    }

    async fn prune_log(&self, before: i64) -> Result<u64, SqlError> {
        let segments = "SELECT number FROM {prefix}log_segments WHERE first < $1 ORDER BY number";
        let segments = Statement::new(&self.names, segments).bind(before);
        let rows = self.reader().await?.fetch(segments).await?;
        let mut deleted = 0;
        for row in rows {
            let number = Row::integer(&row, "number")?.ok_or(SqlError::RowNotFound)?;
            let requests = format!(
                "DELETE FROM {{prefix}}requests WHERE row IN (SELECT row FROM {{prefix}}requests
                WHERE segment = {number} AND time < $1 LIMIT $2)"
            );
            let before = Value::Time(Some(before));
            deleted += delete_in_batches(self, &requests, before).await?;
            // Later passes skip the segment, unless there are more such requests.
            let first = format!(
                "UPDATE {{prefix}}log_segments SET first = coalesce(
                    (SELECT min(time) FROM {{prefix}}requests WHERE segment = {number}), last)
                WHERE number = {number}"
            );
            let mut session = self.writer().await?;
            session.execute(Statement::new(&self.names, &first)).await?;
            session.commit().await?;
        }
        Ok(deleted)
    }

    /// Does nothing: other processes see the change when their cache entries expire.
    async fn announce(&self, _: &mut SqliteSession, _: &[Changed]) -> Result<(), SqlError> {
        Ok(())
    }
}

impl Session for SqliteSession {
    type Row = SqliteRow;

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<SqliteRow>, SqlError> {
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

fn bound(values: Vec<Value>) -> Result<SqliteArguments, SqlError> {
    use sqlx::Arguments as _;

    let mut arguments = SqliteArguments::default();
    for value in values {
        let added = match value {
            Value::Text(text) | Value::Json(text) => arguments.add(text),
            Value::Integer(number) | Value::Time(number) => arguments.add(number),
            Value::Integers(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
                arguments.add(format!("[{}]", numbers.join(",")))
            }
            Value::Boolean(value) => arguments.add(value),
            Value::Uuid(id) => arguments.add(id.as_bytes().to_vec()),
            Value::Bytes(bytes) => arguments.add(bytes),
        };
        added.map_err(SqlError::Encode)?;
    }
    Ok(arguments)
}

impl Row for SqliteRow {
    fn text(&self, column: &str) -> Result<Option<&str>, SqlError> {
        self.try_get(column)
    }

    fn integer(&self, column: &str) -> Result<Option<i64>, SqlError> {
        self.try_get(column)
    }

    fn boolean(&self, column: &str) -> Result<bool, SqlError> {
        self.try_get(column)
    }

    fn bytes(&self, column: &str) -> Result<Option<&[u8]>, SqlError> {
        self.try_get(column)
    }

    fn time(&self, column: &str) -> Result<Option<i64>, SqlError> {
        self.try_get(column)
    }

    fn uuid(&self, column: &str) -> Result<Uuid, SqlError> {
        Uuid::from_slice(self.try_get(column)?).map_err(decode)
    }

    fn json(&self, column: &str) -> Result<Option<&str>, SqlError> {
        self.try_get(column)
    }

    fn address(&self, column: &str) -> Result<Option<String>, SqlError> {
        self.try_get(column)
    }
}
