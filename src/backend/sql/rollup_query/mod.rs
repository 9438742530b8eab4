//! Summaries from sums by the minute, by the hour and by the day.
//!
//! What a summary costs depends on buckets of time, not on requests. All that it tells but for its part
//! over time comes from sums by series: whole days within the range, hours and minutes only at its
//! ends. Its part over time comes from sums by key and outcome alone, which are few, and so do everybody's
//! totals by key: the database adds up what falls into one bucket that was asked for, and the pure
//! functions make the summary of that.

mod range_cover;
mod row;
mod statement;
mod time_buckets;

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use self::range_cover::{Coarse, MINUTE, bounded, is_exact, parts};
pub(super) use self::range_cover::{DAY, HOUR, QUARTER, floor};
use self::row::{kinds_of, rollup_of, sum_of_key, sum_of_kind};
use self::statement::{by_key, by_kind, by_outcome, by_series, extent, series};
use self::time_buckets::{Grid, Section, sections};
use super::engine::{Engine, Row, Session, Statement};
use super::value::{as_micros, there};
use crate::id::KeyId;
use crate::usage::{
    Granularity, Rollup, RollupStore, Summary, SummarySpec, Totals, UsageRange, summary,
};

/// The summary of a range.
pub(in crate::backend::sql) async fn summary<E: Engine>(
    engine: &E,
    range: &UsageRange,
    spec: &SummarySpec,
) -> Result<Summary, SqlError> {
    let (found, is_exact) = Found::open(engine, range).await?;
    let Some(mut found) = found else {
        let mut nothing = spec.empty();
        nothing.exact = is_exact;
        return Ok(nothing);
    };
    let names = engine.names();
    let days = parts(&found.starts, Granularity::Day, found.coarse);
    let latency = spec.has_latency();
    let everybodys = range.key.is_none() && range.owner.is_none();
    let rollups = if everybodys {
        let rows = found.session.rows(by_kind(names, range, &days, latency));
        let rows = rows.await?;
        rows.iter().map(sum_of_kind).collect::<Result<_, _>>()?
    } else {
        let statement = by_series(names, range, &days, &Grid::None, latency);
        found
            .by_series(engine, range, &[(statement, Granularity::Day)])
            .await?
    };
    let mut summary = spec.without_grid().summarize(&rollups);
    summary.exact = is_exact;
    // Everybody's sums were added up without telling whose they are.
    if everybodys && spec.has_keys() {
        summary.by_key = Some(found.totals_by_key(engine, range).await?);
    }
    if let Some((width, zone)) = spec.grid() {
        let now = as_micros(Timestamp::now());
        let sections = sections(width, zone, &found.starts, now)?;
        let statement = by_outcome(names, range, &sections, found.coarse);
        let rows = found.session.rows(statement).await?;
        let rollups: Vec<Rollup> = rows.iter().map(sum_of_key).collect::<Result<_, _>>()?;
        let over_time = SummarySpec::new().over_time(width, zone.clone());
        // Wider sums stand for minutes in buckets that they do not fit.
        let narrowest = found.coarse.narrowest(found.starts.start);
        let fits = |section: &Section| section.widest >= narrowest;
        summary.exact &= sections.iter().all(fits);
        summary.over_time = over_time.summarize(&rollups).over_time;
    }
    Ok(summary)
}

/// The totals of a range by key.
pub(in crate::backend::sql) async fn totals_by_key<E: Engine>(
    engine: &E,
    range: &UsageRange,
) -> Result<BTreeMap<Option<KeyId>, Totals>, SqlError> {
    match Found::open(engine, range).await?.0 {
        Some(mut found) => found.totals_by_key(engine, range).await,
        None => Ok(BTreeMap::new()),
    }
}

/// The sums of a range, each as narrow as it is kept, by time.
pub(in crate::backend::sql) async fn each<E: Engine>(
    engine: &E,
    range: &UsageRange,
) -> Result<Vec<Rollup>, SqlError> {
    let (Some(mut found), _) = Found::open(engine, range).await? else {
        return Ok(Vec::new());
    };
    let parts = parts(&found.starts, Granularity::Minute, found.coarse);
    let statements: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let width = part.width;
            let statement = by_series(engine.names(), range, &[part], &Grid::Each, true);
            (statement, width)
        })
        .collect();
    let rollups = found.by_series(engine, range, &statements).await?;
    let rollups: RollupStore = rollups.into_iter().collect();
    let mut rollups: Vec<Rollup> = rollups.into_iter().collect();
    rollups.sort_by_key(|rollup| (rollup.start, rollup.granularity));
    Ok(rollups)
}

/// What there is in a range, seen at one moment.
struct Found<S> {
    session: S,
    /// The starts of the range's minutes.
    starts: Range<i64>,
    coarse: Coarse,
}

impl<S: Session> Found<S> {
    /// `None` if there is nothing; and whether the range cuts no bucket.
    async fn open<E: Engine<Session = S>>(
        engine: &E,
        range: &UsageRange,
    ) -> Result<(Option<Self>, bool), SqlError> {
        // No text that is kept holds U+0000.
        if range
            .owner
            .as_deref()
            .is_some_and(|owner| owner.contains('\0'))
        {
            return Ok((None, true));
        }
        let names = engine.names();
        let mut session = engine.snapshot().await?;
        let rows = session.rows(extent(names)).await?;
        let extent = there(rows.first())?;
        let Some((first, last)) = extent.time("first_hour")?.zip(extent.time("last_hour")?) else {
            return Ok((None, true));
        };
        let coarse = Coarse::new(extent.time("dropped")?, extent.time("folded")?);
        // Where the last minute is part of a wider sum, that tells no more than that it is in it.
        let last = match extent.time("last_minute")? {
            Some(minute) if minute >= coarse.quarters => minute,
            Some(minute) if minute >= last => floor(minute, QUARTER) + QUARTER - MINUTE,
            _ => last + HOUR - MINUTE,
        };
        let mut starts = bounded(range, first, last);
        let gone = extent.time("gone")?.unwrap_or(i64::MIN);
        starts.start = starts.start.max(gone);
        // What is to come cannot have been counted.
        let over = last.min(as_micros(Timestamp::now()) - MINUTE);
        let is_exact = is_exact(range, first, over, coarse);
        let found = (!starts.is_empty()).then_some(Self {
            session,
            starts,
            coarse,
        });
        Ok((found, is_exact))
    }

    async fn totals_by_key<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, SqlError> {
        let hours = parts(&self.starts, Granularity::Hour, self.coarse);
        let statement = by_key(engine.names(), range, hours);
        let rows = self.session.rows(statement).await?;
        let rollups: Vec<Rollup> = rows.iter().map(sum_of_key).collect::<Result<_, _>>()?;
        Ok(summary::by_key(&rollups))
    }

    /// The sums of series, from statements that tell of them by their numbers, and how wide they are.
    async fn by_series<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        range: &UsageRange,
        statements: &[(Statement, Granularity)],
    ) -> Result<Vec<Rollup>, SqlError> {
        let series = series(engine.names(), range);
        let kinds = kinds_of(&self.session.rows(series).await?)?;
        let mut rollups = Vec::new();
        for (statement, width) in statements {
            let rows = self.session.rows(statement.clone()).await?;
            for row in &rows {
                let rollup = rollup_of(row, &kinds, *width)?;
                rollups.extend(rollup.map(|rollup| Rollup {
                    // A minute that came late, of a quarter of an hour.
                    start: width.floor(rollup.start),
                    ..rollup
                }));
            }
        }
        Ok(rollups)
    }
}

#[cfg(all(test, feature = "_sqlite"))]
mod tests;
