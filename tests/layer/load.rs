//! Conservation under load: client tallies, recorded events and summaries agree exactly.
use crate::support;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use keytally::ApiKeyLayer;
use keytally::backend::{MemoryBackend, MemoryConfig};
use keytally::key::NewKey;
use keytally::limit::RateLimit;
use keytally::usage::{
    Cause, Count, LogFilter, Recorder, RejectionReason, Status, SummaryQuery, UsageRange,
    UsageReader,
};

const CONNECTIONS: usize = 64;
const EACH: usize = 400;

#[derive(Default)]
struct Tally {
    responses: BTreeMap<u16, u64>,
    abandoned: u64,
}

/// The paths that each connection requests in turn.
const PATHS: [&str; 5] = ["/ok", "/created", "/missing", "/failing", "/ok"];

fn routes() -> Router {
    let never_ending = || async {
        let first = tokio_stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
        let never = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
        Body::from_stream(never)
    };
    Router::new()
        .route("/ok", get(|| async { "ok" }))
        .route(
            "/created",
            get(|| async { (StatusCode::CREATED, "created") }),
        )
        .route("/missing", get(|| async { StatusCode::NOT_FOUND }))
        .route(
            "/failing",
            get(|| async { StatusCode::INTERNAL_SERVER_ERROR }),
        )
        .route("/never_ending", get(never_ending))
}

/// Sends `EACH` requests. Every hundredth response is abandoned after its first chunk, which closes the
/// connection; every fiftieth request has a malformed key.
async fn client(
    number: usize,
    address: std::net::SocketAddr,
    unlimited: String,
    limited: String,
) -> Tally {
    let mut tally = Tally::default();
    let mut sent = 0;
    while sent < EACH {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        while sent < EACH {
            let turn = number + sent;
            sent += 1;
            let abandoned = turn.is_multiple_of(100);
            let (path, secret) = match turn {
                _ if abandoned => ("/never_ending", &unlimited),
                _ if turn.is_multiple_of(50) => ("/ok", &"acme_test_nonsense".to_owned()),
                _ if turn.is_multiple_of(10) => ("/ok", &limited),
                _ => (PATHS[turn % PATHS.len()], &unlimited),
            };
            let request = support::get(path, secret).header("host", "x");
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            sender.ready().await.unwrap();
            let response = sender.send_request(request).await.unwrap();
            if abandoned {
                let mut body = response.into_body();
                assert_eq!(
                    body.frame().await.unwrap().unwrap().into_data().unwrap(),
                    "first"
                );
                tally.abandoned += 1;
                connection.abort();
                break;
            }
            *tally
                .responses
                .entry(response.status().as_u16())
                .or_default() += 1;
            response.into_body().collect().await.unwrap();
        }
    }
    tally
}

mod complete_accounting {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_request_is_accounted_for_exactly_once() {
        let backend = MemoryBackend::with_config(MemoryConfig::new().log_capacity(1_000_000));
        let recorder = Recorder::builder(backend.clone()).capacity(100_000).start();
        let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
        let address = support::serve(routes().layer(layer)).await;
        let unlimited = support::issue(&backend, NewKey::new("unlimited")).await;
        let rate = RateLimit::per_hour(1).with_burst(50);
        let limited = support::issue(&backend, NewKey::new("limited").limit(rate)).await;

        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CONNECTIONS {
            let (unlimited, limited) = (
                unlimited.secret.expose().to_owned(),
                limited.secret.expose().to_owned(),
            );
            clients.spawn(client(number, address, unlimited, limited));
        }
        let mut total = Tally::default();
        while let Some(tally) = clients.join_next().await {
            let tally = tally.unwrap();
            total.abandoned += tally.abandoned;
            for (status, count) in tally.responses {
                *total.responses.entry(status).or_default() += count;
            }
        }
        support::until(|| recorder.stats().in_flight == 0).await;
        let report = recorder.shutdown(Duration::from_secs(30)).await;

        let malformed = total.responses.remove(&401).unwrap();
        let sent = (CONNECTIONS * EACH) as u64;
        assert_eq!(
            total.responses.values().sum::<u64>() + total.abandoned + malformed,
            sent
        );
        let stats = recorder.stats();
        assert_eq!(stats.rejected_for(RejectionReason::Malformed), malformed);
        assert_eq!(
            (stats.accepted, stats.queued, stats.in_flight),
            (sent - malformed, 0, 0)
        );
        assert_eq!((report.written, report.lost), (sent - malformed, 0));

        let query = SummaryQuery::default();
        let summary = backend.summary(&query).await.unwrap();
        let totals = &summary.totals;
        assert_eq!(totals.total(), sent - malformed);
        assert_eq!(totals.failed_by(Cause::Cancelled), total.abandoned);
        assert_eq!(totals.rate_limited(), total.responses[&429]);
        assert!(total.responses[&429] > 0 && total.abandoned > 0 && malformed > 0);
        for (&status, &count) in &total.responses {
            let summarized = summary.by_status[&Status::Http(status)].total();
            // Abandoned responses had status 200.
            let abandoned = if status == 200 { total.abandoned } else { 0 };
            assert_eq!(summarized, count + abandoned, "{status}");
            let filter = LogFilter::new().status(Status::Http(status));
            let logged = backend.count(&filter).await.unwrap();
            assert_eq!(logged, Count::Exactly(count + abandoned), "{status}");
        }
        for key in [unlimited.key.id, limited.key.id] {
            let range = SummaryQuery::new(UsageRange::new().key(key), Default::default());
            let summarized = backend.summary(&range).await.unwrap().totals.total();
            let logged = backend.count(&LogFilter::new().key(key)).await.unwrap();
            assert_eq!(logged, Count::Exactly(summarized));
        }
    }
}
