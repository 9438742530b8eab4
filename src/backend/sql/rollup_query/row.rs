//! Decoding rows of rollups.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use sqlx::Error as SqlError;

use crate::backend::sql::callers::Callers;
use crate::backend::sql::engine::Row;
use crate::backend::sql::histogram;
use crate::backend::sql::series_rollup::{ALL_CALLERS, Amounts, Series, SeriesRollup};
use crate::backend::sql::value::{
    decode, from_json, number, parse_name, parsed, required, series, status, time, timestamp,
};
use crate::id::KeyId;
use crate::usage::summary::Amounts as KindAmounts;
use crate::usage::{Granularity, LatencyHistogram, Method, Rollup, Status};

/// The attributes of callers and kinds by number.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) callers: Arc<Callers>,
    /// As empty rollups.
    kinds: HashMap<i32, Rollup, RandomState>,
}

impl Attributes {
    pub(super) fn add_kinds<R: Row>(&mut self, rows: &[R]) -> Result<(), SqlError> {
        for row in rows {
            let kind = Rollup {
                method: parsed(required(row.text("method")?)?)?,
                endpoint: required(row.text("endpoint")?)?.into(),
                status: status(row)?,
                rejection_reason: row.text("rejection_reason")?.map(parse_name).transpose()?,
                ..empty_rollup(row)?
            };
            let id = required(row.integer("id")?)?;
            self.kinds.insert(i32::try_from(id).map_err(decode)?, kind);
        }
        Ok(())
    }

    /// The kinds as empty amounts.
    pub(super) fn kind_amounts(&self) -> impl Iterator<Item = (i32, KindAmounts)> {
        let kinds = self.kinds.iter();
        kinds.map(|(&kind, rollup)| (kind, KindAmounts::of(rollup)))
    }

    /// An empty rollup of a series; `None` if it is unknown.
    fn of(&self, Series { caller, kind }: Series, width: Granularity) -> Option<Rollup> {
        let (key, owner) = match caller == ALL_CALLERS {
            true => (None, None),
            false => self
                .callers
                .all()
                .get(self.callers.position(caller)?)?
                .clone(),
        };
        Some(Rollup {
            key,
            owner,
            granularity: width,
            ..self.kinds.get(&kind)?.clone()
        })
    }

    /// The rollup of a row.
    pub(super) fn rollup(
        &self,
        row: &impl Row,
        width: Granularity,
    ) -> Result<Option<Rollup>, SqlError> {
        let Some(empty) = self.of(series(row)?, width) else {
            return Ok(None);
        };
        Ok(Some(Rollup {
            latency: latency(row)?,
            ..with_amounts(empty, row)?
        }))
    }

    /// The rollup of a series.
    pub(super) fn rollup_of(
        &self,
        SeriesRollup {
            series,
            start,
            amounts,
        }: SeriesRollup,
        width: Granularity,
    ) -> Result<Option<Rollup>, SqlError> {
        let Some(empty) = self.of(series, width) else {
            return Ok(None);
        };
        let Amounts {
            count,
            cost,
            request_bytes,
            response_bytes,
            latency,
        } = amounts;
        Ok(Some(Rollup {
            start: timestamp(start)?,
            count,
            cost,
            request_bytes,
            response_bytes,
            latency,
            ..empty
        }))
    }
}

/// The callers of a row with arrays. Equal owners share their memory.
pub(super) fn callers(row: &impl Row) -> Result<Callers, SqlError> {
    let mut seen: HashSet<Arc<str>, RandomState> = HashSet::default();
    let mut shared = |owner: String| match seen.get(&*owner) {
        Some(shared) => shared.clone(),
        None => {
            let shared: Arc<str> = owner.into();
            seen.insert(shared.clone());
            shared
        }
    };
    let json = |column| required(row.text(column)?);
    let numbers: Vec<i32> = from_json(json("ids")?)?;
    let keys: Vec<Option<KeyId>> = from_json(json("keys")?)?;
    let owners: Vec<Option<String>> = from_json(json("owners")?)?;
    let owners = owners.into_iter().map(|owner| owner.map(&mut shared));
    Ok(Callers::new(
        numbers.into_iter().zip(keys.into_iter().zip(owners)),
    ))
}

/// An empty rollup with the outcome and the cause of a row, billable or not.
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
        rejection_reason: None,
        billable: row.boolean("billable")?,
        count: 0,
        cost: 0,
        request_bytes: 0,
        response_bytes: 0,
        latency: LatencyHistogram::new(),
    })
}

/// The latencies of a row; empty if they were not read.
fn latency(row: &impl Row) -> Result<LatencyHistogram, SqlError> {
    let latency = row.bytes("latency")?.map(histogram::from_bytes);
    Ok(latency.transpose()?.unwrap_or_default())
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

/// The rollup of a row with an outcome and a cause. Its other attributes are not meaningful.
pub(super) fn outcome_rollup(row: &impl Row) -> Result<Rollup, SqlError> {
    let kind = Rollup {
        latency: latency(row)?,
        ..empty_rollup(row)?
    };
    with_amounts(kind, row)
}
