//! The parts that an application brings along fail: hooks, the limiter, the store and the sink, each
//! alone and all at once, and what is told of it is the truth.
#![cfg(feature = "axum")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::SocketAddr;
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
use keytally::key::{CacheConfig, Issued, KeyAdmin, KeyRecord, KeyStore, NewKey, StoreError};
use keytally::limit::{Allowance, Answer, Decision, LimitError, Limiter, RateLimit, Standing};
use keytally::usage::{
    Batch, Cause, Outcome, Recorder, Refusal, SinkError, Status, UsageEvent, UsageSink,
};
use keytally::{ApiKeyLayer, KeyId, Now, Rejection, RequestHead};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};
use uuid::Uuid;

/// What goes wrong with a request: its client says so in `x-fault`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    None,
    Credential,
    Cost,
    Endpoint,
    ResourceId,
    PeerAddress,
    Classify,
    /// The answer of the refusal of a revoked key cannot be made.
    OnRejection,
    Attach,
    Take,
    Later,
    Late,
    LimiterHangs,
    LimiterFails,
    StoreHangs,
    AnothersRecord,
}

impl Fault {
    const ALL: [Self; 16] = [
        Self::None,
        Self::Credential,
        Self::Cost,
        Self::Endpoint,
        Self::ResourceId,
        Self::PeerAddress,
        Self::Classify,
        Self::OnRejection,
        Self::Attach,
        Self::Take,
        Self::Later,
        Self::Late,
        Self::LimiterHangs,
        Self::LimiterFails,
        Self::StoreHangs,
        Self::AnothersRecord,
    ];

    fn of(head: RequestHead<'_>) -> Self {
        let number = head.headers().get("x-fault").map(|it| it.to_str().unwrap());
        number.map_or(Self::None, |it| Self::ALL[it.parse::<usize>().unwrap()])
    }

    /// Panics if this is what goes wrong.
    fn strikes(self, head: RequestHead<'_>) {
        assert!(Self::of(head) != self, "{self:?} panics, on purpose");
    }

    /// Whether its limiter is waited for.
    fn waits(self) -> bool {
        matches!(
            self,
            Self::Later | Self::Late | Self::LimiterHangs | Self::LimiterFails
        )
    }

    /// What its client gets, and what is told of the request.
    fn expected(self) -> (Option<u16>, Told) {
        match self {
            Self::None | Self::Late | Self::Classify => (Some(200), Told::Event(Some(200))),
            // Before anything is known of a key.
            Self::Credential => (None, Told::Nothing),
            // The event could not be made: that is not hidden.
            Self::Cost
            | Self::Endpoint
            | Self::ResourceId
            | Self::PeerAddress
            | Self::OnRejection
            | Self::Attach
            | Self::Take => (None, Told::Lost),
            Self::Later => (None, Told::Event(None)),
            Self::LimiterHangs | Self::LimiterFails => (Some(503), Told::Event(Some(503))),
            Self::StoreHangs | Self::AnothersRecord => (Some(503), Told::Counted),
        }
    }
}

/// What is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// Refused without a known key.
    Counted,
    Lost,
    Event(Option<u16>),
}

// --- A store, by the key that is looked up --------------------------------------------------------

#[derive(Clone)]
struct Store {
    backend: MemoryBackend,
    faults: Arc<Mutex<BTreeMap<KeyId, Fault>>>,
}

#[keytally::async_trait]
impl KeyStore for Store {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let fault = self.faults.lock().unwrap().get(&id).copied();
        match fault {
            Some(Fault::StoreHangs) => pending().await,
            Some(Fault::AnothersRecord) => {
                let mut faults = self.faults.lock().unwrap().clone().into_keys();
                let another = faults.find(|other| *other != id).unwrap();
                self.backend.find(another).await
            }
            _ => self.backend.find(id).await,
        }
    }
}

// --- A limiter, by what a request costs -----------------------------------------------------------

/// The cost by which the allowance knows what to do.
fn cost_of(fault: Fault) -> u32 {
    1 + Fault::ALL.iter().position(|it| *it == fault).unwrap() as u32
}

struct Moody {
    /// The key whose limits it cannot keep without a panic.
    cursed: KeyId,
}

impl Limiter for Moody {
    fn attach(
        &self,
        subject: KeyId,
        _: &[RateLimit],
        _: Now,
    ) -> Result<Arc<dyn Allowance>, LimitError> {
        assert!(subject != self.cursed, "a limiter that panics, on purpose");
        Ok(Arc::new(Mood))
    }
}

#[derive(Debug)]
struct Mood;

impl Allowance for Mood {
    fn take(&self, cost: u32, _: Now) -> Answer {
        let mut allowed = Decision::default();
        allowed.push(Standing::default());
        match Fault::ALL[cost as usize - 1] {
            Fault::Take => panic!("an allowance that panics, on purpose"),
            Fault::Later => Answer::Later(Box::pin(async {
                tokio::task::yield_now().await;
                panic!("a decision that panics, on purpose")
            })),
            Fault::Late => Answer::Later(Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(allowed)
            })),
            Fault::LimiterHangs => Answer::Later(Box::pin(pending())),
            Fault::LimiterFails => Answer::Later(Box::pin(async {
                Err(LimitError::Unavailable("for a moment".into()))
            })),
            _ => Answer::Now(allowed),
        }
    }
}

// --- A sink that tells the truth ------------------------------------------------------------------

/// How a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Well,
    Fails,
    Panics,
    Hangs,
    /// It is done, and its answer gets lost.
    DoneAndFails,
    /// It is done long after nobody waits for it any more, and its retry too.
    DoneLate,
    Rejects,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    random: Option<fastrand::Rng>,
    batches: BTreeMap<Uuid, Vec<UsageEvent>>,
    /// Batches whose write was answered well, in that order.
    answered: Vec<Uuid>,
    rejected: Vec<Uuid>,
    late: Vec<Batch>,
}

impl Kept {
    fn keep(&mut self, batch: &Batch) {
        let kept = self.batches.insert(batch.id, batch.events.to_vec());
        assert!(
            kept.is_none_or(|kept| kept == *batch.events),
            "another batch under its id"
        );
    }

    fn events(&self) -> Vec<&UsageEvent> {
        self.batches.values().flatten().collect()
    }

    fn events_of(&self, batches: &[Uuid]) -> u64 {
        let events = batches.iter().map(|id| self.batches[id].len() as u64);
        events.sum()
    }
}

#[keytally::async_trait]
impl UsageSink for Sink {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        use Write::*;
        let how = {
            let mut kept = self.0.lock().unwrap();
            let modes = [
                Well,
                Well,
                Well,
                Fails,
                Panics,
                Hangs,
                DoneAndFails,
                DoneLate,
                Rejects,
            ];
            let random = kept.random.as_mut();
            random.map_or(Well, |random| modes[random.usize(..modes.len())])
        };
        {
            let mut kept = self.0.lock().unwrap();
            match how {
                Well | DoneAndFails => kept.keep(batch),
                DoneLate => kept.late.push(batch.clone()),
                _ => {}
            }
            // What was cut off earlier happens now, after what came behind it.
            if how == Well {
                for late in std::mem::take(&mut kept.late) {
                    kept.keep(&late);
                }
                if !kept.answered.contains(&batch.id) {
                    kept.answered.push(batch.id);
                }
            }
            if how == Rejects && !kept.batches.contains_key(&batch.id) {
                kept.late.retain(|late| late.id != batch.id);
                kept.rejected.push(batch.id);
                return Err(SinkError::rejected("never, on purpose"));
            }
        }
        match how {
            Well => Ok(()),
            Panics => panic!("a sink that panics, on purpose"),
            Hangs | DoneLate => pending().await,
            Fails | DoneAndFails | Rejects => Err(SinkError::unavailable("not now, on purpose")),
        }
    }
}

// --- The whole ------------------------------------------------------------------------------------

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
            let issued = support::issue(&backend, NewKey::named(format!("{fault:?}"))).await;
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
        let unavailable = stats.refused_for(Refusal::StoreUnavailable);
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
            Some(Refusal::LimiterUnavailable),
        ),
        _ => (Outcome::Completed, None, None),
    };
    assert_eq!(
        (event.outcome, event.cause, event.refusal),
        expected,
        "{fault:?}"
    );
}

/// Requests of each client before and after the shutdown begins.
const EACH: u64 = 40;
const CLIENTS: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_9_all_at_once_with_a_shutdown_in_the_middle_the_report_is_the_truth() {
    for seed in 0..4 {
        let whole = Arc::new(Whole::start(Some(seed)).await);
        let half = Arc::new(tokio::sync::Barrier::new(CLIENTS as usize + 1));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (whole, half) = (whole.clone(), half.clone());
            clients.spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed * CLIENTS + client);
                let mut asked = Vec::new();
                for n in 0..EACH {
                    if n == EACH / 2 {
                        half.wait().await;
                    }
                    let fault = Fault::ALL[random.usize(..Fault::ALL.len())];
                    whole.ask(fault, &format!("{client}-{n}")).await;
                    asked.push((format!("{client}-{n}"), fault));
                }
                asked
            });
        }
        let waited = tokio::time::timeout(Duration::from_secs(60), half.wait()).await;
        waited.expect("all clients come so far");
        // As long as a few writes take: some find it too short, others do not.
        let time = Duration::from_millis(30 << (2 * seed));
        let report = whole.recorder.shutdown(time).await;
        let mut asked = BTreeMap::new();
        for client in clients.join_all().await {
            asked.extend(client);
        }
        support::until(|| whole.recorder.stats().open == 0).await;

        let stats = whole.recorder.stats();
        let told = |told: fn(Told) -> bool| {
            let faults = asked.values().map(|fault| fault.expected().1);
            faults.filter(|it| told(*it)).count() as u64
        };
        let begun = told(|it| matches!(it, Told::Lost | Told::Event(_)));
        assert_eq!((stats.accepted, stats.queued), (begun, 0), "seed {seed}");
        assert_eq!(stats.written + stats.lost, begun, "seed {seed}");
        let counted = told(|it| it == Told::Counted);
        assert_eq!(stats.refused_for(Refusal::StoreUnavailable), counted);
        // Nothing is written once the report is there, and what comes then is lost.
        assert_eq!(report.written, stats.written, "seed {seed}");
        assert!(report.lost <= stats.lost, "seed {seed}");
        assert!(
            report.lost >= stats.lost - CLIENTS * EACH / 2,
            "seed {seed}"
        );

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
        assert!(report.lost >= kept.rejected.len() as u64);
        println!("seed {seed}: {begun} begun, {report:?}, {answered} answered by the sink");
    }
}

// --- In time that only passes when nothing else happens -------------------------------------------

/// A service without a socket.
async fn status_of(layer: ApiKeyLayer, secret: &str) -> (StatusCode, Duration) {
    let service = layer.layer(service_fn(async |_: Request<String>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    }));
    let request = support::get("/", secret).body(String::new()).unwrap();
    let began = tokio::time::Instant::now();
    let answered = tokio::time::timeout(Duration::from_secs(60), service.oneshot(request)).await;
    let answer = answered.expect("an answer in time").unwrap();
    (answer.status(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_store_and_a_limiter_that_hang_are_waited_for_as_long_as_was_said() {
    let backend = MemoryBackend::new();
    let issued = support::issue(&backend, NewKey::named("x")).await;
    let (id, secret) = (issued.key.id, issued.secret.expose());
    let hanging = Store {
        backend: backend.clone(),
        faults: Arc::new(Mutex::new([(id, Fault::StoreHangs)].into())),
    };
    let limited = |layer: ApiKeyLayer| {
        let cursed = "0000000000000000".parse().unwrap();
        let limits = [RateLimit::per_second(1)];
        let layer = layer.limiter(Moody { cursed }).default_limits(limits);
        layer.unwrap().cost(|_| cost_of(Fault::LimiterHangs))
    };
    let store = || ApiKeyLayer::new(hanging.clone());
    let limiter = || limited(ApiKeyLayer::new(backend.clone()));
    let brief = Duration::from_millis(70);
    for (layer, time) in [
        (store(), Duration::from_secs(5)),
        (
            store().cache(CacheConfig::new().lookup_timeout(brief)),
            brief,
        ),
        (limiter(), Duration::from_secs(1)),
        (limiter().limiter_timeout(brief), brief),
    ] {
        let (status, took) = status_of(layer, secret).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        // Timers go by the millisecond.
        assert!(
            (time..=time + Duration::from_millis(1)).contains(&took),
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_limits_stand_is_waited_for_as_long_too() {
    #[derive(Debug)]
    struct Silent;
    impl Limiter for Silent {
        fn attach(
            &self,
            _: KeyId,
            _: &[RateLimit],
            _: Now,
        ) -> Result<Arc<dyn Allowance>, LimitError> {
            Ok(Arc::new(Self))
        }
    }
    impl Allowance for Silent {
        fn take(&self, _: u32, _: Now) -> Answer {
            Answer::Later(Box::pin(pending()))
        }
    }
    let backend = MemoryBackend::new();
    let key = support::issue(&backend, NewKey::named("x")).await.key;
    let layer = ApiKeyLayer::new(backend)
        .limiter(Silent)
        .default_limits([RateLimit::per_second(1)])
        .unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(2), layer.standings(&key)).await;
    assert_eq!(asked.unwrap(), Err(LimitError::Timeout));
}

/// Decides as it is told, once it is told to.
#[derive(Debug, Clone)]
struct InTheEnd(Result<Decision, LimitError>, Arc<Notify>);

impl Limiter for InTheEnd {
    fn attach(&self, _: KeyId, _: &[RateLimit], _: Now) -> Result<Arc<dyn Allowance>, LimitError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Allowance for InTheEnd {
    fn take(&self, _: u32, _: Now) -> Answer {
        let Self(decision, told) = self.clone();
        Answer::Later(Box::pin(async move {
            told.notified().await;
            decision
        }))
    }
}

#[tokio::test]
async fn rule_9_a_decision_that_comes_after_the_shutdown_is_told_of_once() {
    let backend = MemoryBackend::new();
    let issued = support::issue(&backend, NewKey::named("x")).await;
    let mut allowed = Decision::default();
    allowed.push(Standing::default());
    let mut refused = allowed;
    refused.refuse(None);
    let failed = LimitError::Unavailable("for a moment".into());
    for (decision, status) in [(Ok(allowed), 200), (Ok(refused), 429), (Err(failed), 503)] {
        let told = Arc::new(Notify::new());
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(backend.clone())
            .limiter(InTheEnd(decision, told.clone()))
            .default_limits([RateLimit::per_second(1)])
            .unwrap()
            .recorder(recorder.clone());
        let secret = issued.secret.expose().to_owned();
        let asked = tokio::spawn(async move { status_of(layer, &secret).await });
        support::until(|| recorder.stats().open == 1).await;
        let report = recorder.shutdown(Duration::from_secs(30)).await;
        assert_eq!((report.written, report.lost), (1, 0));
        told.notify_one();
        assert_eq!(asked.await.unwrap().0, status);
        // The shutdown has told of it.
        let stats = recorder.stats();
        let counted = (stats.accepted, stats.written, stats.lost, stats.open);
        assert_eq!(counted, (1, 1, 0, 0), "{status}");
    }
}

/// A sink whose first write is done and answered only after its retry and another batch.
#[derive(Clone, Default)]
struct OutOfOrder(Arc<Mutex<Vec<(Uuid, usize)>>>, Arc<Mutex<u32>>);

#[keytally::async_trait]
impl UsageSink for OutOfOrder {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let first = {
            let mut calls = self.1.lock().unwrap();
            *calls += 1;
            *calls == 1
        };
        let (order, done) = (self.0.clone(), (batch.id, batch.events.len()));
        let keep = async move {
            if first {
                tokio::time::sleep(Duration::from_secs(100)).await;
            }
            order.lock().unwrap().push(done);
        };
        // Whoever writes it goes on although nobody waits any more.
        tokio::spawn(keep).await.map_err(SinkError::unavailable)
    }
}

#[tokio::test(start_paused = true)]
async fn rule_10_a_write_that_is_done_after_its_retry_counts_once() {
    let backend = MemoryBackend::new();
    let issued = support::issue(&backend, NewKey::named("x")).await;
    let sink = OutOfOrder::default();
    let recorder = Recorder::builder(sink.clone()).start();
    let layer = ApiKeyLayer::new(backend).recorder(recorder.clone());
    for _ in 0..2 {
        let (status, _) = status_of(layer.clone(), issued.secret.expose()).await;
        assert_eq!(status, StatusCode::OK);
        recorder.flush().await;
    }
    tokio::time::sleep(Duration::from_secs(200)).await;
    let order = sink.0.lock().unwrap().clone();
    let [retried, second, late] = order[..] else {
        panic!("three writes: {order:?}")
    };
    // The sink is told by its id that it is the same one.
    assert_eq!(late, retried);
    assert!(second.0 != retried.0);
    let report = recorder.shutdown(Duration::from_secs(1)).await;
    assert_eq!((report.written, report.lost), (2, 0));
    assert_eq!(recorder.stats().retries, 1);
}
