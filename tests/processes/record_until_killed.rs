//! Serves requests, numbered from a given start, while its database is switched on and off, and prints how many of
//! them are written or spooled.

use std::path::PathBuf;

use crate::given;
use crate::outages::{Database, Service, builder, until};

pub(crate) async fn run() {
    let dir = PathBuf::from(given("KEYTALLY_TEST_FOLDER"));
    let start: u64 = given("KEYTALLY_TEST_START").parse().unwrap();
    let database = Database::open(&dir.join("usage.db")).await;
    database.switch(!start.is_multiple_of(2));
    let recorder = builder(&database, &dir.join("spool.db")).await.start();
    let service = Service::start(recorder).await;
    for round in 0.. {
        service
            .send(start + round * 10..start + round * 10 + 10)
            .await;
        until(async || service.recorder.stats().queued < 100).await;
        let stats = service.recorder.stats();
        assert_eq!(stats.lost, 0);
        println!("safe {}", stats.written + stats.spooled);
        if round % 7 == 0 {
            database.switch(round % 3 == 0);
        }
    }
}
