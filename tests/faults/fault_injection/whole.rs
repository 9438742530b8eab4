//! A service of faulty parts, over sockets.

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
use keytally::key::{CacheConfig, Issued, KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::{Cause, Outcome, Recorder, RejectionReason, Status, UsageEvent};
use keytally::{ApiKeyLayer, Rejection};

use super::faulty::{Moody, Sink, Store, cost_of};
use super::in_time::status_of;
use super::{Fault, Told, support};

struct Whole {
    sink: Sink,
    recorder: Recorder,
    keys: BTreeMap<Fault, Issued>,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// How long stores and limiters may take: what works takes no time that could be noticed.
const PATIENCE: Duration = Duration::from_millis(400);

impl Whole {
    async fn start(seed: Option<u64>) -> Self {
        let backend = MemoryBackend::new();
        let mut keys = BTreeMap::new();
        for fault in Fault::ALL {
            let issued = support::issue(&backend, NewKey::new(format!("{fault:?}"))).await;
            keys.insert(fault, issued);
        }
        let revoked = keys[&Fault::OnRejection].key.id;
        backend.revoke(revoked).await.unwrap();
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
                assert!(
                    &*event.path != "/classify",
                    "a hook that panics, on purpose"
                );
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
            .unwrap()
            .credential(|head| {
                Fault::Credential.strikes(head);
                None
            })
            .cost(|head| {
                Fault::Cost.strikes(head);
                cost_of(Fault::of(head))
            })
            .endpoint(|head| {
                Fault::Endpoint.strikes(head);
                None
            })
            .resource_id(|head| {
                Fault::ResourceId.strikes(head);
                None
            })
            .peer_address(|head| {
                Fault::PeerAddress.strikes(head);
                None
            })
            .on_rejection(move |rejection, answer| {
                assert!(
                    rejection.key != Some(revoked),
                    "a hook that panics, on purpose"
                );
                answer
            })
            .recorder(recorder.clone());
        // Its hook is to be asked about a key that is known.
        let uncounted = layer.clone().recorder(Recorder::counting());
        let (status, _) = status_of(uncounted, keys[&Fault::PeerAddress].secret.expose()).await;
        assert_eq!(status, StatusCode::OK);
        let routes = Router::new().fallback(get(|| async { "here it is" }));
        let app = routes.layer(layer);
        let address = support::serve(app.layer(middleware::map_response(tell))).await;
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

    /// Asks, and compares what comes with what is expected.
    async fn ask(&self, fault: Fault, id: &str) {
        let (status, told) = fault.expected();
        let answer = self.client.request(self.request(fault, id)).await.ok();
        let got = answer.as_ref().map(|answer| answer.status().as_u16());
        assert_eq!(got, status, "{fault:?}");
        if let Some(answer) = answer {
            let refusal = answer.headers().get("x-known");
            let known = refusal.is_none_or(|known| known == "true");
            assert_eq!(known, told != Told::Counted, "{fault:?}");
            answer.into_body().collect().await.unwrap();
        }
    }
}

/// Tells the client whether its key was known when it was refused.
async fn tell(mut response: Response) -> Response {
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        let known = rejection.key.is_some().to_string();
        response
            .headers_mut()
            .insert("x-known", known.parse().unwrap());
    }
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_that_fails_alone_is_told_of_as_what_it_is() {
    for fault in Fault::ALL {
        let whole = Whole::start(None).await;
        whole.ask(fault, "the-one").await;
        support::until(|| whole.recorder.stats().open == 0).await;
        let report = whole.recorder.shutdown(Duration::from_secs(30)).await;
        let stats = whole.recorder.stats();
        let (_, told) = fault.expected();
        let (written, lost, counted) = match told {
            Told::Nothing => (0, 0, 0),
            Told::Counted => (0, 0, 1),
            Told::Lost => (0, 1, 0),
            Told::Event(_) => (1, 0, 0),
        };
        assert_eq!((report.written, report.lost), (written, lost), "{fault:?}");
        let unavailable = stats.refused_for(RejectionReason::StoreUnavailable);
        assert_eq!(
            (unavailable, stats.refused.len() as u64),
            (counted, counted),
            "{fault:?}"
        );
        {
            let kept = whole.sink.0.lock().unwrap();
            let events = kept.events();
            assert_eq!(events.len() as u64, written, "{fault:?}");
            for event in events {
                as_expected(event, fault);
                assert_eq!(event.key, Some(whole.keys[&fault].key.id));
            }
        }
        // Nobody else is harmed.
        whole.ask(Fault::None, "another").await;
    }
}

fn as_expected(event: &UsageEvent, fault: Fault) {
    let (_, Told::Event(status)) = fault.expected() else {
        panic!("{fault:?} is no event: {event:?}");
    };
    let status = status.map_or(Status::None, Status::Http);
    assert_eq!(event.status, status, "{fault:?}");
    let expected = match fault {
        Fault::Later => (Outcome::Failed, Some(Cause::ServerError), None),
        Fault::LimiterHangs | Fault::LimiterFails => (
            Outcome::Failed,
            Some(Cause::Refused),
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

/// Requests of each client before the shutdown begins, and as many while it goes on.
const EACH: u64 = 20;
const CLIENTS: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_9_all_at_once_with_a_shutdown_in_the_middle_the_report_is_the_truth() {
    for seed in 0..6 {
        // What is lost by then is known to the last event where nothing comes meanwhile.
        let meanwhile = if seed < 4 { EACH } else { 0 };
        let whole = Arc::new(Whole::start(Some(seed)).await);
        let half = Arc::new(tokio::sync::Barrier::new(CLIENTS as usize + 1));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (whole, half) = (whole.clone(), half.clone());
            clients.spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed * CLIENTS + client);
                let mut asked = Vec::new();
                for n in 0..EACH + meanwhile {
                    if n == EACH {
                        half.wait().await;
                    }
                    let fault = Fault::ALL[random.usize(..Fault::ALL.len())];
                    whole.ask(fault, &format!("{client}-{n}")).await;
                    asked.push((format!("{client}-{n}"), fault));
                }
                if meanwhile == 0 {
                    half.wait().await;
                }
                asked
            });
        }
        let waited = tokio::time::timeout(Duration::from_secs(60), half.wait()).await;
        waited.expect("all clients come so far");
        // As long as a few writes take: some find it too short, others do not.
        let time = Duration::from_millis(30 << (2 * (seed % 4)));
        let report = whole.recorder.shutdown(time).await;
        let mut asked = BTreeMap::new();
        for client in clients.join_all().await {
            asked.extend(client);
        }
        support::until(|| whole.recorder.stats().open == 0).await;

        let stats = whole.recorder.stats();
        let told = |of: Range<u64>, told: fn(Told) -> bool| {
            let number = |id: &str| id.split_once('-').unwrap().1.parse().unwrap();
            let asked = asked.iter().filter(|(id, _)| of.contains(&number(id)));
            asked.filter(|(_, fault)| told(fault.expected().1)).count() as u64
        };
        let begins = |it| matches!(it, Told::Lost | Told::Event(_));
        // Beyond the limit on events of rejected keys, and once the recorder is closed, their refusals are counted
        // only.
        let unrecorded = stats.refused_for(RejectionReason::Revoked);
        let rejections = asked.values().filter(|fault| **fault == Fault::OnRejection);
        assert!(unrecorded <= rejections.count() as u64, "seed {seed}");
        let begun = told(0..u64::MAX, begins) - unrecorded;
        assert_eq!((stats.accepted, stats.queued), (begun, 0), "seed {seed}");
        assert_eq!(stats.written + stats.lost, begun, "seed {seed}");
        let counted = told(0..u64::MAX, |it| it == Told::Counted);
        assert_eq!(
            stats.refused_for(RejectionReason::StoreUnavailable),
            counted
        );
        // Nothing is written once the report is there, and what comes then is lost.
        assert_eq!(report.written, stats.written, "seed {seed}");
        assert!(report.lost <= stats.lost, "seed {seed}");
        assert!(
            report.written + report.lost + unrecorded >= told(0..EACH, begins),
            "seed {seed}"
        );
        if meanwhile == 0 {
            assert_eq!(report.written + report.lost, begun, "seed {seed}");
        }

        let kept = whole.sink.0.lock().unwrap();
        let (mut seen, mut cancelled) = (BTreeSet::new(), 0);
        for event in kept.events() {
            let id = event.request_id.as_deref().unwrap();
            // The shutdown has ended those that waited for the limiter.
            if event.cause == Some(Cause::Cancelled) {
                assert!(asked[id].waits(), "{id}: {:?}", asked[id]);
                cancelled += 1;
            } else {
                as_expected(event, asked[id]);
            }
            assert!(seen.insert(id), "{id} is there twice");
        }
        assert!(cancelled <= CLIENTS, "seed {seed}");
        // What was answered well counts as written, but for a batch whose answer came with the end.
        let answered = kept.events_of(&kept.answered);
        let last = kept.answered.split_last();
        let but_one = last.map_or(0, |(_, others)| kept.events_of(others));
        let written = report.written;
        assert!(
            written == answered || written == but_one,
            "{written} of {answered}"
        );
        assert!(report.lost >= kept.rejected, "seed {seed}");
        println!("seed {seed}: {begun} begun, {report:?}, {answered} answered by the sink");
    }
}
