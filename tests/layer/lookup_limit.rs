//! What strangers can make a layer ask of its store.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use keytally::usage::{LogQuery, Recorder, RejectionReason, UsageReader, WhenFull};
use keytally::{ApiKeyLayer, Clock, KeyId, PeerIp, Rejection, ResponseBody, StoreFailure};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};

/// Counts how often it is asked; takes its time or fails when it is told to.
#[derive(Clone, Default)]
struct Counted {
    keys: MemoryBackend,
    asked: Arc<AtomicU64>,
    seconds: Arc<AtomicU64>,
    fails: Arc<AtomicBool>,
}

#[async_trait]
impl KeyStore for Counted {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let seconds @ 1.. = self.seconds.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        if self.fails.load(Ordering::SeqCst) {
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
        Self::with(|layer| layer.lookup_limit(RateLimit::per_minute(10)).unwrap())
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
        let key = NewKey::new("test");
        issuer.issue(&self.store.keys, key).await.unwrap()
    }

    /// A secret of the right form that is not the one of its key.
    async fn wrong(&self) -> Secret {
        let issuer = Issuer::new("acme").unwrap();
        let (secret, mut record) = issuer.prepare(NewKey::new("test")).unwrap();
        record.digest = issuer.prepare(NewKey::new("other")).unwrap().1.digest;
        self.store.keys.create(record).await.unwrap();
        secret
    }

    fn send(
        &self,
        from: &str,
        secret: &Secret,
        content_type: &str,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let mut request = Request::post("/")
            .header("x-api-key", secret.expose())
            .header("content-type", content_type)
            .body(String::new())
            .unwrap();
        let from: IpAddr = from.parse().unwrap();
        request.extensions_mut().insert(PeerIp(from));
        call(&self.layer, request)
    }

    /// Asks with what no key has until the budget is used up: how often that was looked up.
    async fn use_up(&self, from: &str) -> usize {
        for n in 0..2_000 {
            match self.ask(from, &unknown()).await.as_u16() {
                401 => {}
                429 => return n,
                status => panic!("{status}"),
            }
        }
        panic!("it does not end");
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

fn call(
    layer: &ApiKeyLayer,
    request: Request<String>,
) -> impl Future<Output = Answer> + Send + use<> {
    let service = layer.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(Full::default()))
    }));
    async { service.oneshot(request).await.unwrap() }
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
    assert_eq!(refused(RejectionReason::Unknown), 10);
    assert_eq!(refused(RejectionReason::LookupLimit), 990);

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

    assert_eq!(setup.use_up(HERE).await, 0);

    // Another address has its own, as does each network of IPv6.
    assert_eq!(setup.use_up("192.0.2.2").await, 10);
    assert_eq!(setup.use_up("2001:db8::1").await, 10);
    assert_eq!(setup.use_up("2001:db8::ffff:ffff:ffff:ffff").await, 0);
    assert_eq!(setup.use_up("2001:db8:0:1::1").await, 10);
    // Without a known address there is none.
    for n in 0..20 {
        let request = Request::get("/").header("x-api-key", unknown().expose());
        let answer = call(&setup.layer, request.body(String::new()).unwrap()).await;
        assert_eq!(answer.status(), 401, "{n}");
    }
}

#[tokio::test]
async fn a_good_key_that_is_not_cached_waits_until_its_address_may_look_up_again() {
    let setup = Setup::new();
    let good = setup.issue().await;
    setup.use_up(HERE).await;
    assert_eq!(setup.ask(HERE, &good.secret).await, 429);
    assert_eq!(setup.ask("192.0.2.2", &good.secret).await, 200);
    // Now it is cached.
    assert_eq!(setup.ask(HERE, &good.secret).await, 200);
    setup.layer.key_cache().invalidate_all();
    assert_eq!(setup.ask(HERE, &good.secret).await, 429);
    setup.clock.advance(Duration::from_secs(6));
    assert_eq!(setup.ask(HERE, &good.secret).await, 200);
}

#[tokio::test]
async fn the_wait_that_is_told_suffices() {
    let setup = Setup::new();
    setup.use_up(HERE).await;
    let refused = setup.send(HERE, &unknown(), "text/plain").await;
    let rejection = refused.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason, RejectionReason::LookupLimit);
    assert_eq!(refused.headers()["retry-after"], "6");
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    let refused = setup.send(HERE, &unknown(), "application/grpc").await;
    assert_eq!(refused.status(), 200);
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "-1");
    assert_eq!(refused.headers()["retry-after"], "6");
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
    }
    setup.store.fails.store(true, Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(setup.ask(HERE, &unknown()).await, 503);
    }
    setup.store.fails.store(false, Ordering::SeqCst);
    assert_eq!(setup.use_up(HERE).await, 10);
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
    assert_eq!(setup.use_up(HERE).await, 9);
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
    let at_once = KeyUpdate::default().expires_at(Some(Timestamp::UNIX_EPOCH));
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
    assert_eq!(used + setup.use_up(HERE).await, 10);
    let refused = told(&unknown()).await;
    assert!(refused.starts_with("429"));
    for secret in theirs {
        assert_eq!(told(secret).await, refused);
    }
    // Nor does the last look-up that an address has tell one from the other.
    for secret in [theirs[0], &unknown()] {
        setup.clock.advance(Duration::from_secs(31));
        setup.use_up(HERE).await;
        setup.clock.advance(Duration::from_secs(6));
        assert!(told(secret).await.starts_with("401"));
        assert!(told(secret).await.starts_with("429"));
    }
    // Looked up again they cost as much again, and without a budget they are not looked up.
    setup.clock.advance(Duration::from_secs(31));
    for secret in theirs {
        assert!(told(secret).await.starts_with("401"));
    }
    // Five had come back.
    assert_eq!(theirs.len() + setup.use_up(HERE).await, 5);
    setup.clock.advance(Duration::from_secs(30));
    setup.use_up(HERE).await;
    setup.asked();
    for secret in theirs {
        assert!(told(secret).await.starts_with("429"));
    }
    assert_eq!(setup.asked(), 0);
}

#[tokio::test]
async fn rule_2_a_full_recorder_does_not_tell_a_key_that_does_not_let_in_from_none() {
    let memory = MemoryBackend::new();
    let recorder = Recorder::builder(memory.clone())
        .capacity(1)
        .when_full(WhenFull::Refuse)
        .start();
    let setup = Setup::with(|layer| layer.recorder(recorder.clone()));
    let (good, revoked) = (setup.issue().await, setup.issue().await);
    setup.store.keys.revoke(revoked.key.id).await.unwrap();
    // An answer that is not read to its end is open, and takes all the room there is.
    let _open = setup.send(HERE, &good.secret, "text/plain").await;
    for _ in 0..2 {
        assert_eq!(setup.ask(HERE, &good.secret).await, 503);
        assert_eq!(setup.ask(HERE, &revoked.secret).await, 401);
        assert_eq!(setup.ask(HERE, &unknown()).await, 401);
    }
    recorder.flush().await;
    let events = memory.requests(&LogQuery::default()).await.unwrap().items;
    let events = events
        .iter()
        .filter(|event| event.rejection_reason.is_some());
    let counted = setup.layer.stats().refused_for(RejectionReason::Revoked);
    assert_eq!(events.count() as u64 + counted, 2);
}

/// A store that announces nothing, as that of another process.
#[tokio::test]
async fn rule_2_a_key_that_has_worked_is_not_told_from_none_either() {
    for change in ["revoke", "disable", "delete"] {
        let setup = Setup::new();
        let key = setup.issue().await;
        assert_eq!(setup.ask(HERE, &key.secret).await, 200);
        let keys = &setup.store.keys;
        match change {
            "revoke" => keys.revoke(key.key.id).await.map(drop).unwrap(),
            "disable" => keys.disable(key.key.id).await.map(drop).unwrap(),
            _ => keys.delete(key.key.id).await.unwrap(),
        }
        setup.clock.advance(Duration::from_secs(31));
        setup.use_up(HERE).await;
        assert_eq!(setup.ask(HERE, &unknown()).await, 429);
        assert_eq!(setup.ask(HERE, &key.secret).await, 429, "{change}");
        // With a budget, both are 401.
        setup.clock.advance(Duration::from_secs(60));
        assert_eq!(setup.ask(HERE, &unknown()).await, 401);
        assert_eq!(setup.ask(HERE, &key.secret).await, 401, "{change}");
    }
}

/// Invariant 6: what a rejected key leaves in the log is bounded, whatever it sends, and takes no room of others.
mod rejected_keys_do_not_fill_the_log {
    use keytally::key::AddressList;
    use keytally::usage::{Batch, LogFilter, SinkError, UsageSink};

    use super::*;

    async fn events_of(
        recorder: &Recorder,
        memory: &MemoryBackend,
        reason: RejectionReason,
    ) -> usize {
        recorder.flush().await;
        let query = LogQuery::new(LogFilter::new()).limit(LogQuery::MAX_LIMIT);
        let events = memory.requests(&query).await.unwrap().items;
        events
            .iter()
            .filter(|event| event.rejection_reason == Some(reason))
            .count()
    }

    #[tokio::test]
    async fn events_per_key_are_limited() {
        let memory = MemoryBackend::new();
        let recorder = Recorder::new(memory.clone());
        let setup = Setup::with(|layer| layer.recorder(recorder.clone()));
        let keys = &setup.store.keys;
        let revoked = setup.issue().await;
        keys.revoke(revoked.key.id).await.unwrap();
        let disabled = setup.issue().await;
        keys.disable(disabled.key.id).await.unwrap();
        let issuer = Issuer::new("acme").unwrap();
        let issue = async |new| issuer.issue(keys, new).await.unwrap();
        let expired = issue(NewKey::new("x").expires_at(Timestamp::UNIX_EPOCH)).await;
        let elsewhere = AddressList::parse(["203.0.113.0/24"]).unwrap();
        let elsewhere = issue(NewKey::new("x").addresses(elsewhere)).await;
        for (key, reason, status) in [
            (&revoked, RejectionReason::Revoked, 401),
            (&disabled, RejectionReason::Disabled, 401),
            (&expired, RejectionReason::Expired, 401),
            (&elsewhere, RejectionReason::Address, 403),
        ] {
            for _ in 0..200 {
                assert_eq!(setup.ask(HERE, &key.secret).await, status);
            }
            assert_eq!(events_of(&recorder, &memory, reason).await, 10, "{reason}");
            assert_eq!(recorder.stats().refused_for(reason), 190);
            // Another address has its own, and a key so many from all of them.
            for n in 0..20 {
                for _ in 0..20 {
                    setup
                        .ask(&format!("192.0.2.{}", 100 + n), &key.secret)
                        .await;
                }
            }
            assert_eq!(events_of(&recorder, &memory, reason).await, 100, "{reason}");
            assert_eq!(recorder.stats().refused_for(reason), 500);
        }
        // They come back, as all of their kind do, in time.
        setup.clock.advance(Duration::from_secs(3_600));
        setup.ask(HERE, &revoked.secret).await;
        assert_eq!(
            events_of(&recorder, &memory, RejectionReason::Revoked).await,
            101
        );
        let stats = recorder.stats();
        assert_eq!((stats.lost, stats.open, stats.accepted), (0, 0, 401));
    }

    /// Clones of a layer that hand events to another recorder use up none of this one's.
    #[tokio::test]
    async fn each_recorder_has_its_own_limit() {
        let memory = MemoryBackend::new();
        let recorder = Recorder::new(memory.clone());
        let mut setup = Setup::with(|layer| layer.recorder(recorder.clone()));
        let revoked = setup.issue().await;
        setup.store.keys.revoke(revoked.key.id).await.unwrap();
        let layer = setup.layer.clone();
        setup.layer = layer.clone().recorder(Recorder::counting());
        for _ in 0..50 {
            assert_eq!(setup.ask(HERE, &revoked.secret).await, 401);
        }
        setup.layer = layer;
        for _ in 0..50 {
            assert_eq!(setup.ask(HERE, &revoked.secret).await, 401);
        }
        assert_eq!(
            events_of(&recorder, &memory, RejectionReason::Revoked).await,
            10
        );
    }

    /// Takes no batch until it is told to.
    struct Stuck(MemoryBackend, Arc<AtomicBool>);

    #[async_trait]
    impl UsageSink for Stuck {
        async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
            while !self.1.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.0.write(batch).await
        }
    }

    #[tokio::test]
    async fn rejected_keys_use_no_recorder_capacity() {
        for when_full in [WhenFull::Refuse, WhenFull::Drop] {
            let (memory, goes_on) = (MemoryBackend::new(), Arc::new(AtomicBool::new(false)));
            let recorder = Recorder::builder(Stuck(memory.clone(), goes_on.clone()))
                .capacity(64)
                .when_full(when_full)
                .start();
            let setup = Setup::with(|layer| layer.recorder(recorder.clone()));
            let good = setup.issue().await;
            for _ in 0..10 {
                let revoked = setup.issue().await;
                setup.store.keys.revoke(revoked.key.id).await.unwrap();
                for _ in 0..10 {
                    assert_eq!(setup.ask(HERE, &revoked.secret).await, 401);
                }
            }
            for _ in 0..64 {
                assert_eq!(setup.ask(HERE, &good.secret).await, 200);
            }
            assert_eq!(recorder.stats().lost, 0);
            let refused = setup.ask(HERE, &good.secret).await;
            match when_full {
                WhenFull::Refuse => assert_eq!(refused, 503),
                WhenFull::Drop => assert_eq!(recorder.stats().lost, 1),
            }
            goes_on.store(true, Ordering::SeqCst);
            // A sixteenth of the capacity waited beside.
            assert_eq!(
                events_of(&recorder, &memory, RejectionReason::Revoked).await,
                4
            );
            assert_eq!(recorder.stats().refused_for(RejectionReason::Revoked), 96);
            let stats = recorder.stats();
            assert_eq!((stats.written, stats.open, stats.queued), (68, 0, 0));
            assert_eq!(setup.ask(HERE, &good.secret).await, 200);
        }
    }
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
    setup.use_up(HERE).await;
    for secret in [&wrong, &gone, &unknown()] {
        assert_eq!(setup.ask(HERE, secret).await, 429);
    }
    // A wrong secret of a key whose time is over is a stranger's.
    setup.clock.advance(Duration::from_secs(31));
    setup.use_up(HERE).await;
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
    assert_eq!(Setup::with(|layer| layer).use_up(HERE).await, 1_000);
    let boundless = Setup::with(ApiKeyLayer::no_lookup_limit);
    for n in 0..2_000 {
        assert_eq!(boundless.ask(HERE, &unknown()).await, 401, "{n}");
    }
    let invalid = ApiKeyLayer::new(MemoryBackend::new()).lookup_limit(RateLimit::per_minute(0));
    assert!(invalid.is_err());
}

#[tokio::test(start_paused = true)]
async fn rule_5_nobody_gets_in_by_asking_for_too_much_at_once() {
    /// Answers late.
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
        let request = Request::get("/").header("x-api-key", unknown().expose());
        asks.spawn(call(&layer, request.body(String::new()).unwrap()));
    }
    let answers = asks.join_all().await;
    let count = |status| answers.iter().filter(|it| it.status() == status).count();
    // Ten are asked for and ten more begin within the five seconds, which are late. The others have no turn.
    assert_eq!(count(StatusCode::UNAUTHORIZED), 10);
    assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 90);
}
