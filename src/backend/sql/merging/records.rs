//! Deleting and excluding rollup records.

use sqlx::Error as SqlError;

use crate::backend::sql::engine::{Session, Statement};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::decode;
use crate::telemetry;

#[cold]
pub(super) fn report(number: i64, error: &SqlError) {
    telemetry::error!(
        number,
        error = error as &dyn std::error::Error,
        "cannot read a rollup record; its requests are missing in summaries"
    );
}

/// Deletes records, which must exist.
pub(super) async fn delete<S: Session>(
    session: &mut S,
    names: &Names,
    numbers: &[i64],
) -> Result<(), SqlError> {
    let deleted = for_records(
        session,
        names,
        "DELETE FROM {prefix}rollup_records",
        numbers,
    )
    .await?;
    if deleted != numbers.len() as u64 {
        return Err(decode(
            "rollup records were merged by two processes at once",
        ));
    }
    Ok(())
}

/// Excludes records that cannot be read, so that the others are merged. Their rollups are not counted.
pub(super) async fn set_aside<S: Session>(
    session: &mut S,
    names: &Names,
    numbers: &[i64],
) -> Result<(), SqlError> {
    let mark = "UPDATE {prefix}rollup_records SET unreadable = TRUE";
    for_records(session, names, mark, numbers).await?;
    Ok(())
}

/// Executes a statement for the records with these numbers. Returns the number of affected records.
async fn for_records<S: Session>(
    session: &mut S,
    names: &Names,
    statement: &str,
    numbers: &[i64],
) -> Result<u64, SqlError> {
    if numbers.is_empty() {
        return Ok(0);
    }
    let mut sql = Statement::new(names, statement);
    let is_one = sql.is_one_of(names, "number", numbers);
    sql.push(" WHERE ").push(&is_one);
    session.execute(sql).await
}
