//! Writes batches of usage of the last three days, each of them twice, and merges their rollups at the same time.
//! Prints the number of acknowledged events.

use std::time::Duration;

#[cfg(feature = "postgres")]
use keytally::backend::PostgresBackend;
use keytally::backend::{BackendError, SqliteBackend};
use keytally::usage::{Batch, Outcome, Status, UsageEvent, UsageSink};

use crate::given;

pub(crate) async fn run() {
    let url = given("KEYTALLY_TEST_URL");
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres:") {
        let backend = PostgresBackend::connect(&url).await.unwrap();
        return write_and_merge(&backend, async || backend.merge_rollups().await).await;
    }
    let backend = SqliteBackend::open(url).await.unwrap();
    write_and_merge(&backend, async || backend.merge_rollups().await).await;
}

async fn write_and_merge(
    backend: &impl UsageSink,
    merge: impl AsyncFn() -> Result<u64, BackendError>,
) {
    let write = async {
        for batch in 1_u64.. {
            let events = Batch::new((0..100).map(|_| event()).collect());
            for _ in 0..2 {
                // The database may be down for a moment.
                while backend.write(&events).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            println!("written {}", batch * 100);
        }
    };
    let merge = async {
        loop {
            let _ = merge().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(write, merge);
}

fn event() -> UsageEvent {
    let age = jiff::SignedDuration::from_secs(fastrand::i64(0..3 * 86_400));
    let mut event = UsageEvent::new(jiff::Timestamp::now() - age);
    event.key = Some(
        format!("killedKey{:07}", fastrand::u8(..20))
            .parse()
            .unwrap(),
    );
    event.owner = event.key.map(|key| key.as_str().into());
    event.endpoint = ["/v1/things", "/v1/orders"][fastrand::usize(..2)].into();
    event.status = Status::Http([200, 404, 503][fastrand::usize(..3)]);
    (event.outcome, event.cause) = Outcome::of(event.status);
    event.latency_us = fastrand::u64(..3_000_000_000);
    event.response_bytes = fastrand::u64(..5_000_000_000);
    event
}
