//! The query plans of SQLite for each filter.

use jiff::Timestamp;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, Row as _, SqlitePool};

use super::access_path::{Id, access_paths};
use super::conditions::{filters_callers, filters_kinds};
use super::matching::{Callers, Matching};
use super::search::Search;
use super::segments::Segments;
use crate::backend::SqliteBackend;
use crate::backend::sql::{Dialect, Names, Statement};
use crate::usage::{Cause, LogFilter, Method, Outcome, RejectionReason, Status, StatusClass};
use uuid::Uuid;

type Set = fn(&mut LogFilter);

/// A value for every field.
const FIELDS: [(&str, Set); 18] = [
    ("key", |it| it.key = "3fK9aB0000zzZZ19".parse().ok()),
    ("owner", |it| it.owner = Some("customer-17".into())),
    ("owner_contains", |it| {
        it.owner_contains = Some("mer".into())
    }),
    ("from", |it| it.from = Some(Timestamp::UNIX_EPOCH)),
    ("to", |it| it.to = Some(Timestamp::UNIX_EPOCH)),
    ("outcome", |it| it.outcomes = vec![Outcome::Failed]),
    ("cause", |it| it.cause = Some(Cause::ALL[0])),
    ("rejection_reason", |it| {
        it.rejection_reason = Some(RejectionReason::Revoked)
    }),
    ("method", |it| it.methods = vec![Method::Get, Method::Post]),
    ("endpoint", |it| it.endpoint = Some("/v1".into())),
    ("endpoint_contains", |it| {
        it.endpoint_contains = Some("v1".into())
    }),
    ("status", |it| it.statuses = vec![Status::Http(200).into()]),
    ("status_class", |it| {
        it.statuses = vec![StatusClass::Success.into(), Status::Http(429).into()]
    }),
    ("resource_id", |it| {
        it.resource_id = Some("posting-1".into())
    }),
    ("client_ip", |it| {
        it.client_ip = Some([203, 0, 113, 7].into())
    }),
    ("event_id", |it| it.event_id = Some(Uuid::nil())),
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
    let numbers = [vec![1], (1..=30).collect::<Vec<_>>()];
    let mut callers = vec![Callers::Any];
    if filters_callers(filter) {
        callers = numbers.clone().map(Callers::Few).into();
        callers.push(Callers::Many((1..=600).collect()));
    }
    let kinds = match filters_kinds(filter) {
        true => numbers.map(Some).into(),
        false => vec![None],
    };
    let of = |callers: &Callers| {
        let callers = callers.clone();
        kinds.clone().into_iter().map(move |kinds| Matching {
            callers: callers.clone(),
            kinds,
            rejection_reason: filter.rejection_reason,
        })
    };
    callers.iter().flat_map(of).collect()
}

/// How a search finds the requests of a segment.
fn expected(id: Option<&Id>, filter: &LogFilter, matching: &Matching) -> &'static str {
    match id {
        Some(Id::Request(_)) => return "by_request_id (<expr>=? AND request_id=?)",
        Some(Id::Event {
            has_time: false, ..
        }) => return "by_id (<expr>=? AND id=?)",
        Some(Id::Event { has_time: true, .. }) => return "(segment=?)",
        None if filter.resource_id.is_some() => return "by_resource (<expr>=? AND resource_id=?)",
        None => {}
    }
    match (&matching.callers, &matching.kinds) {
        (Callers::Few(callers), Some(kinds)) if callers.len() * kinds.len() <= 500 => {
            "by_caller (segment=? AND caller_id=? AND kind_id=?)"
        }
        (Callers::Few(_), _) => "by_caller (segment=? AND caller_id=?)",
        (_, Some(_)) => "by_kind (segment=? AND kind_id=?)",
        (_, None) => "(segment=?)",
    }
}

#[tokio::test]
async fn every_filter_uses_an_index() {
    let names = Names::new(Dialect::Sqlite);
    let pool = tables().await;
    let segments = Segments::none();
    let seen = Some((Timestamp::UNIX_EPOCH, Uuid::nil()));
    for (name, filter) in filters() {
        for matching in matching(&filter) {
            for path in access_paths(&filter, None) {
                let search = || Search::new(&names, &path, &matching, &segments, &[]);
                let expected = expected(path.id.as_ref(), &filter, &matching);
                for statement in [
                    search().count(10),
                    search().newest(None, 10),
                    search().newest(seen, 10),
                ] {
                    let steps = steps(&pool, &statement).await;
                    assert!(
                        steps.iter().all(|step| step.contains(expected)),
                        "{name}, {matching:?}: {steps:?}, not {expected}\n{}",
                        statement.text
                    );
                }
            }
        }
    }
}
