//! How far rollups were rolled up.

use sqlx::Error as SqlError;

use crate::backend::sql::engine::{Row, Session, Statement};
use crate::backend::sql::names::Names;
use crate::backend::sql::value::required;

/// The times, in microseconds since 1970, up to which the tables of hours and days have all rollups. Later ones are
/// only in the table of narrower rollups.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::sql) struct Merged {
    pub(in crate::backend::sql) hours: i64,
    pub(in crate::backend::sql) days: i64,
}

impl Merged {
    pub(in crate::backend::sql) fn new(hours: Option<i64>, days: Option<i64>) -> Self {
        Self {
            hours: hours.unwrap_or(i64::MIN),
            days: days.unwrap_or(i64::MIN),
        }
    }

    pub(in crate::backend::sql) async fn read<S: Session>(
        session: &mut S,
        names: &Names,
    ) -> Result<Self, SqlError> {
        let merged =
            "SELECT (SELECT before FROM {prefix}pruned WHERE kind = 'merged_hours') AS hours,
            (SELECT before FROM {prefix}pruned WHERE kind = 'merged_days') AS days";
        let rows = session.fetch(Statement::new(names, merged)).await?;
        let row = required(rows.first())?;
        Ok(Self::new(row.time("hours")?, row.time("days")?))
    }
}
