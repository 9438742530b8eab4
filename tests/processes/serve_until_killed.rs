//! Serves requests that are recorded in PostgreSQL. Prints a line for each response, and one whenever all events so far
//! have been flushed.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use keytally::ApiKeyLayer;
use keytally::backend::PostgresBackend;
use keytally::usage::Recorder;

use crate::service::Service;
use crate::{given, given_millis};

pub(crate) async fn run() {
    let backend = PostgresBackend::connect(&given("KEYTALLY_TEST_URL"))
        .await
        .unwrap();
    let secret = given("KEYTALLY_TEST_SECRET");
    let recorder = Recorder::builder(backend.clone())
        .batch_age(given_millis("KEYTALLY_TEST_BATCH_AGE"))
        // Large enough that batches are written by age only.
        .batch_size(1 << 14)
        .start();
    let service = Service::behind(ApiKeyLayer::new(backend).recorder(recorder.clone()));
    let flushes = given("KEYTALLY_TEST_FLUSHES") == "yes";
    for n in 1.. {
        for _ in 0..5 {
            let (status, id) = service.ask(&secret).await;
            assert_eq!(status, StatusCode::OK);
            println!("answered {id} {}", Timestamp::now().as_microsecond());
        }
        if flushes && n % 10 == 0 {
            recorder.flush().await;
            println!("flushed");
        }
        // Leave CPU time to the other processes.
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}
