//! Queries of the request log.
//!
//! The log is divided into segments of several thousand requests that arrived around the same time. Indexes begin with
//! the segment, or a group of segments, so that inserts touch few pages. A query searches segments from the latest to the earliest, in steps
//! that grow, until it has enough requests. Rollups by hour and minute show which segments may have requests of the
//! matching callers and kinds.

mod access_path;
mod conditions;
mod matching;
mod search;
mod segments;

use jiff::Timestamp;
use sqlx::Error as SqlError;
use uuid::Uuid;

use self::access_path::access_paths;
use self::matching::Matching;
use self::search::Search;
pub(super) use self::search::{ATTRIBUTES, JOIN_ATTRIBUTES};
use self::segments::{Rollups, Segments};
use super::engine::{Row, Session, Statement};
use super::names::Names;
use super::value::{as_micros, decode, number, parse_name, parsed, required, status, time};
use crate::page::Page;
use crate::usage::{Count, LogFilter, LogQuery, ReadError, UsageEvent};

/// The maximum number of requests to count.
const MAX_COUNT: u64 = 10_000;

/// Reads a page of requests.
pub(super) async fn page<S: Session>(
    session: &mut S,
    names: &Names,
    query: &LogQuery,
) -> Result<Page<UsageEvent>, ReadError> {
    let (filter, after) = (&query.filter, query.page.after.as_ref());
    let after: Option<(Timestamp, Uuid)> = after
        .map(|token| Ok::<_, ReadError>((token.time(), token.id()?)))
        .transpose()?;
    let limit = query.page.size() + 1;
    let reading = async {
        let mut newest: Vec<UsageEvent> = Vec::new();
        let Some(matching) = Matching::read(session, names, filter).await? else {
            return Ok(newest);
        };
        let paths = access_paths(filter, after);
        let rollups = Rollups::read(session, names, &matching, &paths).await?;
        for path in paths {
            let mut segments = Segments::new(&path, rollups.as_ref(), limit as u64);
            loop {
                let cutoff = newest.get(limit - 1).map(|last| as_micros(last.time));
                let step = segments.next(session, names, cutoff).await?;
                if step.is_empty() {
                    break;
                }
                let search = Search::new(names, &path, &matching, &segments, &step);
                let rows = session.fetch(search.newest(after, limit)).await?;
                for row in rows {
                    newest.push(event_of(&row)?);
                }
                newest.sort_unstable_by_key(|event| std::cmp::Reverse((event.time, event.id)));
                newest.truncate(limit);
            }
        }
        Ok(newest)
    };
    let newest: Result<_, SqlError> = reading.await;
    Ok(Page::from_surplus(
        newest.map_err(ReadError::unavailable)?,
        query.page.size(),
        LogQuery::page_token,
    ))
}

/// Counts the matching requests.
pub(super) async fn count<S: Session>(
    session: &mut S,
    names: &Names,
    filter: &LogFilter,
) -> Result<Count, SqlError> {
    let Some(matching) = Matching::read(session, names, filter).await? else {
        return Ok(Count::Exactly(0));
    };
    let paths = access_paths(filter, None);
    let rollups = Rollups::read(session, names, &matching, &paths).await?;
    let mut count = 0;
    for path in paths {
        let mut segments = Segments::new(&path, rollups.as_ref(), MAX_COUNT);
        loop {
            let step = segments.next(session, names, None).await?;
            if step.is_empty() {
                break;
            }
            let search = Search::new(names, &path, &matching, &segments, &step);
            let rows = session.fetch(search.count(MAX_COUNT + 1 - count)).await?;
            count += number(required(rows.first())?, "count")?;
            if count > MAX_COUNT {
                return Ok(Count::MoreThan(MAX_COUNT));
            }
        }
    }
    Ok(Count::Exactly(count))
}

/// Lists endpoints.
pub(super) async fn endpoints<S: Session>(
    session: &mut S,
    names: &Names,
    limit: usize,
) -> Result<Vec<String>, SqlError> {
    let mut sql = Statement::new(names, "SELECT endpoint FROM ");
    let order = names.dialect.in_byte_order("endpoint");
    let limit = sql.placeholder(i64::try_from(limit).unwrap_or(i64::MAX));
    sql.push_sql(
        names,
        &format!(
            "(SELECT DISTINCT endpoint FROM {{prefix}}kinds) k ORDER BY {order} LIMIT {limit}"
        ),
    );
    let rows = session.fetch(sql).await?;
    let endpoint = |row: &S::Row| required(row.text("endpoint")?.map(String::from));
    rows.iter().map(endpoint).collect()
}

pub(super) fn event_of(row: &impl Row) -> Result<UsageEvent, SqlError> {
    let mut event = UsageEvent::new(time(row, "time")?);
    event.id = row.uuid("id")?;
    event.request_id = row.text("request_id")?.map(Into::into);
    event.key = row.text("key_id")?.map(parsed).transpose()?;
    event.owner = row.text("owner")?.map(Into::into);
    event.method = parsed(required(row.text("method")?)?)?;
    event.endpoint = required(row.text("endpoint")?)?.into();
    event.path = match row.text("path")? {
        Some(path) => path.into(),
        None => (&*event.endpoint).into(),
    };
    event.resource_id = row.text("resource_id")?.map(Into::into);
    event.status = status(row)?;
    event.outcome = parse_name(required(row.text("outcome")?)?)?;
    event.cause = row.text("cause")?.map(parse_name).transpose()?;
    let reason = row.text("rejection_reason")?;
    let reason = reason.or(row.text("kind_rejection_reason")?);
    event.rejection_reason = reason.map(parse_name).transpose()?;
    event.billable = row.boolean("billable")?;
    // NULL for the most frequent values.
    let cost = row.integer("cost")?.unwrap_or(1);
    event.cost = cost.try_into().map_err(decode)?;
    event.latency_us = small_or_large(row, "latency_us", "large_latency_us")?;
    let request_bytes = row.integer("request_bytes")?.unwrap_or(0);
    event.request_bytes = request_bytes.try_into().map_err(decode)?;
    event.response_bytes = small_or_large(row, "response_bytes", "large_response_bytes")?;
    let address = row.address("client_ip")?;
    event.client_ip = address.as_deref().map(parsed).transpose()?;
    Ok(event)
}

/// A number that is in the second column if it is too large for the first.
fn small_or_large(row: &impl Row, small: &str, large: &str) -> Result<u64, SqlError> {
    match row.integer(small)? {
        Some(small) => u64::try_from(small).map_err(decode),
        None => number(row, large),
    }
}

#[cfg(all(test, feature = "_sqlite"))]
mod tests;
