//! The SQL examples of the schema page.

use keytally::backend::SqliteBackend;
use keytally::usage::UsageSink;
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use crate::merging::events;
use crate::postgres_server as postgres;

const PAGE: &str = include_str!("../../src/backend/schema.md");

/// The examples for a database.
fn examples(database: &str) -> Vec<&'static str> {
    let blocks = PAGE.split("```sql\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let statements = blocks.flat_map(|block| block.split(";\n"));
    let statements: Vec<_> = statements
        .map(str::trim)
        .filter(|statement| statement.starts_with(&format!("-- {database}")))
        .collect();
    assert!(statements.len() > 4, "{statements:?}");
    statements
}

/// Without sequential scans, plans use an index wherever there is one.
#[tokio::test]
async fn examples_for_postgres_run_and_use_indexes() {
    let (backend, url) = postgres::backend().await;
    let batch = keytally::usage::Batch::new(events(500));
    backend.write(&batch).await.unwrap();
    backend.merge_rollups().await.unwrap();
    let mut db = postgres::pool(&url).await.acquire().await.unwrap();
    let settings = "SET enable_seqscan = off; SET enable_bitmapscan = off";
    sqlx::raw_sql(settings).execute(&mut *db).await.unwrap();
    for sql in examples("PostgreSQL") {
        let done = sqlx::raw_sql(sql).fetch_all(&mut *db).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let explain = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN {sql}")));
        let plan = explain.fetch_all(&mut *db).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        for table in ["requests", "minutes", "hours", "keys"] {
            let scan = format!("Seq Scan on keytally_{table}");
            assert!(!plan.contains(&scan), "{sql}\n{plan}");
        }
    }
}

#[tokio::test]
async fn examples_for_sqlite_run_and_use_indexes() {
    let db = SqlitePool::connect("sqlite::memory:").await.unwrap();
    let backend = SqliteBackend::from_pool(db.clone());
    backend.migrate().await.unwrap();
    for sql in examples("SQLite") {
        let done = sqlx::raw_sql(sql).fetch_all(&db).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let explain = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
        let plan = explain.fetch_all(&db).await.unwrap();
        for step in plan.iter().map(|row| row.get::<String, _>("detail")) {
            // `r` is the request log in its view.
            let scans = ["r", "keytally_minutes", "keytally_hours", "keytally_keys"];
            let is_scan = scans.iter().any(|table| step == format!("SCAN {table}"));
            assert!(!is_scan, "{sql}\n{step}");
        }
    }
}
