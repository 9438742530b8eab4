//! Writes batches to SQLite, each of them twice, and prints the number of acknowledged events.

use jiff::Timestamp;
use keytally::backend::SqliteBackend;
use keytally::usage::{Batch, UsageEvent, UsageSink};

use crate::given;

pub(crate) async fn run() {
    let backend = SqliteBackend::open(given("KEYTALLY_TEST_URL"))
        .await
        .unwrap();
    backend.migrate().await.unwrap();
    for written in 1.. {
        let events = (0..50).map(|_| UsageEvent::new(Timestamp::now())).collect();
        let batch = Batch::new(events);
        for _ in 0..2 {
            backend.write(&batch).await.unwrap();
        }
        println!("written {}", written * 50);
    }
}
