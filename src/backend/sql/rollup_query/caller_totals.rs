//! The totals of callers, stored as one record for each hour and each day.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use sqlx::Error as SqlError;

use super::range_cover::RangePart;
use super::row::Attributes;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::micros::HOUR;
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::for_each_rollup;
use crate::backend::sql::series_rollup::{Amounts, Series};
use crate::backend::sql::value::required;
use crate::usage::{Granularity, Rollup};

/// The totals of the callers that have attributes in parts that consist of hours or days.
pub(super) async fn caller_totals<S: Session>(
    session: &mut S,
    names: &Names,
    attributes: &Attributes,
    parts: &[RangePart],
) -> Result<Vec<Rollup>, SqlError> {
    let mut totals: HashMap<Series, Amounts, RandomState> = HashMap::default();
    let same = attributes.same_outcomes();
    for part in parts {
        let select =
            "SELECT totals FROM §caller_totals WHERE hours = $1 AND start >= $2 AND start < $3";
        let select = Statement::new(names, select)
            .bind(part.width.seconds() * 1_000_000 / HOUR)
            .bind(Value::Time(Some(part.starts.start)))
            .bind(Value::Time(Some(part.starts.end)));
        for row in session.fetch(select).await? {
            let record = required(row.bytes("totals")?)?;
            let is_wanted = |caller: i32, _: i64| attributes.has_caller(caller);
            for_each_rollup(record, is_wanted, |mut rollup| {
                let Series { kind, .. } = &mut rollup.series;
                *kind = *same.get(kind).unwrap_or(kind);
                let total = totals.entry(rollup.series).or_default();
                total.merge(&rollup.amounts);
            })?;
            drop(row);
            tokio::task::yield_now().await;
        }
    }
    let totals = totals
        .into_iter()
        .map(|(series, amounts)| attributes.rollup_with(series, 0, Granularity::Day, amounts));
    totals.filter_map(Result::transpose).collect()
}
