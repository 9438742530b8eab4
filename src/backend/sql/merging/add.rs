//! Adding ready records to the tables of rollups.

use std::collections::HashSet;

use sqlx::Error as SqlError;

use super::caller_minutes::store_minutes;
use super::merged::Merged;
use super::outcomes::aggregate_late;
use super::records::{delete, report, set_aside};
use crate::backend::sql::engine::{Engine, Row, Session, Statement, Value};
use crate::backend::sql::micros::{DAY, HOUR};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::{READABLE, rollups_of};
use crate::backend::sql::series_rollup::{ALL_CALLERS, SeriesRollup, coarser};
use crate::backend::sql::value::required;

/// Adds the rollups of a ready record to the tables. Returns their number, or `None` if there is none, or if another
/// process is merging.
pub(super) async fn add_ready<E: Engine>(engine: &E, waits: bool) -> Result<Option<u64>, SqlError> {
    let names = engine.names();
    let Some(mut session) = engine.merger(waits).await? else {
        return Ok(None);
    };
    let record = format!(
        "SELECT number, rollups FROM {{prefix}}rollup_records WHERE ready AND {READABLE}
        ORDER BY number LIMIT 1"
    );
    let rows = session.fetch(Statement::new(names, &record)).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let number = required(row.integer("number")?)?;
    let rollups = rollups_of(required(row.bytes("rollups")?)?, |_, _| true);
    drop(rows);
    let count = match rollups {
        Ok(rollups) => {
            let merged = rollups.iter().filter(|it| it.series.caller != ALL_CALLERS);
            let count = merged.count() as u64;
            add(engine, &mut session, rollups).await?;
            delete(&mut session, names, &[number]).await?;
            count
        }
        Err(error) => {
            report(number, &error);
            set_aside(&mut session, names, &[number]).await?;
            0
        }
    };
    session.commit().await?;
    Ok(Some(count))
}

/// Adds rollups by minute to the tables: those of hours and days only if these have been rolled up before.
async fn add<E: Engine>(
    engine: &E,
    session: &mut E::Session,
    mut rollups: Vec<SeriesRollup>,
) -> Result<(), SqlError> {
    rollups.sort_unstable_by_key(|it| (it.series.caller, it.start, it.series.kind));
    let merged = Merged::read(session, engine.names()).await?;
    let late = |width, until| coarser(rollups.iter().filter(|it| it.start < until), width);
    let late_days = late(DAY, merged.days);
    if !late_days.is_empty() {
        engine
            .add_rollups(session, "{prefix}days", &late_days, false)
            .await?;
    }
    let late_hours = late(HOUR, merged.hours);
    if !late_hours.is_empty() {
        engine
            .add_rollups(session, "{prefix}hours", &late_hours, false)
            .await?;
        aggregate_late(session, engine.names(), &late_hours, merged.days).await?;
    }
    store_minutes(session, engine.names(), &rollups).await?;
    let known = known_minutes(session, engine.names(), &rollups).await?;
    let (late, new) = rollups
        .into_iter()
        .partition::<Vec<_>, _>(|it| known.contains(&it.start));
    if !late.is_empty() {
        engine
            .add_rollups(session, "{prefix}minutes", &late, false)
            .await?;
    }
    if !new.is_empty() {
        add_new(engine, session, &new).await?;
    }
    Ok(())
}

/// Inserts rollups of minutes that are not known, or adds them if there are rows nonetheless: pruning and merging into
/// quarters of an hour may have deleted the rollups of all callers first, or their record was damaged.
async fn add_new<E: Engine>(
    engine: &E,
    session: &mut E::Session,
    rollups: &[SeriesRollup],
) -> Result<(), SqlError> {
    session.execute_script("SAVEPOINT adding").await?;
    let added = engine
        .add_rollups(session, "{prefix}minutes", rollups, true)
        .await;
    let error = added.as_ref().err().and_then(SqlError::as_database_error);
    if !error.is_some_and(|error| error.is_unique_violation()) {
        return added;
    }
    session
        .execute_script("ROLLBACK TO SAVEPOINT adding")
        .await?;
    engine
        .add_rollups(session, "{prefix}minutes", rollups, false)
        .await
}

/// The minutes of which rollups may have been merged: those that have rollups of all callers together, which are merged
/// last.
async fn known_minutes<S: Session>(
    session: &mut S,
    names: &Names,
    rollups: &[SeriesRollup],
) -> Result<HashSet<i64>, SqlError> {
    let starts = || rollups.iter().map(|it| it.start);
    let known = format!(
        "SELECT DISTINCT start FROM {{prefix}}minutes
        WHERE caller_id = {ALL_CALLERS} AND start >= $1 AND start <= $2"
    );
    let known = Statement::new(names, &known)
        .bind(Value::Time(starts().min()))
        .bind(Value::Time(starts().max()));
    let rows = session.fetch(known).await?;
    rows.iter()
        .map(|row| required(row.time("start")?))
        .collect()
}
