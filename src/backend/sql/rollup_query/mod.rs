//! Summaries from rollups by minute, hour and day.
//!
//! The cost of a summary depends on the number of time buckets, not on the number of requests. It reads whole days
//! inside the range, hours and minutes at its ends: for a key or an owner those of its callers, otherwise those of all
//! callers together. Totals by key of all callers come from records for hours, days and blocks of these. The database aggregates
//! rollups into the requested time buckets; `SummarySpec::summarize` computes the summary from these and from the rollups
//! of records that are not merged yet.

mod caller_totals;
mod range_cover;
mod row;
mod statement;
mod time_buckets;
mod totals_by_caller;
mod unmerged;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use self::caller_totals::add_stored;
use self::range_cover::{RangePart, Widths, bounded, cover_range, is_exact};
use self::row::{Attributes, callers, outcome_rollup};
use self::statement::{
    Callers, Scope, by_caller, by_outcome, by_series, callers_of, callers_state, extent, kinds,
};
use self::time_buckets::{Section, TimeBuckets, sections};
use self::totals_by_caller::TotalsByCaller;
use self::unmerged::unmerged;
use super::callers::{Callers as KnownCallers, CallersState};
use super::engine::{Engine, Row, Session, Statement};
use super::merging::Merged;
use super::micros::{HOUR, MINUTE, QUARTER, floor};
use super::series_rollup::SeriesRollup;
use super::value::{amounts, as_micros, required, series};
use crate::id::KeyId;
use crate::join::join;
use crate::telemetry;
use crate::usage::{Granularity, Rollup, RollupStore, Summary, SummarySpec, Totals, UsageRange};

/// The maximum number of callers whose rollups are read one by one for their totals.
const FEW_CALLERS: usize = 100;

/// Computes the summary of a range.
pub(in crate::backend::sql) async fn summary<E: Engine>(
    engine: &E,
    range: &UsageRange,
    spec: &SummarySpec,
) -> Result<Summary, SqlError> {
    let is_unfiltered = Scope::from(range).is_unfiltered();
    let callers = match is_unfiltered {
        true => Callers::Together,
        false => Callers::Each,
    };
    let (snapshot, is_exact) = Snapshot::open(engine, range).await?;
    let Some(mut snapshot) = snapshot else {
        let mut empty = spec.empty();
        empty.exact = is_exact;
        return Ok(empty);
    };
    let names = engine.names();
    let days = cover_range(&snapshot.starts, Granularity::Day, snapshot.widths);
    let latency = spec.has_latency();
    let statement = by_series(names, range, callers, &days, &TimeBuckets::None, latency);
    let unmerged = snapshot.unmerged_rollups(engine, range, callers).await?;
    let rollups = snapshot.read(statement, Granularity::Day).await?;
    let rollups = rollups.iter().chain(&unmerged);
    let mut summary = spec.without_grid().summarize(rollups);
    summary.exact = is_exact;
    // Without a filter, the rollups above are not grouped by caller.
    let mut totals = match is_unfiltered && (spec.has_keys() || spec.has_owners()) {
        true => Some(snapshot.pending_totals(engine, range.into(), true).await?),
        false => None,
    };
    let sections = match spec.grid() {
        Some((width, zone)) => {
            let now = as_micros(Timestamp::now());
            Some(sections(width, zone, &snapshot.starts, now)?)
        }
        None => None,
    };
    // The totals are added up while the database groups the rollups over time.
    let latency = spec.has_latency_over_time();
    let over_time = sections
        .as_deref()
        .map(|sections| by_outcome(names, range, callers, sections, snapshot.widths, latency));
    let rows = async {
        match over_time {
            Some(statement) => snapshot.session.fetch(statement).await,
            None => Ok(Vec::new()),
        }
    };
    let added = async {
        match &mut totals {
            Some(totals) => totals.add_pending().await,
            None => Ok(()),
        }
    };
    let (rows, added) = join(rows, added).await;
    if let Some(sections) = sections {
        let rollups = rows?
            .iter()
            .map(outcome_rollup)
            .collect::<Result<Vec<_>, _>>()?;
        let rollups = rollups.iter().chain(&unmerged);
        // Not exact if rollups that replaced minutes do not align with the time buckets.
        let narrowest = snapshot.widths.narrowest(snapshot.starts.start);
        let fits = |section: &Section| section.widest >= narrowest;
        summary.exact &= sections.iter().all(fits);
        summary.over_time = spec.only_grid().summarize(rollups).over_time;
    }
    if let Some(totals) = totals {
        let totals = snapshot
            .undamaged(engine, range.into(), totals, added)
            .await?;
        summary.by_key = spec.has_keys().then(|| totals.by_key());
        summary.by_owner = spec.has_owners().then(|| totals.by_owner());
    }
    Ok(summary)
}

/// Computes the totals of a range by key.
pub(in crate::backend::sql) async fn totals_by_key<E: Engine>(
    engine: &E,
    range: &UsageRange,
) -> Result<BTreeMap<Option<KeyId>, Totals>, SqlError> {
    totals(engine, range.into()).await
}

/// Computes the totals of a range by key, of some keys.
pub(in crate::backend::sql) async fn totals_of_keys<E: Engine>(
    engine: &E,
    range: &UsageRange,
    keys: &[Option<KeyId>],
) -> Result<BTreeMap<Option<KeyId>, Totals>, SqlError> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let are_few = keys.len() <= FEW_CALLERS;
    let scope = Scope {
        range,
        keys: are_few.then_some(keys),
    };
    let mut totals = totals(engine, scope).await?;
    if !are_few {
        let keys: HashSet<_> = keys.iter().collect();
        totals.retain(|key, _| keys.contains(key));
    }
    Ok(totals)
}

async fn totals<E: Engine>(
    engine: &E,
    scope: Scope<'_>,
) -> Result<BTreeMap<Option<KeyId>, Totals>, SqlError> {
    match Snapshot::open(engine, scope.range).await?.0 {
        Some(mut snapshot) => {
            let mut totals = snapshot.pending_totals(engine, scope, true).await?;
            let added = totals.add_pending().await;
            let totals = snapshot.undamaged(engine, scope, totals, added).await?;
            Ok(totals.by_key())
        }
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
    let parts = cover_range(&snapshot.starts, Granularity::Minute, snapshot.widths);
    let (names, each) = (engine.names(), TimeBuckets::Each);
    let unmerged = snapshot.unmerged_rollups(engine, range, Callers::Each);
    let mut rollups = unmerged.await?;
    for part in parts {
        let width = part.width;
        let statement = by_series(names, range, Callers::Each, &[part], &each, true);
        rollups.extend(snapshot.read(statement, width).await?);
    }
    let rollups: RollupStore = rollups.into_iter().collect();
    let mut rollups: Vec<Rollup> = rollups.into_iter().collect();
    rollups.sort_by_key(|rollup| (rollup.start, rollup.granularity));
    Ok(rollups)
}

fn log_damage(error: &(dyn std::error::Error + 'static)) {
    telemetry::error!(
        error,
        "cannot read the totals of callers; adding up their rollups instead"
    );
}

/// A read transaction and the part of a range that has rollups.
struct Snapshot<S> {
    session: S,
    /// The range of minute starts, in microseconds.
    starts: Range<i64>,
    widths: Widths,
    /// Whether the totals of callers are stored for all hours and days.
    has_totals: bool,
    /// The time from which the totals of callers are stored for all minutes.
    minutes_from: i64,
    attributes: Attributes,
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
        let in_records = (
            extent.time("first_unmerged")?,
            extent.time("last_unmerged")?,
        );
        // As if all were merged into hours.
        let first_minutes = [extent.time("first_minute")?, in_records.0];
        let last_minutes = [extent.time("last_minute")?, in_records.1];
        let hour = |minute: i64| floor(minute, HOUR);
        let first = first_minutes.into_iter().flatten().map(hour);
        let last = last_minutes.into_iter().flatten().map(hour);
        let (first, last) = (
            first.chain(extent.time("first_hour")?).min(),
            last.chain(extent.time("last_hour")?).max(),
        );
        let Some((first, last)) = first.zip(last) else {
            return Ok((None, true));
        };
        let widths = Widths::new(
            extent.time("dropped")?,
            extent.time("folded")?,
            Merged::new(extent.time("merged_hours")?, extent.time("merged_days")?),
        );
        // If the last minute is part of a wider rollup, it may be any minute of it.
        let last = match extent.time("last_minute")?.max(in_records.1) {
            Some(minute) if minute >= widths.quarters => minute,
            Some(minute) if minute >= last && minute >= widths.hours => {
                floor(minute, QUARTER) + QUARTER - MINUTE
            }
            _ => last + HOUR - MINUTE,
        };
        let mut starts = bounded(range, first, last);
        let pruned = extent.time("gone")?.unwrap_or(i64::MIN);
        starts.start = starts.start.max(pruned);
        // A bucket boundary in the future cannot cut a rollup.
        let last_past = last.min(as_micros(Timestamp::now()) - MINUTE);
        let is_exact = is_exact(range, first, last_past, widths);
        if starts.is_empty() {
            return Ok((None, is_exact));
        }
        let mut attributes = Attributes::default();
        attributes.add_kinds(&session.fetch(kinds(names)).await?)?;
        let snapshot = Self {
            session,
            starts,
            widths,
            has_totals: !extent.boolean("lacks_totals")?,
            minutes_from: extent.time("lack_minutes")?.unwrap_or(i64::MIN),
            attributes,
        };
        Ok((Some(snapshot), is_exact))
    }

    /// The totals of a range by caller. Stored records may still be [pending](TotalsByCaller::add_pending). Without
    /// `use_stored`, rollups are added up instead of stored records.
    async fn pending_totals<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        scope: Scope<'_>,
        use_stored: bool,
    ) -> Result<TotalsByCaller, SqlError> {
        let names = engine.names();
        let unmerged = self.unmerged(engine, scope, Callers::Each).await?;
        let parts = cover_range(&self.starts, Granularity::Day, self.widths);
        // Those of a few callers are read faster from their rollups.
        let are_many = scope.is_unfiltered() || self.attributes.callers.all().len() > FEW_CALLERS;
        let is_stored = |part: &RangePart| match part.width {
            Granularity::Minute | Granularity::QuarterHour => {
                part.starts.start >= self.minutes_from
            }
            _ => self.has_totals,
        };
        let (stored, mut read): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .partition(|part| use_stored && are_many && is_stored(part));
        let mut totals = TotalsByCaller::new(&self.attributes);
        for part in &stored {
            match add_stored(&mut self.session, names, part, &mut totals).await {
                Err(SqlError::Decode(error)) => {
                    log_damage(&*error);
                    totals = TotalsByCaller::new(&self.attributes);
                    read.extend(stored);
                    break;
                }
                added => added?,
            }
        }
        if !read.is_empty() {
            let rows = self.session.fetch(by_caller(names, scope, read)).await?;
            for row in &rows {
                totals.add(series(row)?, &amounts(row)?);
            }
        }
        for SeriesRollup {
            series, amounts, ..
        } in unmerged
        {
            totals.add(series, &amounts);
        }
        Ok(totals)
    }

    /// The same totals, from rollups if a stored record was damaged when it was added.
    async fn undamaged<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        scope: Scope<'_>,
        totals: TotalsByCaller,
        added: Result<(), SqlError>,
    ) -> Result<TotalsByCaller, SqlError> {
        match added {
            Ok(()) => Ok(totals),
            Err(SqlError::Decode(error)) => {
                log_damage(&*error);
                self.pending_totals(engine, scope, false).await
            }
            Err(error) => Err(error),
        }
    }

    /// The callers of a query.
    async fn callers<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        scope: Scope<'_>,
    ) -> Result<Arc<KnownCallers>, SqlError> {
        let (names, session) = (engine.names(), &mut self.session);
        let mut state = None;
        if scope.is_unfiltered() {
            let rows = session.fetch(callers_state(names)).await?;
            if let Some(row) = rows.first() {
                let now = CallersState {
                    newest: required(row.integer("id")?)?,
                    token: required(row.integer("token")?)?,
                    pruned: row.time("pruned")?,
                };
                if let Some(callers) = engine.callers().get(now) {
                    return Ok(callers);
                }
                state = Some(now);
            }
        }
        let rows = session.fetch(callers_of(names, scope)).await?;
        let callers = Arc::new(callers(required(rows.first())?)?);
        if let Some(state) = state {
            engine.callers().set(state, &callers);
        }
        Ok(callers)
    }

    /// The rollups of the range that are not in the tables yet.
    async fn unmerged<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        scope: Scope<'_>,
        callers: Callers,
    ) -> Result<Vec<SeriesRollup>, SqlError> {
        let names = engine.names();
        if callers == Callers::Each {
            self.attributes.callers = self.callers(engine, scope).await?;
        }
        let (attributes, starts) = (&self.attributes, &self.starts);
        let session = &mut self.session;
        unmerged(session, names, callers, attributes, starts, self.widths).await
    }

    /// The same with their attributes.
    async fn unmerged_rollups<E: Engine<Session = S>>(
        &mut self,
        engine: &E,
        range: &UsageRange,
        callers: Callers,
    ) -> Result<Vec<Rollup>, SqlError> {
        let unmerged = self.unmerged(engine, range.into(), callers).await?;
        let unmerged = unmerged.into_iter();
        let rollups = unmerged.map(|rollup| {
            let width = self.widths.narrowest(rollup.start);
            self.attributes.rollup_of(rollup, width)
        });
        rollups.filter_map(Result::transpose).collect()
    }

    /// The rollups that a statement selects by caller and kind.
    async fn read(
        &mut self,
        statement: Statement,
        width: Granularity,
    ) -> Result<Vec<Rollup>, SqlError> {
        let rows = self.session.fetch(statement).await?;
        let rollup = |row: &S::Row| {
            let rollup = self.attributes.rollup(row, width)?;
            Ok(rollup.map(|rollup| Rollup {
                // A minute that was written after its quarter of an hour was merged.
                start: width.floor(rollup.start),
                ..rollup
            }))
        };
        let rollups = rows.iter().map(rollup);
        rollups.filter_map(Result::transpose).collect()
    }
}

#[cfg(all(test, feature = "_sqlite"))]
mod tests;
