//! Migrates one table prefix after another, from a given number on.

#[cfg(feature = "postgres")]
use keytally::backend::PostgresBackend;
use keytally::backend::{SqlName, SqliteBackend};

use crate::given;

pub(crate) async fn run() {
    let url = given("KEYTALLY_TEST_URL");
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres:") {
        let backend = PostgresBackend::connect(&url).await.unwrap();
        return migrate(async |prefix| {
            let backend = backend.clone().with_table_prefix(prefix);
            backend.migrate().await.unwrap();
        })
        .await;
    }
    let backend = SqliteBackend::open(url).await.unwrap();
    migrate(async |prefix| {
        let backend = backend.clone().with_table_prefix(prefix);
        backend.migrate().await.unwrap();
    })
    .await;
}

async fn migrate(with_prefix: impl AsyncFn(SqlName)) {
    let first: u32 = given("KEYTALLY_TEST_FIRST").parse().unwrap();
    for n in first.. {
        println!("begins {n}");
        with_prefix(SqlName::new(&format!("t{n}_")).unwrap()).await;
    }
}
