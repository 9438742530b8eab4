//! Maintenance in small transactions, with pauses for other writers.

use std::time::Duration;

use sqlx::Error as SqlError;
use tokio::time::Instant;

use super::engine::{Engine, Session, Statement, Value};

/// The pause between two transactions, for other writers.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// Pauses after a longer transaction, in proportion.
pub(super) async fn pause_since(start: Instant) {
    tokio::time::sleep(PAUSE.max(start.elapsed() / 8)).await;
}

/// The maximum number of rows that one transaction deletes, to keep it short.
pub(super) const MAX_ROWS: i64 = 2_000;

/// The first error of several independent steps.
#[derive(Debug, Default)]
pub(in crate::backend) struct FirstFailure(Option<SqlError>);

impl FirstFailure {
    /// The result of a step, or the default if it failed.
    pub(in crate::backend) fn record<T: Default>(&mut self, done: Result<T, SqlError>) -> T {
        done.unwrap_or_else(|error| {
            self.0.get_or_insert(error);
            T::default()
        })
    }

    /// The first error, or this result if no step failed.
    pub(in crate::backend) fn into_result<T>(self, done: T) -> Result<T, SqlError> {
        self.0.map_or(Ok(done), Err)
    }
}

/// Executes a statement in its own transaction.
pub(super) async fn write<E: Engine>(
    engine: &E,
    template: &str,
    values: &[Value],
) -> Result<(), SqlError> {
    let mut session = engine.writer().await?;
    let mut statement = Statement::new(engine.names(), template);
    statement.values.extend_from_slice(values);
    session.execute(statement).await?;
    session.commit().await
}

/// Repeats a statement that deletes up to `$2` rows until there are no more. Returns the number of deleted rows.
pub(in crate::backend) async fn delete_in_batches<E: Engine>(
    engine: &E,
    template: &str,
    value: Value,
) -> Result<u64, SqlError> {
    delete_and_mark(engine, template, value, None).await
}

/// The same, and executes a statement with a value in each transaction that deletes rows.
pub(super) async fn delete_and_mark<E: Engine>(
    engine: &E,
    template: &str,
    value: Value,
    mark: Option<(&str, Value)>,
) -> Result<u64, SqlError> {
    let mut deleted = 0;
    loop {
        let statement = Statement::new(engine.names(), template)
            .bind(value.clone())
            .bind(MAX_ROWS);
        let mut session = engine.writer().await?;
        let rows = session.execute(statement).await?;
        if let Some((mark, value)) = mark.as_ref().filter(|_| rows > 0) {
            let mark = Statement::new(engine.names(), mark).bind(value.clone());
            session.execute(mark).await?;
        }
        session.commit().await?;
        deleted += rows;
        if rows < MAX_ROWS.cast_unsigned() {
            return Ok(deleted);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
