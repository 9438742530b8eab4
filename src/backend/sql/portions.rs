//! Maintenance in small transactions, between which others have their turn.

use std::time::Duration;

use sqlx::Error as SqlError;

use super::engine::{Engine, Session, Statement, Value};

/// How long others have the database to themselves between two transactions.
pub(super) const TURN: Duration = Duration::from_millis(2);

/// Rows that one transaction deletes: few enough that nobody waits for it for long.
pub(super) const ROWS: i64 = 2_000;

/// The first failure of several steps, none of which waits for another to succeed.
#[derive(Debug, Default)]
pub(in crate::backend) struct FirstFailure(Option<SqlError>);

impl FirstFailure {
    /// What a step has done; nothing if it failed.
    pub(in crate::backend) fn of<T: Default>(&mut self, done: Result<T, SqlError>) -> T {
        done.unwrap_or_else(|error| {
            self.0.get_or_insert(error);
            T::default()
        })
    }

    /// What all of them have done, unless one failed.
    pub(in crate::backend) fn or<T>(self, done: T) -> Result<T, SqlError> {
        self.0.map_or(Ok(done), Err)
    }
}

/// Runs one statement in a transaction of its own.
pub(super) async fn write<E: Engine>(
    engine: &E,
    template: &str,
    values: &[Value],
) -> Result<(), SqlError> {
    let mut session = engine.writer().await?;
    let mut statement = Statement::new(engine.names(), template);
    statement.values.extend_from_slice(values);
    session.run(statement).await?;
    session.commit().await
}

/// Carries out a statement that deletes up to `$2` rows, until it finds no more.
pub(in crate::backend) async fn delete_by<E: Engine>(
    engine: &E,
    template: &str,
    value: Value,
) -> Result<u64, SqlError> {
    let mut deleted = 0;
    loop {
        let statement = Statement::new(engine.names(), template)
            .bind(value.clone())
            .bind(ROWS);
        let mut session = engine.writer().await?;
        let rows = session.run(statement).await?;
        session.commit().await?;
        deleted += rows;
        if rows < ROWS.cast_unsigned() {
            return Ok(deleted);
        }
        // Others get their turn, those of other processes too.
        tokio::time::sleep(TURN).await;
    }
}
