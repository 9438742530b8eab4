//! Floods of unknown keys.

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
use keytally::{ApiKeyLayer, Clock, KeyId, PeerAddress};

use super::measure::{Flood, MIB};
use super::{many, protected_by, status_of, support};

/// The memory that the layer uses for unauthenticated clients: 16,384 negative cache entries and 0.5 MiB of lookup limits.
const BOUND: i64 = 8 * MIB;

/// Counts lookups.
#[derive(Clone, Default)]
struct CountingStore {
    keys: MemoryBackend,
    lookups: Arc<AtomicU64>,
}

#[async_trait]
impl KeyStore for CountingStore {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.keys.find(id).await
    }
}

struct Setup {
    store: CountingStore,
    clock: Clock,
    recorder: Recorder,
    layer: ApiKeyLayer,
    valid: Issued,
    prefix: Prefix,
}

impl Setup {
    async fn new() -> Self {
        let (store, clock) = (
            CountingStore::default(),
            Clock::manual(Timestamp::UNIX_EPOCH),
        );
        let recorder = Recorder::new(store.keys.clone());
        let layer = ApiKeyLayer::new(store.clone()).clock(clock.clone());
        Self {
            valid: support::issue(&store.keys, NewKey::new("valid")).await,
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

    fn take_lookups(&self) -> u64 {
        self.store.lookups.swap(0, Ordering::Relaxed)
    }
}

fn request(secret: &Secret, from: Option<IpAddr>) -> Request<String> {
    let request = Request::get("/").header("x-api-key", secret.expose());
    let mut request = request.body(String::new()).unwrap();
    if let Some(address) = from {
        request.extensions_mut().insert(PeerAddress(address));
    }
    request
}

mod bounded_unauthenticated_state {
    use super::*;

    #[tokio::test]
    async fn unknown_keys_use_bounded_memory() {
        let requests = many(60_000, 10_000_000);
        let mut flood = Flood::begin("unknown keys, each looked up", BOUND).await;
        let setup = Setup::new().await;
        let mut service = protected_by(setup.layer.clone());
        for n in 0..requests {
            assert_eq!(status_of(&mut service, setup.unknown(None)).await, 401);
            if n % 10_000 == 0 {
                flood.check();
            }
        }
        // The client IP is unknown, so there is no lookup limit.
        assert_eq!(setup.take_lookups(), requests);
        let stats = setup.recorder.stats();
        assert_eq!(
            (stats.rejected_for(RejectionReason::Unknown), stats.accepted),
            (requests, 0)
        );
        flood.end(requests);
    }

    #[tokio::test]
    async fn many_client_ips_use_bounded_memory() {
        let requests = many(60_000, 1_000_000);
        let mut flood = Flood::begin("unknown keys from distinct IPv6 networks", BOUND).await;
        let setup = Setup::new().await;
        let mut service = protected_by(setup.layer.clone());
        let network = |n: u64| {
            let bits = 0x2001_0db8_u128 << 96 | u128::from(n) << 64;
            Some(IpAddr::from(Ipv6Addr::from_bits(bits)))
        };
        assert_eq!(
            status_of(&mut service, request(&setup.valid.secret, network(0))).await,
            200
        );
        for n in 0..requests {
            // Each network has its own limit.
            assert_eq!(
                status_of(&mut service, setup.unknown(network(n))).await,
                401
            );
            if n % 10_000 == 0 {
                let valid = request(&setup.valid.secret, network(n));
                assert_eq!(status_of(&mut service, valid).await, 200);
                flood.check();
            }
        }
        assert_eq!(setup.take_lookups(), requests + 1);
        flood.end(requests);
    }
}

#[tokio::test]
async fn unknown_keys_from_few_client_ips_stay_within_the_lookup_limit() {
    let requests = many(60_000, 10_000_000);
    let mut flood = Flood::begin("unknown keys from four client IPs", BOUND).await;
    let setup = Setup::new().await;
    let mut service = protected_by(setup.layer.clone());
    let addresses = [1, 2, 3, 4].map(|n| Some(IpAddr::from([192, 0, 2, n])));
    assert_eq!(
        status_of(&mut service, request(&setup.valid.secret, addresses[0])).await,
        200
    );
    assert_eq!(setup.take_lookups(), 1);
    // A thousand lookups per minute: all at once, and about half as many again after half a minute, when the valid key
    // has to be looked up again.
    for (lookup_limit, refreshed) in [(1_000, 0), (516, 1)] {
        let mut looked_up = 0;
        for n in 0..requests / 2 {
            let from = addresses[n as usize % addresses.len()];
            match status_of(&mut service, setup.unknown(from)).await {
                StatusCode::UNAUTHORIZED => looked_up += 1,
                status => assert_eq!(status, 429),
            }
            if n % 10_000 == 0 {
                let valid = request(&setup.valid.secret, from);
                assert_eq!(status_of(&mut service, valid).await, 200);
                flood.check();
            }
        }
        assert_eq!(looked_up, 4 * lookup_limit);
        assert_eq!(setup.take_lookups(), looked_up + refreshed);
        let elsewhere = Some(IpAddr::from([192, 0, 2, 5]));
        assert_eq!(status_of(&mut service, setup.unknown(elsewhere)).await, 401);
        assert_eq!(setup.take_lookups(), 1);
        setup.clock.advance(Duration::from_secs(31));
    }
    let rejected = |reason| setup.recorder.stats().rejected_for(reason);
    assert_eq!(
        rejected(RejectionReason::Unknown) + rejected(RejectionReason::LookupLimit),
        requests + 2
    );
    flood.end(requests);
}
