//! Decoding rows of rollups.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use sqlx::Error as SqlError;

use crate::backend::sql::engine::Row;
use crate::backend::sql::histogram;
use crate::backend::sql::series_rollup::{ALL_CALLERS, Amounts, Series};
use crate::backend::sql::value::{number, parse_name, parsed, required, status, time, timestamp};
use crate::id::KeyId;
use crate::usage::{Granularity, LatencyHistogram, Method, Rollup, Status};

type KeyAndOwner = (Option<KeyId>, Option<Arc<str>>);

/// The attributes of callers and kinds by number.
#[derive(Default)]
pub(super) struct Attributes {
    callers: HashMap<i64, KeyAndOwner, RandomState>,
    /// As empty rollups.
    kinds: HashMap<i64, Rollup, RandomState>,
}

impl Attributes {
    /// Adds callers. Equal owners share their memory.
    pub(super) fn add_callers<R: Row>(&mut self, rows: &[R]) -> Result<(), SqlError> {
        let mut owners: HashSet<Arc<str>, RandomState> = HashSet::default();
        let mut shared = |owner: &str| match owners.get(owner) {
            Some(shared) => shared.clone(),
            None => {
                let shared: Arc<str> = owner.into();
                owners.insert(shared.clone());
                shared
            }
        };
        for row in rows {
            let key = row.text("key_id")?.map(parsed).transpose()?;
            let caller = (key, row.text("owner")?.map(&mut shared));
            self.callers.insert(required(row.integer("id")?)?, caller);
        }
        Ok(())
    }

    pub(super) fn add_kinds<R: Row>(&mut self, rows: &[R]) -> Result<(), SqlError> {
        for row in rows {
            let kind = Rollup {
                method: parsed(required(row.text("method")?)?)?,
                endpoint: required(row.text("endpoint")?)?.into(),
                status: status(row)?,
                rejection_reason: row.text("rejection_reason")?.map(parse_name).transpose()?,
                ..empty_rollup(row)?
            };
            self.kinds.insert(required(row.integer("id")?)?, kind);
        }
        Ok(())
    }

    pub(super) fn callers(&self) -> usize {
        self.callers.len()
    }

    pub(super) fn has_caller(&self, caller: i32) -> bool {
        self.callers.contains_key(&caller.into())
    }

    /// Maps each kind to one representative of its outcome and cause, billable or not.
    pub(super) fn representatives(&self) -> HashMap<i32, i32, RandomState> {
        let mut first: HashMap<_, i32, RandomState> = HashMap::default();
        let kinds = self.kinds.iter();
        let same = kinds.filter_map(|(&kind, rollup)| {
            let kind = i32::try_from(kind).ok()?;
            let outcome = (rollup.outcome, rollup.cause, rollup.billable);
            Some((kind, *first.entry(outcome).or_insert(kind)))
        });
        same.collect()
    }

    /// An empty rollup of a series; `None` if it is unknown.
    fn of(&self, caller: i64, kind: i64, width: Granularity) -> Option<Rollup> {
        let (key, owner) = match caller == i64::from(ALL_CALLERS) {
            true => (None, None),
            false => self.callers.get(&caller)?.clone(),
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
        let caller = required(row.integer("caller_id")?)?;
        let kind = required(row.integer("kind_id")?)?;
        let Some(empty) = self.of(caller, kind, width) else {
            return Ok(None);
        };
        Ok(Some(Rollup {
            latency: latency(row)?,
            ..with_amounts(empty, row)?
        }))
    }

    /// The rollup of a series with these amounts.
    pub(super) fn rollup_with(
        &self,
        Series { caller, kind }: Series,
        start: i64,
        width: Granularity,
        amounts: Amounts,
    ) -> Result<Option<Rollup>, SqlError> {
        let Some(empty) = self.of(caller.into(), kind.into(), width) else {
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

/// The rollup of a row with outcome, cause and possibly a key and an owner. Its other attributes are not meaningful.
pub(super) fn key_rollup(row: &impl Row) -> Result<Rollup, SqlError> {
    let kind = Rollup {
        key: row.text("key_id")?.map(parsed).transpose()?,
        owner: row.text("owner")?.map(Into::into),
        latency: latency(row)?,
        ..empty_rollup(row)?
    };
    with_amounts(kind, row)
}
