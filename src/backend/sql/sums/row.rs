//! Rows of sums, read back.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use crate::backend::sql::engine::Row;
use crate::backend::sql::histogram;
use crate::backend::sql::value::{named, number, parsed, status, there, time};
use crate::usage::{LatencyHistogram, Method, Rollup, Status, Width};

/// What rollups of one series have in common.
pub(super) struct Kind(Rollup);

pub(super) fn kinds_of<R: Row>(rows: &[R]) -> Result<HashMap<i64, Kind>, SqlError> {
    let mut endpoints: HashMap<String, Arc<str>> = HashMap::new();
    let mut owners: HashMap<String, Arc<str>> = HashMap::new();
    let shared = |texts: &mut HashMap<String, Arc<str>>, text: &str| match texts.get(text) {
        Some(held) => held.clone(),
        None => {
            let held: Arc<str> = text.into();
            texts.insert(text.into(), held.clone());
            held
        }
    };
    let kinds = rows.iter().map(|row| {
        let rollup = Rollup {
            key: row.text("key_id")?.map(parsed).transpose()?,
            start: Timestamp::UNIX_EPOCH,
            width: Width::Minute,
            owner: row.text("owner")?.map(|owner| shared(&mut owners, owner)),
            method: parsed(there(row.text("method")?)?)?,
            endpoint: shared(&mut endpoints, there(row.text("endpoint")?)?),
            status: status(row)?,
            outcome: named(there(row.text("outcome")?)?)?,
            cause: row.text("cause")?.map(named).transpose()?,
            count: 0,
            cost: 0,
            request_bytes: 0,
            response_bytes: 0,
            latency: LatencyHistogram::new(),
        };
        Ok((there(row.integer("series_id")?)?, Kind(rollup)))
    });
    kinds.collect()
}

/// A sum of one of these kinds; `None` for a series that came after they were read.
pub(super) fn rollup_of(
    row: &impl Row,
    kinds: &HashMap<i64, Kind>,
    width: Width,
) -> Result<Option<Rollup>, SqlError> {
    let Some(Kind(kind)) = kinds.get(&there(row.integer("series_id")?)?) else {
        return Ok(None);
    };
    Ok(Some(Rollup {
        start: time(row, "start")?,
        width,
        count: number(row, "count")?,
        cost: number(row, "cost")?,
        request_bytes: number(row, "request_bytes")?,
        response_bytes: number(row, "response_bytes")?,
        latency: match row.bytes("latency")? {
            Some(bytes) => histogram::from_bytes(bytes)?,
            None => LatencyHistogram::new(),
        },
        ..kind.clone()
    }))
}

/// A sum by key and outcome, which tells no more of its requests than that.
pub(super) fn sum_of_key(row: &impl Row) -> Result<Rollup, SqlError> {
    Ok(Rollup {
        key: None,
        start: time(row, "start")?,
        width: Width::Minute,
        owner: None,
        method: Method::Other,
        endpoint: "".into(),
        status: Status::None,
        outcome: named(there(row.text("outcome")?)?)?,
        cause: row.text("cause")?.map(named).transpose()?,
        count: number(row, "count")?,
        cost: number(row, "cost")?,
        request_bytes: number(row, "request_bytes")?,
        response_bytes: number(row, "response_bytes")?,
        latency: LatencyHistogram::new(),
    })
}
