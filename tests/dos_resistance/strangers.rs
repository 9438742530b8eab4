//! Floods of keys that nobody has.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, StatusCode};
use jiff::Timestamp;
use keytally::backend::MemoryBackend;
use keytally::key::{Issued, KeyRecord, KeyStore, NewKey, Prefix, Secret, StoreError};
use keytally::usage::{Recorder, RejectionReason};
use keytally::{ApiKeyLayer, Clock, KeyId, PeerIp};

use super::measure::{Flood, MIB};
use super::{ask, behind, many, support};

/// What the layer keeps of strangers: 16,384 ids that no key has, and half a mebibyte of budgets.
const BOUND: i64 = 8 * MIB;

/// Counts how often it is asked.
#[derive(Clone, Default)]
struct Counted {
    keys: MemoryBackend,
    asked: Arc<AtomicU64>,
}

#[async_trait]
impl KeyStore for Counted {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.keys.find(id).await
    }
}

struct Setup {
    store: Counted,
    clock: Clock,
    recorder: Recorder,
    layer: ApiKeyLayer,
    good: Issued,
    prefix: Prefix,
}

impl Setup {
    async fn new() -> Self {
        let (store, clock) = (Counted::default(), Clock::manual(Timestamp::UNIX_EPOCH));
        let recorder = Recorder::new(store.keys.clone());
        let layer = ApiKeyLayer::new(store.clone()).clock(clock.clone());
        Self {
            good: support::issue(&store.keys, NewKey::new("good")).await,
            layer: layer.recorder(recorder.clone()),
            prefix: Prefix::new("acme_test").unwrap(),
            store,
            clock,
            recorder,
        }
    }

    fn unknown(&self, from: Option<IpAddr>) -> Request<String> {
        request(&Secret::generate(&self.prefix).unwrap(), from)
    }

    fn asked(&self) -> u64 {
        self.store.asked.swap(0, Ordering::Relaxed)
    }
}

fn request(secret: &Secret, from: Option<IpAddr>) -> Request<String> {
    let request = Request::get("/").header("x-api-key", secret.expose());
    let mut request = request.body(String::new()).unwrap();
    if let Some(address) = from {
        request.extensions_mut().insert(PeerIp(address));
    }
    request
}

#[tokio::test]
async fn rule_6_unknown_keys_leave_no_memory_behind() {
    let requests = many(60_000, 10_000_000);
    let mut flood = Flood::begin("unknown keys, each looked up", BOUND).await;
    let setup = Setup::new().await;
    let mut service = behind(setup.layer.clone());
    for n in 0..requests {
        assert_eq!(ask(&mut service, setup.unknown(None)).await, 401);
        if n % 10_000 == 0 {
            flood.check();
        }
    }
    // Nobody knows whose they are, so each is looked up.
    assert_eq!(setup.asked(), requests);
    let stats = setup.recorder.stats();
    assert_eq!(
        (stats.refused_for(RejectionReason::Unknown), stats.accepted),
        (requests, 0)
    );
    flood.end(requests);
}

#[tokio::test]
async fn unknown_keys_of_a_few_addresses_are_looked_up_no_more_than_their_budgets() {
    let requests = many(60_000, 10_000_000);
    let mut flood = Flood::begin("unknown keys of four addresses", BOUND).await;
    let setup = Setup::new().await;
    let mut service = behind(setup.layer.clone());
    let addresses = [1, 2, 3, 4].map(|n| Some(IpAddr::from([192, 0, 2, n])));
    assert_eq!(
        ask(&mut service, request(&setup.good.secret, addresses[0])).await,
        200
    );
    assert_eq!(setup.asked(), 1);
    // A thousand a minute: all at once, and half as many again after half a minute, when the good key has
    // to be looked up anew.
    for (budget, refreshed) in [(1_000, 0), (516, 1)] {
        let mut looked_up = 0;
        for n in 0..requests / 2 {
            let from = addresses[n as usize % addresses.len()];
            match ask(&mut service, setup.unknown(from)).await {
                StatusCode::UNAUTHORIZED => looked_up += 1,
                status => assert_eq!(status, 429),
            }
            if n % 10_000 == 0 {
                let good = request(&setup.good.secret, from);
                assert_eq!(ask(&mut service, good).await, 200);
                flood.check();
            }
        }
        assert_eq!(looked_up, 4 * budget);
        assert_eq!(setup.asked(), looked_up + refreshed);
        let elsewhere = Some(IpAddr::from([192, 0, 2, 5]));
        assert_eq!(ask(&mut service, setup.unknown(elsewhere)).await, 401);
        assert_eq!(setup.asked(), 1);
        setup.clock.advance(Duration::from_secs(31));
    }
    let refused = |reason| setup.recorder.stats().refused_for(reason);
    assert_eq!(
        refused(RejectionReason::Unknown) + refused(RejectionReason::LookupLimit),
        requests + 2
    );
    flood.end(requests);
}

#[tokio::test]
async fn rule_6_a_million_addresses_leave_no_memory_behind() {
    let requests = many(60_000, 1_000_000);
    let mut flood = Flood::begin("unknown keys of as many IPv6 networks", BOUND).await;
    let setup = Setup::new().await;
    let mut service = behind(setup.layer.clone());
    let network = |n: u64| {
        let bits = 0x2001_0db8_u128 << 96 | u128::from(n) << 64;
        Some(IpAddr::from(Ipv6Addr::from_bits(bits)))
    };
    assert_eq!(
        ask(&mut service, request(&setup.good.secret, network(0))).await,
        200
    );
    for n in 0..requests {
        // None of them uses up what others have.
        assert_eq!(ask(&mut service, setup.unknown(network(n))).await, 401);
        if n % 10_000 == 0 {
            let good = request(&setup.good.secret, network(n));
            assert_eq!(ask(&mut service, good).await, 200);
            flood.check();
        }
    }
    assert_eq!(setup.asked(), requests + 1);
    flood.end(requests);
}
