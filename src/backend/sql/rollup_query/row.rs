//! Decoding rows of rollups.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use crate::backend::sql::engine::Row;
use crate::backend::sql::histogram;
use crate::backend::sql::series_rollup::Amounts;
use crate::backend::sql::value::{number, parse_name, parsed, required, status, time, timestamp};
use crate::usage::{Granularity, LatencyHistogram, Method, Rollup, Status};

/// The attributes of a series, as an empty rollup.
pub(super) struct Kind(Rollup);

/// Series by id. Equal texts share their memory.
pub(super) fn kinds_of<R: Row>(rows: &[R]) -> Result<HashMap<i64, Kind>, SqlError> {
    let mut texts: HashSet<Arc<str>> = HashSet::new();
    let mut shared = |text: &str| match texts.get(text) {
        Some(shared) => shared.clone(),
        None => {
            let shared: Arc<str> = text.into();
            texts.insert(shared.clone());
            shared
        }
    };
    let kinds = rows.iter().map(|row| {
        let id = required(row.integer("series_id")?)?;
        Ok((id, kind_of(row, &mut shared)?))
    });
    kinds.collect()
}

fn kind_of(row: &impl Row, mut text: impl FnMut(&str) -> Arc<str>) -> Result<Kind, SqlError> {
    Ok(Kind(Rollup {
        key: row.text("key_id")?.map(parsed).transpose()?,
        owner: row.text("owner")?.map(&mut text),
        method: parsed(required(row.text("method")?)?)?,
        endpoint: text(required(row.text("endpoint")?)?),
        status: status(row)?,
        ..empty_rollup(row)?
    }))
}

/// An empty rollup with the outcome and the cause of a row.
fn empty_rollup(row: &impl Row) -> Result<Rollup, SqlError> {
    Ok(Rollup {
        key: None,
        start: Timestamp::UNIX_EPOCH,
        granularity: Granularity::Minute,
        owner: None,
        method: Method::Other,
        endpoint: "".into(),
        status: Status::None,
        outcome: parse_name(required(row.text("outcome")?)?)?,
        cause: row.text("cause")?.map(parse_name).transpose()?,
        count: 0,
        cost: 0,
        request_bytes: 0,
        response_bytes: 0,
        latency: LatencyHistogram::new(),
    })
}

/// Adds the amounts of a row, except for latencies.
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

/// The rollup of a row with a series id; `None` if the series was created after `kinds` was read.
pub(super) fn rollup_of(
    row: &impl Row,
    kinds: &HashMap<i64, Kind>,
    width: Granularity,
) -> Result<Option<Rollup>, SqlError> {
    let Some(Kind(kind)) = kinds.get(&required(row.integer("series_id")?)?) else {
        return Ok(None);
    };
    let kind = Rollup {
        granularity: width,
        ..kind.clone()
    };
    with_latency(with_amounts(kind, row)?, row).map(Some)
}

/// The rollup of a series with these attributes.
pub(super) fn of_kind(
    Kind(kind): &Kind,
    start: i64,
    width: Granularity,
    amounts: Amounts,
) -> Result<Rollup, SqlError> {
    let Amounts {
        count,
        cost,
        request_bytes,
        response_bytes,
        latency,
    } = amounts;
    Ok(Rollup {
        start: timestamp(start)?,
        granularity: width,
        count,
        cost,
        request_bytes,
        response_bytes,
        latency,
        ..kind.clone()
    })
}

/// The rollup of a row with the columns of its series.
pub(super) fn kind_rollup(row: &impl Row) -> Result<Rollup, SqlError> {
    let Kind(kind) = kind_of(row, |text| text.into())?;
    with_latency(with_amounts(kind, row)?, row)
}

/// The rollup of a row with outcome, cause and possibly a key. Its other attributes are not meaningful.
pub(super) fn key_rollup(row: &impl Row) -> Result<Rollup, SqlError> {
    let kind = Rollup {
        key: row.text("key_id")?.map(parsed).transpose()?,
        ..empty_rollup(row)?
    };
    with_amounts(kind, row)
}
