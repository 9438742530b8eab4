//! Rows of sums, read back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use crate::backend::sql::engine::Row;
use crate::backend::sql::histogram;
use crate::backend::sql::value::{named, number, parsed, status, there, time};
use crate::usage::{Granularity, LatencyHistogram, Method, Rollup, Status};

/// What rollups of one series have in common: a rollup of nothing.
pub(super) struct Kind(Rollup);

/// Series by their numbers. Texts that several of them have are there once.
pub(super) fn kinds_of<R: Row>(rows: &[R]) -> Result<HashMap<i64, Kind>, SqlError> {
    let mut texts: HashSet<Arc<str>> = HashSet::new();
    let mut shared = |text: &str| match texts.get(text) {
        Some(held) => held.clone(),
        None => {
            let held: Arc<str> = text.into();
            texts.insert(held.clone());
            held
        }
    };
    let kinds = rows.iter().map(|row| {
        let number = there(row.integer("series_id")?)?;
        Ok((number, kind_of(row, &mut shared)?))
    });
    kinds.collect()
}

fn kind_of(row: &impl Row, mut text: impl FnMut(&str) -> Arc<str>) -> Result<Kind, SqlError> {
    Ok(Kind(Rollup {
        key: row.text("key_id")?.map(parsed).transpose()?,
        owner: row.text("owner")?.map(&mut text),
        method: parsed(there(row.text("method")?)?)?,
        endpoint: text(there(row.text("endpoint")?)?),
        status: status(row)?,
        ..nothing(row)?
    }))
}

/// A rollup of nothing, with the outcome and the cause that every row of sums has.
fn nothing(row: &impl Row) -> Result<Rollup, SqlError> {
    Ok(Rollup {
        key: None,
        start: Timestamp::UNIX_EPOCH,
        granularity: Granularity::Minute,
        owner: None,
        method: Method::Other,
        endpoint: "".into(),
        status: Status::None,
        outcome: named(there(row.text("outcome")?)?)?,
        cause: row.text("cause")?.map(named).transpose()?,
        count: 0,
        cost: 0,
        request_bytes: 0,
        response_bytes: 0,
        latency: LatencyHistogram::new(),
    })
}

/// A kind with the amounts of a row, but for its latencies.
fn with_amounts(kind: Rollup, row: &impl Row) -> Result<Rollup, SqlError> {
    Ok(Rollup {
        start: time(row, "start")?,
        count: number(row, "count")?,
        cost: number(row, "cost")?,
        request_bytes: number(row, "request_bytes")?,
        response_bytes: number(row, "response_bytes")?,
        ..kind
    })
}

fn with_latency(rollup: Rollup, row: &impl Row) -> Result<Rollup, SqlError> {
    Ok(match row.bytes("latency")? {
        Some(bytes) => Rollup {
            latency: histogram::from_bytes(bytes)?,
            ..rollup
        },
        None => rollup,
    })
}

/// A sum of one of these kinds; `None` for a series that came after they were read.
pub(super) fn rollup_of(
    row: &impl Row,
    kinds: &HashMap<i64, Kind>,
    width: Granularity,
) -> Result<Option<Rollup>, SqlError> {
    let Some(Kind(kind)) = kinds.get(&there(row.integer("series_id")?)?) else {
        return Ok(None);
    };
    let kind = Rollup {
        granularity: width,
        ..kind.clone()
    };
    with_latency(with_amounts(kind, row)?, row).map(Some)
}

/// A sum by kind.
pub(super) fn sum_of_kind(row: &impl Row) -> Result<Rollup, SqlError> {
    let Kind(kind) = kind_of(row, |text| text.into())?;
    with_latency(with_amounts(kind, row)?, row)
}

/// A sum by outcome, and by key if it has one, which tells no more of its requests than that.
pub(super) fn sum_of_key(row: &impl Row) -> Result<Rollup, SqlError> {
    let kind = Rollup {
        key: row.text("key_id")?.map(parsed).transpose()?,
        ..nothing(row)?
    };
    with_amounts(kind, row)
}
