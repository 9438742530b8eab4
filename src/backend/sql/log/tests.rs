//! The query plans of SQLite for each filter.

use jiff::Timestamp;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, Row as _, SqlitePool};

use super::*;
use crate::backend::SqliteBackend;
use crate::backend::sql::Dialect;
use crate::usage::{Cause, Method, Outcome, Status, StatusClass};

type Set = fn(&mut LogFilter);

/// A value for every field.
const FIELDS: [(&str, Set); 13] = [
    ("key", |it| it.key = "3fK9aB0000zzZZ19".parse().ok()),
    ("owner", |it| it.owner = Some("customer-17".into())),
    ("from", |it| it.from = Some(Timestamp::UNIX_EPOCH)),
    ("to", |it| it.to = Some(Timestamp::UNIX_EPOCH)),
    ("outcome", |it| it.outcome = Some(Outcome::Failed)),
    ("cause", |it| it.cause = Some(Cause::ALL[0])),
    ("method", |it| it.method = Some(Method::Get)),
    ("endpoint", |it| it.endpoint = Some("/v1".into())),
    ("status", |it| it.status = Some(Status::Http(200))),
    ("status_class", |it| {
        it.status_class = Some(StatusClass::Success)
    }),
    ("resource_id", |it| {
        it.resource_id = Some("posting-1".into())
    }),
    ("request_id", |it| it.request_id = Some("wire-1".into())),
    ("event", |it| it.request_id = Some(Uuid::nil().to_string())),
];

/// Filters with no field, with each single field, and with each pair of fields.
fn filters() -> Vec<(String, LogFilter)> {
    let mut filters = vec![("nothing".into(), LogFilter::new())];
    for (n, (one, set)) in FIELDS.iter().enumerate() {
        for (other, set_too) in &FIELDS[n..] {
            let mut filter = LogFilter::new();
            set(&mut filter);
            set_too(&mut filter);
            filters.push((format!("{one} and {other}"), filter));
        }
    }
    filters
}

async fn tables() -> SqlitePool {
    let pool = SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect("sqlite::memory:").await.unwrap();
    let backend = SqliteBackend::from_pool(pool.clone());
    backend.migrate().await.unwrap();
    pool
}

/// The steps of the query plan that read the log.
async fn steps(pool: &SqlitePool, statement: &Statement) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {}", statement.text);
    let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(pool).await;
    let rows = rows.unwrap();
    let steps = || {
        rows.iter()
            .map(|row| (row.get("parent"), row.get("detail")))
    };
    let steps: Vec<(i64, &str)> = steps().collect();
    // A subquery with the alias `r` is not the log.
    let is_subquery = |&(parent, step): &(i64, &str)| {
        let has_step = |verb| steps.contains(&(parent, &*format!("{verb} r")));
        step == "SCAN r" && (has_step("CO-ROUTINE") || has_step("MATERIALIZE"))
    };
    let reads = |(_, step): &(i64, &str)| {
        let mut words = step.split(' ');
        matches!(words.next(), Some("SCAN" | "SEARCH"))
            && matches!(words.next(), Some("r" | "keytally_requests"))
    };
    // Finding the first and the last row takes no index.
    let ends = |(_, step): &(i64, &str)| *step == "SEARCH keytally_requests";
    let reading = steps.iter();
    let reading = reading.filter(|step| reads(step) && !is_subquery(step) && !ends(step));
    let reading: Vec<_> = reading.map(|(_, step)| (*step).into()).collect();
    assert!(!reading.is_empty(), "{steps:?}");
    reading
}

/// The matching callers and kinds that a filter may have.
fn matching(filter: &LogFilter) -> Vec<Matching> {
    let numbers = [vec![], vec![1], vec![1, 2, 3]].map(Some);
    let callers: &[_] = match filters_callers(filter) {
        // Also more than are read one by one.
        true => &[&numbers[..], &[None]].concat(),
        false => &[None],
    };
    let kinds: &[_] = match filters_kinds(filter) {
        true => &numbers,
        false => &[None],
    };
    let mut all = Vec::new();
    for callers in callers {
        for kinds in kinds {
            let buckets = match (callers, kinds) {
                (Some(_), Some(_)) => vec![Some(Buckets::of(false)), Some(Buckets::of(true))],
                _ => vec![None],
            };
            all.extend(buckets.into_iter().map(|buckets| Matching {
                callers: callers.clone(),
                kinds: kinds.clone(),
                all_kinds: vec![1, 2, 3],
                buckets,
            }));
        }
    }
    all
}

#[tokio::test]
async fn every_filter_uses_an_index() {
    let names = Names::new(Dialect::Sqlite);
    let pool = tables().await;
    let token = PageToken::new(Timestamp::UNIX_EPOCH, Uuid::nil());
    for (name, filter) in filters() {
        for matching in matching(&filter) {
            let mut statements = vec![count(&names, &filter, &matching)];
            for query in [
                LogQuery::new(filter.clone()),
                LogQuery::new(filter.clone()).after(token.clone()),
            ] {
                statements.push(page(&names, &query, &matching).unwrap());
            }
            let is_by_kind = match &matching.buckets {
                Some(buckets) => buckets.by_kind(),
                None => matching.callers.is_none(),
            };
            let expected = match (picks_ids(&filter), is_by_kind) {
                (true, _) => " USING ",
                (false, true) => "keytally_requests_by_kind",
                (false, false) => "keytally_requests_by_caller",
            };
            for statement in statements {
                let steps = steps(&pool, &statement).await;
                let message = format!("{name}, {matching:?}: {steps:?}\n{}", statement.text);
                assert!(
                    steps.iter().all(|step| step.contains(expected)),
                    "{message}"
                );
            }
        }
    }
}
