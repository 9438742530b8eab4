//! The totals of callers, stored as one record for each hour and each day.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use sqlx::Error as SqlError;

use super::range_cover::RangePart;
use super::row::Attributes;
use crate::backend::sql::engine::{Row, Session, Statement, Value};
use crate::backend::sql::names::Names;
use crate::backend::sql::rollup_record::for_each_rollup;
use crate::backend::sql::series_rollup::{Amounts, Series};
use crate::backend::sql::value::required;
use crate::usage::{Granularity, Rollup};

/// The number of records that are in memory at once.
const AT_ONCE: usize = 16;

/// The totals of the callers that have attributes in parts that consist of hours or days.
pub(super) async fn caller_totals<S: Session>(
    session: &mut S,
    names: &Names,
    attributes: &Attributes,
    parts: &[RangePart],
) -> Result<Vec<Rollup>, SqlError> {
    let mut totals: HashMap<Series, Amounts, RandomState> = HashMap::default();
    let representatives = attributes.representatives();
    for part in parts {
        let mut from = part.starts.start;
        loop {
            let select = format!(
                "SELECT start, totals FROM {{prefix}}caller_totals
                WHERE hours = $1 AND start >= $2 AND start < $3 ORDER BY start LIMIT {AT_ONCE}"
            );
            let select = Statement::new(names, &select)
                .bind(part.width.seconds() / 3_600)
                .bind(Value::Time(Some(from)))
                .bind(Value::Time(Some(part.starts.end)));
            let rows = session.fetch(select).await?;
            let is_last = rows.len() < AT_ONCE;
            for row in rows {
                from = required(row.time("start")?)? + 1;
                let record = required(row.bytes("totals")?)?;
                for_each_rollup(
                    record,
                    |caller, _| attributes.has_caller(caller),
                    |mut rollup| {
                        let kind = rollup.series.kind;
                        rollup.series.kind = *representatives.get(&kind).unwrap_or(&kind);
                        let total = totals.entry(rollup.series).or_default();
                        total.merge(&rollup.amounts);
                    },
                )?;
                drop(row);
                tokio::task::yield_now().await;
            }
            if is_last {
                break;
            }
        }
    }
    let totals = totals
        .into_iter()
        .map(|(series, amounts)| attributes.rollup_with(series, 0, Granularity::Day, amounts));
    totals.filter_map(Result::transpose).collect()
}
