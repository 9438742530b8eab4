//! A service with all faulty components, over sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use axum::routing::get;
use axum::{Router, middleware};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, CacheConfig, Issued, KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::{Cause, Outcome, Recorder, RejectionReason, Status, UsageEvent};
use keytally::{ApiKeyLayer, CredentialSource, Rejection};

use super::faulty::{Moody, Sink, Store, cost_of};
use super::in_time::status_of;
use super::{Fault, Recorded, support};

struct FaultyService {
    sink: Sink,
    recorder: Recorder,
    keys: BTreeMap<Fault, Issued>,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The timeout of the store and the limiter. Calls without an injected hang complete well within it.
const PATIENCE: Duration = Duration::from_millis(400);

impl FaultyService {
    async fn start(seed: Option<u64>) -> Self {
        let backend = MemoryBackend::new();
        let mut keys = BTreeMap::new();
        for fault in Fault::ALL {
            let issued = support::issue(&backend, NewKey::new(format!("{fault:?}"))).await;
            keys.insert(fault, issued);
        }
        let revoked = keys[&Fault::OnRejection].key.id;
        backend.revoke(revoked, Actor::SYSTEM).await.unwrap();
        let faults = keys.iter().map(|(fault, issued)| (issued.key.id, *fault));
        let store = Store {
            backend,
            faults: Arc::new(Mutex::new(faults.collect())),
        };
        let sink = Sink::default();
        sink.0.lock().unwrap().random = seed.map(fastrand::Rng::with_seed);
        let recorder = Recorder::builder(sink.clone())
            .batch_size(16)
            .batch_age(Duration::from_millis(2))
            .write_timeout(Duration::from_millis(100))
            .backoff(Duration::from_millis(1), Duration::from_millis(4))
            .classify(|event| {
                assert!(&*event.path != "/classify", "simulated hook panic");
                None
            })
            .start();
        let layer = ApiKeyLayer::new(store)
            .cache(CacheConfig::new().lookup_timeout(PATIENCE))
            .limiter(Moody {
                cursed: keys[&Fault::Attach].key.id,
            })
            .limiter_timeout(PATIENCE)
            .default_limits([RateLimit::per_second(1)])
            .credential_sources(CredentialSource::DEFAULT.into_iter().chain([
                CredentialSource::function(|parts| {
                    Fault::Credential.inject(parts);
                    None
                }),
            ]))
            .cost(|head| {
                Fault::Cost.inject(head);
                cost_of(Fault::of(head))
            })
            .endpoint(|head| {
                Fault::Endpoint.inject(head);
                None
            })
            .resource_id(|head| {
                Fault::ResourceId.inject(head);
                None
            })
            .peer_address(|head| {
                Fault::PeerAddress.inject(head);
                None
            })
            .on_rejection(move |rejection, response| {
                assert!(rejection.key != Some(revoked), "simulated hook panic");
                response
            })
            .recorder(recorder.clone());
        // Cache this key, so that the hook runs for a known key.
        let uncounted = layer.clone().recorder(Recorder::counting());
        let (status, _) = status_of(uncounted, keys[&Fault::PeerAddress].secret.expose()).await;
        assert_eq!(status, StatusCode::OK);
        let routes = Router::new().fallback(get(|| async { "here it is" }));
        let app = routes.layer(layer);
        let address = support::serve(app.layer(middleware::map_response(add_known_header))).await;
        // Each request has a connection of its own, and is sent once.
        let client = Client::builder(TokioExecutor::new())
            .retry_canceled_requests(false)
            .pool_max_idle_per_host(0)
            .build_http();
        Self {
            sink,
            recorder,
            keys,
            address,
            client,
        }
    }

    fn request(&self, fault: Fault, id: &str) -> Request<Full<Bytes>> {
        let path = if fault == Fault::Classify {
            "classify"
        } else {
            "postings"
        };
        let url = format!("http://{}/{path}", self.address);
        support::get(&url, self.keys[&fault].secret.expose())
            .header("x-fault", (cost_of(fault) - 1).to_string())
            .header("x-request-id", id)
            .body(Full::default())
            .unwrap()
    }

    /// Sends a request with this fault and asserts the expected response.
    async fn send(&self, fault: Fault, id: &str) {
        let (status, recorded) = fault.expected();
        let response = self.client.request(self.request(fault, id)).await.ok();
        let actual = response.as_ref().map(|response| response.status().as_u16());
        assert_eq!(actual, status, "{fault:?}");
        if let Some(response) = response {
            let header = response.headers().get("x-known");
            let known = header.is_none_or(|known| known == "true");
            assert_eq!(known, recorded != Recorded::Counted, "{fault:?}");
            response.into_body().collect().await.unwrap();
        }
    }
}

/// Adds a header that says whether the key of a rejected request was known.
async fn add_known_header(mut response: Response) -> Response {
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        let known = rejection.key.is_some().to_string();
        response
            .headers_mut()
            .insert("x-known", known.parse().unwrap());
    }
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_single_fault_is_recorded_with_its_actual_outcome() {
    for fault in Fault::ALL {
        let service = FaultyService::start(None).await;
        service.send(fault, "the-one").await;
        support::until(|| service.recorder.stats().in_flight == 0).await;
        let report = service.recorder.shutdown(Duration::from_secs(30)).await;
        let stats = service.recorder.stats();
        let (_, recorded) = fault.expected();
        let (written, lost, counted) = match recorded {
            Recorded::Nothing => (0, 0, 0),
            Recorded::Counted => (0, 0, 1),
            Recorded::Lost => (0, 1, 0),
            Recorded::Event(_) => (1, 0, 0),
        };
        assert_eq!((report.written, report.lost), (written, lost), "{fault:?}");
        let unavailable = stats.rejected_for(RejectionReason::StoreUnavailable);
        assert_eq!(
            (unavailable, stats.rejected.len() as u64),
            (counted, counted),
            "{fault:?}"
        );
        {
            let kept = service.sink.0.lock().unwrap();
            let events = kept.events();
            assert_eq!(events.len() as u64, written, "{fault:?}");
            for event in events {
                assert_expected(event, fault);
                assert_eq!(event.key, Some(service.keys[&fault].key.id));
            }
        }
        // Later requests still succeed.
        service.send(Fault::None, "another").await;
    }
}

fn assert_expected(event: &UsageEvent, fault: Fault) {
    let (_, Recorded::Event(status)) = fault.expected() else {
        panic!("unexpected event for {fault:?}: {event:?}");
    };
    let status = status.map_or(Status::None, Status::Http);
    assert_eq!(event.status, status, "{fault:?}");
    let expected = match fault {
        Fault::Later => (Outcome::Failed, Some(Cause::ServerError), None),
        Fault::LimiterHangs | Fault::LimiterFails => (
            Outcome::Failed,
            Some(Cause::Rejected),
            Some(RejectionReason::LimiterUnavailable),
        ),
        _ => (Outcome::Completed, None, None),
    };
    assert_eq!(
        (event.outcome, event.cause, event.rejection_reason),
        expected,
        "{fault:?}"
    );
}

/// Requests per client before the shutdown, and again during it.
const EACH: u64 = 20;
const CLIENTS: u64 = 8;

mod complete_accounting {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shutdown_report_is_exact_under_random_faults() {
        let mut runs: tokio::task::JoinSet<_> = (0..6).map(report_is_exact).collect();
        while let Some(run) = runs.join_next().await {
            run.unwrap();
        }
    }
}

async fn report_is_exact(seed: u64) {
    // Two seeds send nothing during the shutdown, so that its report is exact.
    let during_shutdown = if seed < 4 { EACH } else { 0 };
    let service = Arc::new(FaultyService::start(Some(seed)).await);
    let half = Arc::new(tokio::sync::Barrier::new(CLIENTS as usize + 1));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (service, half) = (service.clone(), half.clone());
        clients.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed * CLIENTS + client);
            let mut sent = Vec::new();
            for n in 0..EACH + during_shutdown {
                if n == EACH {
                    half.wait().await;
                }
                let fault = Fault::ALL[random.usize(..Fault::ALL.len())];
                service.send(fault, &format!("{client}-{n}")).await;
                sent.push((format!("{client}-{n}"), fault));
            }
            if during_shutdown == 0 {
                half.wait().await;
            }
            sent
        });
    }
    let waited = tokio::time::timeout(Duration::from_secs(60), half.wait()).await;
    waited.expect("clients did not get this far in time");
    // A few write timeouts: too short for some seeds, long enough for others.
    let time = Duration::from_millis(30 << (2 * (seed % 4)));
    let report = service.recorder.shutdown(time).await;
    let mut sent = BTreeMap::new();
    for client in clients.join_all().await {
        sent.extend(client);
    }
    support::until(|| service.recorder.stats().in_flight == 0).await;

    let stats = service.recorder.stats();
    let count = |of: Range<u64>, matches: fn(Recorded) -> bool| {
        let number = |id: &str| id.split_once('-').unwrap().1.parse().unwrap();
        let sent = sent.iter().filter(|(id, _)| of.contains(&number(id)));
        sent.filter(|(_, fault)| matches(fault.expected().1))
            .count() as u64
    };
    let is_accepted = |it| matches!(it, Recorded::Lost | Recorded::Event(_));
    // Beyond the limit on events of rejected keys, and once the recorder is closed, rejections are only counted.
    let unrecorded = stats.rejected_for(RejectionReason::Revoked);
    let rejections = sent.values().filter(|fault| **fault == Fault::OnRejection);
    assert!(unrecorded <= rejections.count() as u64, "seed {seed}");
    let accepted = count(0..u64::MAX, is_accepted) - unrecorded;
    assert_eq!((stats.accepted, stats.queued), (accepted, 0), "seed {seed}");
    assert_eq!(stats.written + stats.lost, accepted, "seed {seed}");
    let counted = count(0..u64::MAX, |it| it == Recorded::Counted);
    assert_eq!(
        stats.rejected_for(RejectionReason::StoreUnavailable),
        counted
    );
    // Nothing is written after the report; later events are lost.
    assert_eq!(report.written, stats.written, "seed {seed}");
    assert!(report.lost <= stats.lost, "seed {seed}");
    assert!(
        report.written + report.lost + unrecorded >= count(0..EACH, is_accepted),
        "seed {seed}"
    );
    if during_shutdown == 0 {
        assert_eq!(report.written + report.lost, accepted, "seed {seed}");
    }

    let kept = service.sink.0.lock().unwrap();
    let (mut seen, mut cancelled) = (BTreeSet::new(), 0);
    for event in kept.events() {
        let id = event.request_id.as_deref().unwrap();
        // Requests that waited for the limiter were cancelled by the shutdown.
        if event.cause == Some(Cause::Cancelled) {
            assert!(sent[id].waits(), "{id}: {:?}", sent[id]);
            cancelled += 1;
        } else {
            assert_expected(event, sent[id]);
        }
        assert!(seen.insert(id), "{id} is recorded twice");
    }
    assert!(cancelled <= CLIENTS, "seed {seed}");
    // Successful writes count as written, except for a batch whose result arrived as the shutdown ended.
    let answered = kept.events_of(&kept.answered);
    let last = kept.answered.split_last();
    let without_last = last.map_or(0, |(_, others)| kept.events_of(others));
    let written = report.written;
    assert!(
        written == answered || written == without_last,
        "{written} of {answered}"
    );
    assert!(report.lost >= kept.rejected, "seed {seed}");
}
