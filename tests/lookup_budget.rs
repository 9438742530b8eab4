//! What strangers can make a layer ask of its store.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use keytally::backend::MemoryBackend;
use keytally::key::{
    CacheConfig, Issued, Issuer, KeyAdmin, KeyRecord, KeyStore, KeyUpdate, NewKey, Prefix, Secret,
    StoreError,
};
use keytally::limit::RateLimit;
use keytally::usage::Refusal;
use keytally::{ApiKeyLayer, Clock, KeyId, PeerAddress, Rejection, ResponseBody, StoreFailure};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};

/// Counts how often it is asked; takes its time or fails when it is told to.
#[derive(Clone, Default)]
struct Counted {
    keys: MemoryBackend,
    asked: Arc<AtomicU64>,
    seconds: Arc<AtomicU64>,
    fails: Arc<AtomicU64>,
}

#[async_trait]
impl KeyStore for Counted {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let seconds @ 1.. = self.seconds.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        if self.fails.load(Ordering::SeqCst) > 0 {
            return Err(StoreError::unavailable("down"));
        }
        self.keys.find(id).await
    }
}

type Answer = Response<ResponseBody<Full<Bytes>>>;

struct Setup {
    store: Counted,
    clock: Clock,
    layer: ApiKeyLayer,
}

impl Setup {
    /// Ten look-ups a minute.
    fn new() -> Self {
        Self::with(|layer| layer.lookup_budget(RateLimit::per_minute(10)).unwrap())
    }

    fn with(configure: impl FnOnce(ApiKeyLayer) -> ApiKeyLayer) -> Self {
        let (store, clock) = (Counted::default(), Clock::manual(Timestamp::UNIX_EPOCH));
        let layer = ApiKeyLayer::new(store.clone())
            .clock(clock.clone())
            .cache(CacheConfig::new().ttl(Duration::from_secs(30)));
        Self {
            layer: configure(layer),
            store,
            clock,
        }
    }

    async fn issue(&self) -> Issued {
        let issuer = Issuer::new("acme").unwrap();
        let key = NewKey::named("test");
        issuer.issue(&self.store.keys, key).await.unwrap()
    }

    /// A secret of the right form that is not the one of its key.
    async fn wrong(&self) -> Secret {
        let issuer = Issuer::new("acme").unwrap();
        let (secret, mut record) = issuer.make(NewKey::named("test")).unwrap();
        record.digest = issuer.make(NewKey::named("other")).unwrap().1.digest;
        self.store.keys.create(record).await.unwrap();
        secret
    }

    fn send(
        &self,
        from: &str,
        secret: &Secret,
        content_type: &str,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let service = self.layer.layer(tower::service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::default()))
        }));
        let mut request = Request::post("/")
            .header("x-api-key", secret.expose())
            .header("content-type", content_type)
            .body(())
            .unwrap();
        if let Ok(address) = from.parse::<IpAddr>() {
            request.extensions_mut().insert(PeerAddress(address));
        }
        async { service.oneshot(request).await.unwrap() }
    }

    async fn ask(&self, from: &str, secret: &Secret) -> StatusCode {
        self.send(from, secret, "text/plain").await.status()
    }

    /// So many ask for it at one time.
    async fn ask_at_once(&self, from: &str, secret: &Secret, times: usize) -> Vec<StatusCode> {
        let asks = (0..times).map(|_| self.send(from, secret, "text/plain"));
        let answers = asks.collect::<JoinSet<_>>().join_all().await;
        answers.iter().map(Response::status).collect()
    }

    fn asked(&self) -> u64 {
        self.store.asked.swap(0, Ordering::SeqCst)
    }
}

fn unknown() -> Secret {
    Secret::generate(&Prefix::new("acme").unwrap()).unwrap()
}

const HERE: &str = "192.0.2.1";

#[tokio::test]
async fn an_address_has_so_many_look_ups_that_come_to_nothing() {
    let setup = Setup::new();
    let good = setup.issue().await;
    assert_eq!(setup.ask(HERE, &good.secret).await, 200);
    assert_eq!(setup.asked(), 1);

    for n in 0..1_000 {
        let status = if n < 10 { 401 } else { 429 };
        assert_eq!(setup.ask(HERE, &unknown()).await, status, "{n}");
    }
    assert_eq!(setup.asked(), 10);
    let refused = |reason| setup.layer.stats().refused_for(reason);
    assert_eq!(refused(Refusal::Unknown), 10);
    assert_eq!(refused(Refusal::LookupBudget), 990);

    // A key that is held passes all the while, also when it has to be looked up again.
    assert_eq!(setup.ask(HERE, &good.secret).await, 200);
    setup.clock.advance(Duration::from_secs(4));
    assert_eq!(setup.ask(HERE, &unknown()).await, 429);
    assert_eq!(setup.asked(), 0);
    setup.clock.advance(Duration::from_secs(27));
    for _ in 0..5 {
        assert_eq!(setup.ask(HERE, &unknown()).await, 401);
    }
    assert_eq!(setup.ask(HERE, &unknown()).await, 429);
    assert_eq!(setup.asked(), 5);
    assert_eq!(setup.ask(HERE, &good.secret).await, 200);
    assert_eq!(setup.asked(), 1);

    // Nobody else is refused: another address, the next network, or one that nobody knows.
    for elsewhere in ["192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "unknown"] {
        assert_eq!(setup.ask(elsewhere, &unknown()).await, 401, "{elsewhere}");
    }
}

#[tokio::test]
async fn the_wait_that_is_told_suffices() {
    let setup = Setup::new();
    while setup.ask(HERE, &unknown()).await == 401 {}
    let refused = setup.send(HERE, &unknown(), "text/plain").await;
    let rejection = refused.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason, Refusal::LookupBudget);
    assert_eq!(refused.headers()["retry-after"], "6");
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    let refused = setup.send(HERE, &unknown(), "application/grpc").await;
    assert_eq!(refused.status(), 200);
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "6000");
    setup.clock.advance(Duration::from_secs(6));
    assert_eq!(setup.ask(HERE, &unknown()).await, 401);
    assert_eq!(setup.ask(HERE, &unknown()).await, 429);
}

#[tokio::test]
async fn good_keys_and_outages_are_not_charged() {
    let setup = Setup::new();
    for _ in 0..100 {
        let key = setup.issue().await;
        assert_eq!(setup.ask(HERE, &key.secret).await, 200);
        setup.store.keys.revoke(key.key.id).await.unwrap();
    }
    setup.store.fails.store(1, Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(setup.ask(HERE, &unknown()).await, 503);
    }
    setup.store.fails.store(0, Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(setup.ask(HERE, &unknown()).await, 401);
    }
    assert_eq!(setup.ask(HERE, &unknown()).await, 429);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_with_others_for_a_look_up_pays_nothing() {
    let setup = Setup::new();
    let good = setup.issue().await;
    setup.store.seconds.store(1, Ordering::SeqCst);
    assert_eq!(setup.ask_at_once(HERE, &good.secret, 100).await, [200; 100]);
    assert_eq!(
        setup.ask_at_once(HERE, &unknown(), 100).await,
        [401_u16; 100]
    );
    assert_eq!(setup.asked(), 2);
    setup.store.seconds.store(6, Ordering::SeqCst);
    let good = setup.issue().await;
    assert_eq!(setup.ask_at_once(HERE, &good.secret, 100).await, [503; 100]);
    setup.store.seconds.store(0, Ordering::SeqCst);
    for n in 0..10 {
        let status = if n < 9 { 401 } else { 429 };
        assert_eq!(setup.ask(HERE, &unknown()).await, status, "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_on_with_what_another_left_pays_for_it() {
    let setup = Setup::new();
    setup.store.seconds.store(1, Ordering::SeqCst);
    let (secret, mut asks) = (unknown(), Vec::new());
    for _ in 0..30 {
        asks.push(tokio::spawn(setup.send(HERE, &secret, "text/plain")));
        tokio::task::yield_now().await;
    }
    let elsewhere = tokio::spawn(setup.send("192.0.2.2", &secret, "text/plain"));
    tokio::task::yield_now().await;
    // Each begins when the one before hangs up: when the budget is used up, the others are refused.
    for ask in asks.drain(..20) {
        ask.abort();
        tokio::task::yield_now().await;
    }
    for ask in asks {
        assert_eq!(ask.await.unwrap().status(), 429);
    }
    // Somebody else who waits with them goes on.
    assert_eq!(elsewhere.await.unwrap().status(), 401);
    assert_eq!(setup.asked(), 11);
}

#[tokio::test]
async fn rule_2_without_a_budget_no_key_that_does_not_let_in_is_told_from_none() {
    let setup = Setup::new();
    let (revoked, disabled, expired) = (
        setup.issue().await,
        setup.issue().await,
        setup.issue().await,
    );
    let keys = &setup.store.keys;
    keys.revoke(revoked.key.id).await.unwrap();
    keys.disable(disabled.key.id).await.unwrap();
    let at_once = KeyUpdate::default().expires(Some(Timestamp::UNIX_EPOCH));
    keys.update(expired.key.id, at_once).await.unwrap();
    let told = async |secret: &Secret| {
        let answer = setup.send(HERE, secret, "text/plain").await;
        let (mut head, body) = answer.into_parts();
        head.headers.remove("x-request-id");
        let body = body.collect().await.unwrap().to_bytes();
        format!("{} {:?} {body:?}", head.status, head.headers)
    };
    let theirs = [&revoked.secret, &disabled.secret, &expired.secret];
    let mut used = 0;
    for secret in theirs {
        assert_eq!(told(secret).await, told(&unknown()).await);
        used += 2;
    }
    // Held they cost nothing, and looked up as much as a guess.
    for secret in theirs {
        assert!(told(secret).await.starts_with("401"));
    }
    while setup.ask(HERE, &unknown()).await == 401 {
        used += 1;
    }
    assert_eq!(used, 10);
    let refused = told(&unknown()).await;
    assert!(refused.starts_with("429"));
    for secret in theirs {
        assert_eq!(told(secret).await, refused);
    }
    // Nor does the last look-up that an address has tell one from the other.
    for secret in [theirs[0], &unknown()] {
        setup.clock.advance(Duration::from_secs(31));
        while setup.ask(HERE, &unknown()).await == 401 {}
        setup.clock.advance(Duration::from_secs(6));
        assert!(told(secret).await.starts_with("401"));
        assert!(told(secret).await.starts_with("429"));
    }
    // Looked up again they cost as much again, and without a budget they are not looked up.
    setup.clock.advance(Duration::from_secs(31));
    for secret in theirs {
        assert!(told(secret).await.starts_with("401"));
    }
    for _ in 3..5 {
        assert_eq!(setup.ask(HERE, &unknown()).await, 401);
    }
    assert_eq!(setup.ask(HERE, &unknown()).await, 429);
    setup.clock.advance(Duration::from_secs(30));
    while setup.ask(HERE, &unknown()).await == 401 {}
    setup.asked();
    for secret in theirs {
        assert!(told(secret).await.starts_with("429"));
    }
    assert_eq!(setup.asked(), 0);
}

#[tokio::test]
async fn rule_2_without_a_budget_all_that_is_wrong_gets_one_answer() {
    let setup = Setup::new();
    let (good, wrong, gone) = (setup.issue().await, setup.wrong().await, unknown());
    assert_eq!(setup.ask(HERE, &good.secret).await, 200);
    for _ in 0..100 {
        // What is cached costs nothing, be the key unknown or the secret wrong.
        assert_eq!(setup.ask(HERE, &wrong).await, 401);
        assert_eq!(setup.ask(HERE, &gone).await, 401);
    }
    assert_eq!(setup.asked(), 3);
    while setup.ask(HERE, &unknown()).await == 401 {}
    for secret in [&wrong, &gone, &unknown()] {
        assert_eq!(setup.ask(HERE, secret).await, 429);
    }
    // A wrong secret of a key whose time is over is a stranger's.
    setup.clock.advance(Duration::from_secs(31));
    while setup.ask(HERE, &unknown()).await == 401 {}
    setup.asked();
    assert_eq!(setup.ask(HERE, &wrong).await, 429);
    assert_eq!(setup.asked(), 0);
}

#[tokio::test]
async fn a_look_up_is_paid_for_by_whoever_does_not_wait_for_it_too() {
    let setup = Setup::new();
    setup.store.seconds.store(1, Ordering::SeqCst);
    for _ in 0..10 {
        let mut asking = Box::pin(setup.send(HERE, &unknown(), "text/plain"));
        let noop = &mut Context::from_waker(Waker::noop());
        assert!(asking.as_mut().poll(noop).is_pending());
    }
    assert_eq!(setup.ask(HERE, &unknown()).await, 429);
    assert_eq!(setup.asked(), 10);
}

#[tokio::test]
async fn there_is_a_budget_unless_told_otherwise() {
    let count = async |setup: &Setup| {
        let mut answered = 0;
        while answered < 2_000 && setup.ask(HERE, &unknown()).await == 401 {
            answered += 1;
        }
        answered
    };
    assert_eq!(count(&Setup::with(|layer| layer)).await, 1_000);
    let boundless = Setup::with(ApiKeyLayer::no_lookup_budget);
    assert_eq!(count(&boundless).await, 2_000);
    let invalid = ApiKeyLayer::new(MemoryBackend::new()).lookup_budget(RateLimit::per_minute(0));
    assert!(invalid.is_err());
}

#[tokio::test(start_paused = true)]
async fn rule_5_nobody_gets_in_by_asking_for_too_much_at_once() {
    /// Answers after a time that a test chooses.
    struct Slow;

    #[async_trait]
    impl KeyStore for Slow {
        async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(None)
        }
    }

    let layer = ApiKeyLayer::new(Slow)
        .cache(CacheConfig::new().uncached_lookups(10))
        .on_store_failure(StoreFailure::Pass);
    let mut asks = JoinSet::new();
    for _ in 0..100 {
        let service = layer.layer(tower::service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let request = Request::get("/").header("x-api-key", unknown().expose());
        let request = request.body(()).unwrap();
        asks.spawn(async move { service.oneshot(request).await.unwrap().status() });
    }
    let answers = asks.join_all().await;
    let count = |status| answers.iter().filter(|answer| **answer == status).count();
    // Ten are asked for and ten more begin within the five seconds, which are late. The others have no turn.
    assert_eq!(count(StatusCode::UNAUTHORIZED), 10);
    assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 90);
}
