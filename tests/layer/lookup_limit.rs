//! The per-IP lookup limit: failed store lookups are bounded and reveal nothing about keys.

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
    Actor, CacheConfig, Issued, Issuer, KeyAdmin, KeyRecord, KeyStore, KeyUpdate, NewKey, Prefix,
    Secret, StoreError,
};
use keytally::limit::RateLimit;
use keytally::usage::{LogQuery, Recorder, RejectionReason, UsageReader, WhenFull};
use keytally::{
    ApiKeyLayer, Clock, KeyId, PageRequest, PeerAddress, Rejection, ResponseBody, StoreFailure,
};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};

/// Counts lookups; delays or fails them on demand.
#[derive(Clone, Default)]
struct CountingStore {
    keys: MemoryBackend,
    lookups: Arc<AtomicU64>,
    seconds: Arc<AtomicU64>,
    fails: Arc<AtomicBool>,
}

#[async_trait]
impl KeyStore for CountingStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        if let seconds @ 1.. = self.seconds.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("down"));
        }
        self.keys.find(id).await
    }
}

type LayerResponse = Response<ResponseBody<Full<Bytes>>>;

struct Setup {
    store: CountingStore,
    clock: Clock,
    layer: ApiKeyLayer,
}

impl Setup {
    /// A limit of ten failed lookups per minute.
    fn new() -> Self {
        Self::with(|layer| layer.lookup_limit(RateLimit::per_minute(10)))
    }

    fn with(configure: impl FnOnce(ApiKeyLayer) -> ApiKeyLayer) -> Self {
        let (store, clock) = (
            CountingStore::default(),
            Clock::manual(Timestamp::UNIX_EPOCH),
        );
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
        issuer
            .issue(&self.store.keys, key, Actor::SYSTEM)
            .await
            .unwrap()
    }

    /// A well-formed secret whose digest does not match that of its key.
    async fn wrong(&self) -> Secret {
        let issuer = Issuer::new("acme").unwrap();
        let (secret, mut record) = issuer.prepare(NewKey::new("test")).unwrap();
        record.digest = issuer.prepare(NewKey::new("other")).unwrap().1.digest;
        self.store.keys.create(record, Actor::SYSTEM).await.unwrap();
        secret
    }

    fn send(
        &self,
        from: &str,
        secret: &Secret,
        content_type: &str,
    ) -> impl Future<Output = LayerResponse> + Send + use<> {
        let mut request = Request::post("/")
            .header("x-api-key", secret.expose())
            .header("content-type", content_type)
            .body(String::new())
            .unwrap();
        let client_ip: IpAddr = from.parse().unwrap();
        request.extensions_mut().insert(PeerAddress(client_ip));
        send_to(&self.layer, request)
    }

    /// Sends unknown keys until the lookup limit is exhausted; returns how many were looked up.
    async fn exhaust_limit(&self, from: &str) -> usize {
        for n in 0..2_000 {
            match self.status_of(from, &unknown()).await.as_u16() {
                401 => {}
                429 => return n,
                status => panic!("{status}"),
            }
        }
        panic!("the lookup limit is never exhausted");
    }

    async fn status_of(&self, from: &str, secret: &Secret) -> StatusCode {
        self.send(from, secret, "text/plain").await.status()
    }

    /// The statuses of `times` concurrent requests with this secret.
    async fn concurrent_statuses(
        &self,
        from: &str,
        secret: &Secret,
        times: usize,
    ) -> Vec<StatusCode> {
        let requests = (0..times).map(|_| self.send(from, secret, "text/plain"));
        let responses = requests.collect::<JoinSet<_>>().join_all().await;
        responses.iter().map(Response::status).collect()
    }

    /// The status of the response to a request with this text as the key.
    async fn status_of_text(&self, from: &str, text: &str) -> u16 {
        let mut request = Request::post("/")
            .header("x-api-key", text)
            .body(String::new())
            .unwrap();
        let client_ip: IpAddr = from.parse().unwrap();
        request.extensions_mut().insert(PeerAddress(client_ip));
        send_to(&self.layer, request).await.status().as_u16()
    }

    fn take_lookups(&self) -> u64 {
        self.store.lookups.swap(0, Ordering::SeqCst)
    }
}

fn send_to(
    layer: &ApiKeyLayer,
    request: Request<String>,
) -> impl Future<Output = LayerResponse> + Send + use<> {
    let service = layer.layer(tower::service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(Full::default()))
    }));
    async { service.oneshot(request).await.unwrap() }
}

fn unknown() -> Secret {
    Secret::generate(&Prefix::new("acme").unwrap()).unwrap()
}

const CLIENT_IP: &str = "192.0.2.1";

#[tokio::test]
async fn failed_lookups_are_limited_per_client_ip() {
    let setup = Setup::new();
    let valid = setup.issue().await;
    assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
    assert_eq!(setup.take_lookups(), 1);

    for n in 0..1_000 {
        let status = if n < 10 { 401 } else { 429 };
        assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, status, "{n}");
    }
    assert_eq!(setup.take_lookups(), 10);
    let rejected = |reason| setup.layer.stats().rejected_for(reason);
    assert_eq!(rejected(RejectionReason::Unknown), 10);
    assert_eq!(rejected(RejectionReason::LookupLimit), 990);

    // A cached key is admitted meanwhile, and again after its cache entry expires.
    assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
    setup.clock.advance(Duration::from_secs(4));
    assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 429);
    assert_eq!(setup.take_lookups(), 0);
    setup.clock.advance(Duration::from_secs(27));
    for _ in 0..5 {
        assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 401);
    }
    assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 429);
    assert_eq!(setup.take_lookups(), 5);
    assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
    assert_eq!(setup.take_lookups(), 1);

    assert_eq!(setup.exhaust_limit(CLIENT_IP).await, 0);

    // Limits are per IPv4 address and per IPv6 network.
    assert_eq!(setup.exhaust_limit("192.0.2.2").await, 10);
    assert_eq!(setup.exhaust_limit("2001:db8::1").await, 10);
    assert_eq!(
        setup.exhaust_limit("2001:db8::ffff:ffff:ffff:ffff").await,
        0
    );
    assert_eq!(setup.exhaust_limit("2001:db8:0:1::1").await, 10);
    // Requests without a known client IP are not limited.
    for n in 0..20 {
        let request = Request::get("/").header("x-api-key", unknown().expose());
        let response = send_to(&setup.layer, request.body(String::new()).unwrap()).await;
        assert_eq!(response.status(), 401, "{n}");
    }
}

#[tokio::test]
async fn uncached_valid_key_gets_429_until_the_lookup_limit_refills() {
    let setup = Setup::new();
    let valid = setup.issue().await;
    setup.exhaust_limit(CLIENT_IP).await;
    assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 429);
    assert_eq!(setup.status_of("192.0.2.2", &valid.secret).await, 200);
    assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
    setup.layer.key_cache().invalidate_all();
    assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 429);
    setup.clock.advance(Duration::from_secs(6));
    assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
}

#[tokio::test]
async fn retry_after_of_the_lookup_limit_is_sufficient() {
    let setup = Setup::new();
    setup.exhaust_limit(CLIENT_IP).await;
    let rejected = setup.send(CLIENT_IP, &unknown(), "text/plain").await;
    let rejection = rejected.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason, RejectionReason::LookupLimit);
    assert_eq!(rejected.headers()["retry-after"], "6");
    assert_eq!(
        rejected.headers()["content-type"],
        "application/problem+json"
    );
    let rejected = setup.send(CLIENT_IP, &unknown(), "application/grpc").await;
    assert_eq!(rejected.status(), 200);
    assert_eq!(rejected.headers()["grpc-status"], "8");
    assert_eq!(rejected.headers()["grpc-retry-pushback-ms"], "-1");
    assert_eq!(rejected.headers()["retry-after"], "6");
    setup.clock.advance(Duration::from_secs(6));
    assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 401);
    assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 429);
}

#[tokio::test]
async fn valid_keys_and_store_outages_do_not_count_as_failed_lookups() {
    let setup = Setup::new();
    for _ in 0..100 {
        let key = setup.issue().await;
        assert_eq!(setup.status_of(CLIENT_IP, &key.secret).await, 200);
    }
    setup.store.fails.store(true, Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 503);
    }
    setup.store.fails.store(false, Ordering::SeqCst);
    assert_eq!(setup.exhaust_limit(CLIENT_IP).await, 10);
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_shared_lookup_are_not_charged() {
    let setup = Setup::new();
    let valid = setup.issue().await;
    setup.store.seconds.store(1, Ordering::SeqCst);
    assert_eq!(
        setup
            .concurrent_statuses(CLIENT_IP, &valid.secret, 100)
            .await,
        [200; 100]
    );
    assert_eq!(
        setup.concurrent_statuses(CLIENT_IP, &unknown(), 100).await,
        [401_u16; 100]
    );
    assert_eq!(setup.take_lookups(), 2);
    setup.store.seconds.store(6, Ordering::SeqCst);
    let valid = setup.issue().await;
    assert_eq!(
        setup
            .concurrent_statuses(CLIENT_IP, &valid.secret, 100)
            .await,
        [503; 100]
    );
    setup.store.seconds.store(0, Ordering::SeqCst);
    assert_eq!(setup.exhaust_limit(CLIENT_IP).await, 9);
}

#[tokio::test(start_paused = true)]
async fn taking_over_an_abandoned_lookup_is_charged() {
    let setup = Setup::new();
    setup.store.seconds.store(1, Ordering::SeqCst);
    let (secret, mut requests) = (unknown(), Vec::new());
    for _ in 0..30 {
        requests.push(tokio::spawn(setup.send(CLIENT_IP, &secret, "text/plain")));
        tokio::task::yield_now().await;
    }
    let elsewhere = tokio::spawn(setup.send("192.0.2.2", &secret, "text/plain"));
    tokio::task::yield_now().await;
    // Each takes over the lookup when its predecessor disconnects, until the limit is exhausted.
    for request in requests.drain(..20) {
        request.abort();
        tokio::task::yield_now().await;
    }
    for request in requests {
        assert_eq!(request.await.unwrap().status(), 429);
    }
    // A waiter from another client IP takes over the lookup.
    assert_eq!(elsewhere.await.unwrap().status(), 401);
    assert_eq!(setup.take_lookups(), 11);
}

mod indistinguishable_rejections {
    use super::*;

    #[tokio::test]
    async fn rejected_and_unknown_keys_are_indistinguishable_when_the_lookup_limit_is_exhausted() {
        let setup = Setup::new();
        let (revoked, disabled, expired) = (
            setup.issue().await,
            setup.issue().await,
            setup.issue().await,
        );
        let keys = &setup.store.keys;
        keys.revoke(revoked.key.id, Actor::SYSTEM).await.unwrap();
        keys.disable(disabled.key.id, Actor::SYSTEM).await.unwrap();
        let at_once = KeyUpdate::default().expires_at(Some(Timestamp::UNIX_EPOCH));
        keys.update(expired.key.id, at_once, Actor::SYSTEM)
            .await
            .unwrap();
        let response_text = async |secret: &Secret| {
            let response = setup.send(CLIENT_IP, secret, "text/plain").await;
            let (mut head, body) = response.into_parts();
            head.headers.remove("x-request-id");
            let body = body.collect().await.unwrap().to_bytes();
            format!("{} {:?} {body:?}", head.status, head.headers)
        };
        let rejected_secrets = [&revoked.secret, &disabled.secret, &expired.secret];
        let mut used = 0;
        for secret in rejected_secrets {
            assert_eq!(response_text(secret).await, response_text(&unknown()).await);
            used += 2;
        }
        // While cached, they are not charged.
        for secret in rejected_secrets {
            assert!(response_text(secret).await.starts_with("401"));
        }
        assert_eq!(used + setup.exhaust_limit(CLIENT_IP).await, 10);
        let rejected = response_text(&unknown()).await;
        assert!(rejected.starts_with("429"));
        for secret in rejected_secrets {
            assert_eq!(response_text(secret).await, rejected);
        }
        // The last available lookup does not distinguish them either.
        for secret in [rejected_secrets[0], &unknown()] {
            setup.clock.advance(Duration::from_secs(31));
            setup.exhaust_limit(CLIENT_IP).await;
            setup.clock.advance(Duration::from_secs(6));
            assert!(response_text(secret).await.starts_with("401"));
            assert!(response_text(secret).await.starts_with("429"));
        }
        // After expiry they are charged again; once the limit is exhausted they are not looked up.
        setup.clock.advance(Duration::from_secs(31));
        for secret in rejected_secrets {
            assert!(response_text(secret).await.starts_with("401"));
        }
        // Five lookups had been refilled.
        assert_eq!(
            rejected_secrets.len() + setup.exhaust_limit(CLIENT_IP).await,
            5
        );
        setup.clock.advance(Duration::from_secs(30));
        setup.exhaust_limit(CLIENT_IP).await;
        setup.take_lookups();
        for secret in rejected_secrets {
            assert!(response_text(secret).await.starts_with("429"));
        }
        assert_eq!(setup.take_lookups(), 0);
    }

    #[tokio::test]
    async fn full_recorder_does_not_distinguish_revoked_from_unknown_keys() {
        let memory = MemoryBackend::new();
        let recorder = Recorder::builder(memory.clone())
            .capacity(1)
            .when_full(WhenFull::Reject)
            .start();
        let setup = Setup::with(|layer| layer.recorder(recorder.clone()));
        let (valid, revoked) = (setup.issue().await, setup.issue().await);
        setup
            .store
            .keys
            .revoke(revoked.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        // The unread response stays open and occupies the recorder's only slot.
        let _open = setup.send(CLIENT_IP, &valid.secret, "text/plain").await;
        for _ in 0..2 {
            assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 503);
            assert_eq!(setup.status_of(CLIENT_IP, &revoked.secret).await, 401);
            assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 401);
        }
        recorder.flush().await;
        let events = memory.requests(&LogQuery::default()).await.unwrap().items;
        let events = events
            .iter()
            .filter(|event| event.rejection_reason.is_some());
        let counted = setup.layer.stats().rejected_for(RejectionReason::Revoked);
        assert_eq!(events.count() as u64 + counted, 2);
    }

    /// The store sends no invalidations, like one that another process changes.
    #[tokio::test]
    async fn formerly_valid_and_unknown_keys_are_indistinguishable() {
        for change in ["revoke", "disable", "delete"] {
            let setup = Setup::new();
            let key = setup.issue().await;
            assert_eq!(setup.status_of(CLIENT_IP, &key.secret).await, 200);
            let keys = &setup.store.keys;
            match change {
                "revoke" => keys
                    .revoke(key.key.id, Actor::SYSTEM)
                    .await
                    .map(drop)
                    .unwrap(),
                "disable" => keys
                    .disable(key.key.id, Actor::SYSTEM)
                    .await
                    .map(drop)
                    .unwrap(),
                _ => keys.delete(key.key.id, Actor::SYSTEM).await.unwrap(),
            }
            setup.clock.advance(Duration::from_secs(31));
            setup.exhaust_limit(CLIENT_IP).await;
            assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 429);
            assert_eq!(
                setup.status_of(CLIENT_IP, &key.secret).await,
                429,
                "{change}"
            );
            // Once the limit is refilled, both are 401.
            setup.clock.advance(Duration::from_secs(60));
            assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 401);
            assert_eq!(
                setup.status_of(CLIENT_IP, &key.secret).await,
                401,
                "{change}"
            );
        }
    }

    #[tokio::test]
    async fn unknown_key_and_wrong_secret_are_indistinguishable_when_the_lookup_limit_is_exhausted()
    {
        let setup = Setup::new();
        let (valid, wrong, unknown_secret) = (setup.issue().await, setup.wrong().await, unknown());
        assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
        for _ in 0..100 {
            // Cached results are not charged, for unknown keys and wrong secrets alike.
            assert_eq!(setup.status_of(CLIENT_IP, &wrong).await, 401);
            assert_eq!(setup.status_of(CLIENT_IP, &unknown_secret).await, 401);
        }
        assert_eq!(setup.take_lookups(), 3);
        setup.exhaust_limit(CLIENT_IP).await;
        for secret in [&wrong, &unknown_secret, &unknown()] {
            assert_eq!(setup.status_of(CLIENT_IP, secret).await, 429);
        }
        // After its cache entry expires, a wrong secret is treated like an unknown key.
        setup.clock.advance(Duration::from_secs(31));
        setup.exhaust_limit(CLIENT_IP).await;
        setup.take_lookups();
        assert_eq!(setup.status_of(CLIENT_IP, &wrong).await, 429);
        assert_eq!(setup.take_lookups(), 0);
    }
}

/// Invariant 6: events of rejected keys are bounded and use no recorder capacity of other requests.
mod rejected_keys_do_not_fill_the_log {
    use keytally::key::{AddressList, OwnerAdmin};
    use keytally::usage::{Batch, LogFilter, SinkError, UsageSink};

    use super::*;

    async fn events_of(
        recorder: &Recorder,
        memory: &MemoryBackend,
        reason: RejectionReason,
    ) -> usize {
        recorder.flush().await;
        let query = LogQuery::new(LogFilter::new()).limit(PageRequest::MAX_LIMIT);
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
        keys.revoke(revoked.key.id, Actor::SYSTEM).await.unwrap();
        let disabled = setup.issue().await;
        keys.disable(disabled.key.id, Actor::SYSTEM).await.unwrap();
        keys.suspend_owner("acme", Actor::SYSTEM).await.unwrap();
        let issuer = Issuer::new("acme").unwrap();
        let issue = async |new| issuer.issue(keys, new, Actor::SYSTEM).await.unwrap();
        let expired = issue(NewKey::new("x").expires_at(Timestamp::UNIX_EPOCH)).await;
        let suspended = issue(NewKey::new("x").owner("acme")).await;
        let elsewhere = AddressList::parse(["203.0.113.0/24"]).unwrap();
        let elsewhere = issue(NewKey::new("x").addresses(elsewhere)).await;
        for (key, reason, status) in [
            (&revoked, RejectionReason::Revoked, 401),
            (&disabled, RejectionReason::Disabled, 401),
            (&expired, RejectionReason::Expired, 401),
            (&suspended, RejectionReason::OwnerSuspended, 401),
            (&elsewhere, RejectionReason::ClientIp, 403),
        ] {
            for _ in 0..200 {
                assert_eq!(setup.status_of(CLIENT_IP, &key.secret).await, status);
            }
            assert_eq!(events_of(&recorder, &memory, reason).await, 10, "{reason}");
            assert_eq!(recorder.stats().rejected_for(reason), 190);
            // The limit is per client IP, with a total per key.
            for n in 0..20 {
                for _ in 0..20 {
                    setup
                        .status_of(&format!("192.0.2.{}", 100 + n), &key.secret)
                        .await;
                }
            }
            assert_eq!(events_of(&recorder, &memory, reason).await, 100, "{reason}");
            assert_eq!(recorder.stats().rejected_for(reason), 500);
        }
        // The limit refills over time.
        setup.clock.advance(Duration::from_secs(3_600));
        setup.status_of(CLIENT_IP, &revoked.secret).await;
        assert_eq!(
            events_of(&recorder, &memory, RejectionReason::Revoked).await,
            101
        );
        let stats = recorder.stats();
        assert_eq!((stats.lost, stats.in_flight, stats.accepted), (0, 0, 501));
    }

    /// Clones of a layer with another recorder do not use up this recorder's limit.
    #[tokio::test]
    async fn each_recorder_has_its_own_limit() {
        let memory = MemoryBackend::new();
        let recorder = Recorder::new(memory.clone());
        let mut setup = Setup::with(|layer| layer.recorder(recorder.clone()));
        let revoked = setup.issue().await;
        setup
            .store
            .keys
            .revoke(revoked.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        let layer = setup.layer.clone();
        setup.layer = layer.clone().recorder(Recorder::counting());
        for _ in 0..50 {
            assert_eq!(setup.status_of(CLIENT_IP, &revoked.secret).await, 401);
        }
        setup.layer = layer;
        for _ in 0..50 {
            assert_eq!(setup.status_of(CLIENT_IP, &revoked.secret).await, 401);
        }
        assert_eq!(
            events_of(&recorder, &memory, RejectionReason::Revoked).await,
            10
        );
    }

    /// A sink that blocks until it is released.
    struct BlockedSink(MemoryBackend, Arc<AtomicBool>);

    #[async_trait]
    impl UsageSink for BlockedSink {
        async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
            while !self.1.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.0.write(batch).await
        }
    }

    #[tokio::test]
    async fn rejected_keys_use_no_recorder_capacity() {
        for when_full in [WhenFull::Reject, WhenFull::Drop] {
            let (memory, released) = (MemoryBackend::new(), Arc::new(AtomicBool::new(false)));
            let recorder = Recorder::builder(BlockedSink(memory.clone(), released.clone()))
                .capacity(64)
                .when_full(when_full)
                .start();
            let setup = Setup::with(|layer| layer.recorder(recorder.clone()));
            let valid = setup.issue().await;
            for _ in 0..10 {
                let revoked = setup.issue().await;
                setup
                    .store
                    .keys
                    .revoke(revoked.key.id, Actor::SYSTEM)
                    .await
                    .unwrap();
                for _ in 0..10 {
                    assert_eq!(setup.status_of(CLIENT_IP, &revoked.secret).await, 401);
                }
            }
            for _ in 0..64 {
                assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
            }
            assert_eq!(recorder.stats().lost, 0);
            let rejected = setup.status_of(CLIENT_IP, &valid.secret).await;
            match when_full {
                WhenFull::Reject => assert_eq!(rejected, 503),
                WhenFull::Drop => assert_eq!(recorder.stats().lost, 1),
            }
            released.store(true, Ordering::SeqCst);
            // Events of rejected keys have a queue of their own, a sixteenth of the capacity.
            assert_eq!(
                events_of(&recorder, &memory, RejectionReason::Revoked).await,
                4
            );
            assert_eq!(recorder.stats().rejected_for(RejectionReason::Revoked), 96);
            let stats = recorder.stats();
            assert_eq!((stats.written, stats.in_flight, stats.queued), (68, 0, 0));
            assert_eq!(setup.status_of(CLIENT_IP, &valid.secret).await, 200);
        }
    }
}

#[tokio::test]
async fn abandoned_lookups_are_charged() {
    let setup = Setup::new();
    setup.store.seconds.store(1, Ordering::SeqCst);
    for _ in 0..10 {
        let mut pending = Box::pin(setup.send(CLIENT_IP, &unknown(), "text/plain"));
        let noop = &mut Context::from_waker(Waker::noop());
        assert!(pending.as_mut().poll(noop).is_pending());
    }
    assert_eq!(setup.status_of(CLIENT_IP, &unknown()).await, 429);
    assert_eq!(setup.take_lookups(), 10);
}

#[tokio::test]
async fn lookup_limit_is_on_by_default_and_can_be_disabled() {
    assert_eq!(
        Setup::with(|layer| layer).exhaust_limit(CLIENT_IP).await,
        1_000
    );
    let unlimited = Setup::with(ApiKeyLayer::without_lookup_limit);
    for n in 0..2_000 {
        assert_eq!(unlimited.status_of(CLIENT_IP, &unknown()).await, 401, "{n}");
    }
    let invalid = ApiKeyLayer::new(MemoryBackend::new()).lookup_limit(RateLimit::per_minute(0));
    assert_eq!(invalid.build().unwrap_err().field, "lookup_limit");
}

mod fail_closed {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn excess_concurrent_lookups_are_rejected_even_with_store_failure_pass() {
        /// Responds after four seconds.
        struct SlowStore;

        #[async_trait]
        impl KeyStore for SlowStore {
            async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                tokio::time::sleep(Duration::from_secs(4)).await;
                Ok(None)
            }
        }

        let layer = ApiKeyLayer::new(SlowStore)
            .cache(CacheConfig::new().uncached_lookups(10))
            .on_store_failure(StoreFailure::Admit);
        let mut requests = JoinSet::new();
        for _ in 0..100 {
            let request = Request::get("/").header("x-api-key", unknown().expose());
            requests.spawn(send_to(&layer, request.body(String::new()).unwrap()));
        }
        let responses = requests.join_all().await;
        let count = |status| responses.iter().filter(|it| it.status() == status).count();
        // Ten lookups complete, ten more start within the five-second timeout but finish late, and the rest never start.
        assert_eq!(count(StatusCode::UNAUTHORIZED), 10);
        assert_eq!(count(StatusCode::SERVICE_UNAVAILABLE), 90);
    }
}

mod imported_formats {
    use keytally::key::{Digest, ImportedFormat, ImportedKey};
    use sha2::{Digest as _, Sha512};

    use super::*;

    fn setup() -> Setup {
        Setup::with(|layer| {
            layer
                .lookup_limit(RateLimit::per_minute(10))
                .accept_imported_formats([
                    ImportedFormat::sha256(),
                    ImportedFormat::sha256().after('|'),
                    ImportedFormat::sha512(),
                ])
        })
    }

    #[tokio::test]
    async fn each_format_costs_a_lookup_and_all_one_charge() {
        let setup = setup();
        let from = "203.0.113.7";
        for n in 0..10 {
            // Without the separator, there are two formats.
            let (secret, lookups) = match n % 2 {
                0 => (format!("unknown-secret-{n}"), 2),
                _ => (format!("17|unknown-secret-{n}"), 3),
            };
            assert_eq!(setup.status_of_text(from, &secret).await, 401);
            assert_eq!(setup.take_lookups(), lookups, "{secret}");
            // The last charge exhausts the limit.
            let status = if n < 9 { 401 } else { 429 };
            assert_eq!(setup.status_of_text(from, &secret).await, status);
            assert_eq!(setup.take_lookups(), 0);
        }
        assert_eq!(setup.status_of_text(from, "unknown-secret-x").await, 429);
        assert_eq!(setup.take_lookups(), 0);
        // No format has a part of fewer than 16 characters.
        assert_eq!(
            setup
                .status_of_text("203.0.113.8", "long-enough|short")
                .await,
            401
        );
        assert_eq!(setup.take_lookups(), 2);
        assert_eq!(setup.status_of_text("203.0.113.8", "too|short").await, 401);
        assert_eq!(setup.take_lookups(), 0);
    }

    #[tokio::test]
    async fn keys_of_later_formats_are_found_and_not_charged() {
        let setup = setup();
        let issuer = Issuer::new("acme").unwrap();
        let import = async |n: usize| {
            let secret = format!("a-legacy-secret-{n}");
            let (digest, sent) = match n % 2 {
                0 => (Digest::from_sha512(Sha512::digest(&secret)), secret),
                _ => {
                    let hash = sha2::Sha256::digest(&secret);
                    (Digest::from_sha256(hash), format!("{n}|{secret}"))
                }
            };
            let key = ImportedKey::from_digest(NewKey::new("test"), digest);
            let imported = issuer.import(&setup.store.keys, key, Actor::SYSTEM);
            imported.await.unwrap();
            sent
        };
        for n in 0..30 {
            let secret = import(n).await;
            for lookups in [2, 0] {
                assert_eq!(setup.status_of_text("203.0.113.7", &secret).await, 200);
                assert_eq!(setup.take_lookups(), lookups, "{secret}");
            }
            // Expired entries of active keys are looked up again, in their own format only.
            setup.clock.advance(Duration::from_secs(31));
            assert_eq!(setup.status_of_text("203.0.113.7", &secret).await, 200);
            assert_eq!(setup.take_lookups(), 1);
        }
        let secret = import(40).await;
        setup.store.fails.store(true, Ordering::SeqCst);
        assert_eq!(setup.status_of_text("203.0.113.7", &secret).await, 503);
        assert_eq!(setup.take_lookups(), 1);
    }

    #[test]
    fn unknown_peppers_are_invalid() {
        let layer = ApiKeyLayer::new(MemoryBackend::new());
        let layer = layer.accept_imported_formats([ImportedFormat::hmac_sha256("old")]);
        assert_eq!(layer.clone().build().unwrap_err().field, "imported formats");
        let peppers = keytally::key::Peppers::new([("old", &[7; 16][..])]).unwrap();
        assert!(layer.peppers(peppers).build().is_ok());
    }
}
