//! Summaries from rollups by minute, hour and day.
//!
//! The cost of a summary depends on the number of time buckets, not on the number of requests. Totals come from
//! rollups by series: whole days inside the range, hours and minutes at its ends. Totals over time, and totals by
//! key without a filter, come from the smaller rollups by key and outcome. The database aggregates rollups into
//! the requested time buckets; `SummarySpec::summarize` computes the summary from these and from the rollups of records
//! that are not merged yet.

mod range_cover;
mod row;
mod statement;
mod time_buckets;
mod unmerged;

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use self::range_cover::{PrunedBefore, bounded, cover_range, is_exact};
use self::row::{key_rollup, kind_rollup, kinds_of, rollup_of};
use self::statement::{by_key, by_kind, by_outcome, by_series, extent, series};
use self::time_buckets::{Section, TimeBuckets, sections};
use super::engine::{Engine, Row, Session, Statement};
use super::micros::{HOUR, MINUTE, QUARTER, floor};
use super::value::{as_micros, required};
use crate::id::KeyId;
use crate::usage::{
    Granularity, Rollup, RollupStore, Summary, SummarySpec, Totals, UsageRange, summary,
};

/// Computes the summary of a range.
pub(in crate::backend::sql) async fn summary<E: Engine>(
    engine: &E,
    range: &UsageRange,
    spec: &SummarySpec,
) -> Result<Summary, SqlError> {
    let (snapshot, is_exact) = Snapshot::open(engine, range).await?;
    let Some(mut snapshot) = snapshot else {
        let mut empty = spec.empty();
        empty.exact = is_exact;
        return Ok(empty);
    };
    let names = engine.names();
    let days = cover_range(&snapshot.starts, Granularity::Day, snapshot.coarse);
    let latency = spec.has_latency();
    let is_unfiltered = range.key.is_none() && range.owner.is_none();
    let rollups: Vec<Rollup> = if is_unfiltered {
        let rows = snapshot
            .session
            .fetch(by_kind(names, range, &days, latency));
        let rows = rows.await?;
        rows.iter().map(kind_rollup).collect::<Result<_, _>>()?
    } else {
        let statement = by_series(names, range, &days, &TimeBuckets::None, latency);
        snapshot
            .by_series(engine, range, &[(statement, Granularity::Day)])
            .await?
    };
    let rollups = rollups.iter().chain(&snapshot.unmerged);
    let mut summary = spec.without_grid().summarize(rollups);
    summary.exact = is_exact;
    // Without a filter, the rollups above are not grouped by key.
    if is_unfiltered && spec.has_keys() {
        summary.by_key = Some(snapshot.totals_by_key(engine, range).await?);
    }
    if let Some((width, zone)) = spec.grid() {
        let now = as_micros(Timestamp::now());
        let sections = sections(width, zone, &snapshot.starts, now)?;
        let statement = by_outcome(names, range, &sections, snapshot.coarse);
        let rows = snapshot.session.fetch(statement).await?;
        let rollups: Vec<Rollup> = rows.iter().map(key_rollup).collect::<Result<_, _>>()?;
        let rollups = rollups.iter().chain(&snapshot.unmerged);
        let over_time = SummarySpec::new().over_time(width, zone.clone());
        // Not exact if rollups that replaced minutes do not align with the time buckets.
        let narrowest = snapshot.coarse.narrowest(snapshot.starts.start);
        let fits = |section: &Section| section.widest >= narrowest;
        summary.exact &= sections.iter().all(fits);
        summary.over_time = over_time.summarize(rollups).over_time;
    }
    Ok(summary)
}

/// Computes the totals of a range by key.
pub(in crate::backend::sql) async fn totals_by_key<E: Engine>(
    engine: &E,
    range: &UsageRange,
) -> Result<BTreeMap<Option<KeyId>, Totals>, SqlError> {
    match Snapshot::open(engine, range).await?.0 {
        Some(mut snapshot) => snapshot.totals_by_key(engine, range).await,
        None => Ok(BTreeMap::new()),
    }
}

/// The rollups of a range at the smallest width that is kept, ordered by time.
pub(in crate::backend::sql) async fn rollups<E: Engine>(
    engine: &E,
    range: &UsageRange,
) -> Result<Vec<Rollup>, SqlError> {
    let (Some(mut snapshot), _) = Snapshot::open(engine, range).await? else {
        return Ok(Vec::new());
    };
    let parts = cover_range(&snapshot.starts, Granularity::Minute, snapshot.coarse);
    let statements: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let width = part.width;
            let statement = by_series(engine.names(), range, &[part], &TimeBuckets::Each, true);
            (statement, width)
        })
        .collect();
    let rollups = snapshot.by_series(engine, range, &statements).await?;
    let rollups: RollupStore = rollups.into_iter().chain(snapshot.unmerged).collect();
    let mut rollups: Vec<Rollup> = rollups.into_iter().collect();
    rollups.sort_by_key(|rollup| (rollup.start, rollup.granularity));
    Ok(rollups)
}

/// A read transaction and the part of a range that has rollups.
struct Snapshot<S> {
    session: S,
    /// The range of minute starts, in microseconds.
    starts: Range<i64>,
    coarse: PrunedBefore,
    /// The rollups of the range that are not in the tables yet.
    unmerged: Vec<Rollup>,
}

impl<S: Session> Snapshot<S> {
    /// Opens a snapshot, or returns `None` if there are no rollups in the range. Also returns whether the range
    /// starts and ends at time bucket boundaries.
    async fn open<E: Engine<Session = S>>(
        engine: &E,
        range: &UsageRange,
    ) -> Result<(Option<Self>, bool), SqlError> {
        // Stored texts never contain U+0000, which PostgreSQL rejects.
        if range
            .owner
            .as_deref()
            .is_some_and(|owner| owner.contains('\0'))
        {
            return Ok((None, true));
        }
        let names = engine.names();
        let mut session = engine.snapshot().await?;
        let rows = session.fetch(extent(names)).await?;
        let extent = required(rows.first())?;
        let unmerged = (
            extent.time("first_unmerged")?,
            extent.time("last_unmerged")?,
        );
        // As if they were merged.
        let first = [
            extent.time("first_hour")?,
            unmerged.0.map(|it| floor(it, HOUR)),
        ];
        let last = [
            extent.time("last_hour")?,
            unmerged.1.map(|it| floor(it, HOUR)),
        ];
        let (first, last) = (
            first.into_iter().flatten().min(),
            last.into_iter().flatten().max(),
        );
        let Some((first, last)) = first.zip(last) else {
            return Ok((None, true));
        };
        let coarse = PrunedBefore::new(extent.time("dropped")?, extent.time("folded")?);
        // If the last minute is part of a wider rollup, it may be any minute of it.
        let last = match extent.time("last_minute")?.max(unmerged.1) {
            Some(minute) if minute >= coarse.quarters => minute,
            Some(minute) if minute >= last && minute >= coarse.hours => {
                floor(minute, QUARTER) + QUARTER - MINUTE
            }
            _ => last + HOUR - MINUTE,
        };
        let mut starts = bounded(range, first, last);
        let pruned = extent.time("gone")?.unwrap_or(i64::MIN);
        starts.start = starts.start.max(pruned);
        // A bucket boundary in the future cannot cut a rollup.
        let last_past = last.min(as_micros(Timestamp::now()) - MINUTE);
        let is_exact = is_exact(range, first, last_past, coarse);
        if starts.is_empty() {
            return Ok((None, is_exact));
        }
        let unmerged = match unmerged.0 {
            None => Vec::new(),
            Some(_) => unmerged::unmerged(&mut session, names, range, &starts, coarse).await?,
        };
        let snapshot = Self {
            session,
            starts,
            coarse,
            unmerged,
        };
        Ok((Some(snapshot), is_exact))
    }

    async fn totals_by_key<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, SqlError> {
        let hours = cover_range(&self.starts, Granularity::Hour, self.coarse);
        let statement = by_key(engine.names(), range, hours);
        let rows = self.session.fetch(statement).await?;
        let rollups: Vec<Rollup> = rows.iter().map(key_rollup).collect::<Result<_, _>>()?;
        Ok(summary::by_key(rollups.iter().chain(&self.unmerged)))
    }

    /// The rollups that the statements select by series id, with the attributes of their series. Each statement
    /// has the width of its rollups.
    async fn by_series<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        range: &UsageRange,
        statements: &[(Statement, Granularity)],
    ) -> Result<Vec<Rollup>, SqlError> {
        let series = series(engine.names(), range);
        let kinds = kinds_of(&self.session.fetch(series).await?)?;
        let mut rollups = Vec::new();
        for (statement, width) in statements {
            let rows = self.session.fetch(statement.clone()).await?;
            for row in &rows {
                let rollup = rollup_of(row, &kinds, *width)?;
                rollups.extend(rollup.map(|rollup| Rollup {
                    // A minute that was written after its quarter of an hour was merged.
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
