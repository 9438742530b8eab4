//! Invariant 18: nothing unauthenticated reaches the inner service unless the application named it.
//!
//! Every configuration that lets requests pass, in front of axum, tonic and bare hyper, asked over HTTP/1.1 and
//! HTTP/2. What passes is a list written by hand.

mod http1;
mod http2;
use crate::postings;
use crate::secrets;
mod servers;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderName;
use keytally::backend::MemoryBackend;
use keytally::key::{CacheConfig, Issuer, KeyAdmin, KeyRecord, KeyStore, NewKey, StoreError};
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, KeyId, StoreFailure, async_trait};

/// A configuration of the layer, and the letter that stands for it in the lists.
struct Setting {
    letter: char,
    store: Store,
    configure: fn(ApiKeyLayer) -> ApiKeyLayer,
}

/// With exempt paths.
const EXEMPT: char = 'e';
/// With anonymous requests allowed.
const ANONYMOUS: char = 'a';
/// With preflights allowed.
const PREFLIGHT: char = 'p';
/// While the store fails, hangs or panics, with requests let pass meanwhile.
const FAILING: char = 'f';
/// With keys in the query and in a header of the application's.
const SOURCES: char = 's';
/// With all that lets requests pass at once.
const ALL: char = '*';

const fn setting(letter: char, store: Store, configure: fn(ApiKeyLayer) -> ApiKeyLayer) -> Setting {
    Setting {
        letter,
        store,
        configure,
    }
}

const SETTINGS: [Setting; 12] = [
    setting('d', Store::Works, |layer| layer),
    setting(EXEMPT, Store::Works, exempt),
    setting(ANONYMOUS, Store::Works, ApiKeyLayer::allow_anonymous),
    setting(PREFLIGHT, Store::Works, ApiKeyLayer::allow_preflight),
    setting(FAILING, Store::Fails, pass),
    setting(FAILING, Store::Hangs, pass),
    setting(FAILING, Store::Panics, pass),
    setting('r', Store::Fails, |layer| layer),
    setting('i', Store::Works, ApiKeyLayer::accept_imported),
    setting('k', Store::Works, |layer| {
        layer.keep_credential().without_grpc()
    }),
    setting(SOURCES, Store::Works, |layer| {
        let header = HeaderName::from_static("x-custom");
        layer.header(header).insecure_query_parameter("x-api-key")
    }),
    setting(ALL, Store::Fails, |layer| {
        pass(exempt(layer)).allow_anonymous().allow_preflight()
    }),
];

fn pass(layer: ApiKeyLayer) -> ApiKeyLayer {
    let config = CacheConfig::new().lookup_timeout(Duration::from_millis(20));
    layer.on_store_failure(StoreFailure::Pass).cache(config)
}

/// The letters of a request with a good key: it passes unless the store fails and refuses.
const GOOD: &str = "deapfiks";

fn exempt(layer: ApiKeyLayer) -> ApiKeyLayer {
    layer.exempt("/health").exempt("/public/*")
}

/// A path that every server handles.
const PATH: &str = "/postings.v1.Postings/Get";

/// A request, and the letters of the settings that let it pass.
struct Case<R> {
    name: &'static str,
    letters: &'static str,
    request: R,
}

impl<R> Case<R> {
    fn passes(&self, setting: &Setting) -> bool {
        match setting.letter {
            ALL => !self.letters.is_empty(),
            letter => self.letters.contains(letter),
        }
    }
}

/// Secrets for requests.
struct Secrets {
    good: String,
    revoked: String,
    unknown: String,
    /// The id of the good key with another secret.
    wrong: String,
}

impl Secrets {
    async fn new(backend: &MemoryBackend) -> Self {
        let issuer = Issuer::new("acme_test").unwrap();
        let issue = async |backend| issuer.issue(backend, NewKey::new("x")).await.unwrap();
        let (good, revoked) = (issue(backend).await, issue(backend).await);
        backend.revoke(revoked.key.id).await.unwrap();
        let unknown = issue(&MemoryBackend::new()).await;
        Self {
            wrong: secrets::with_a_wrong_secret(good.secret.expose()),
            good: good.secret.expose().to_owned(),
            revoked: revoked.secret.expose().to_owned(),
            unknown: unknown.secret.expose().to_owned(),
        }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{good}", &self.good)
            .replace("{revoked}", &self.revoked)
            .replace("{unknown}", &self.unknown)
            .replace("{wrong}", &self.wrong)
            .replace("{path}", PATH)
    }
}

/// What a store does when it is asked.
#[derive(Clone, Copy)]
enum Store {
    Works,
    Fails,
    Hangs,
    Panics,
}

struct Keys(MemoryBackend, Store);

#[async_trait]
impl KeyStore for Keys {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        match self.1 {
            Store::Works => self.0.find(id).await,
            Store::Fails => Err(StoreError::unavailable("down")),
            Store::Hangs => std::future::pending().await,
            Store::Panics => panic!("a store that panics, on purpose"),
        }
    }
}

/// Counts what reaches the service within.
#[derive(Clone, Default)]
struct Reached(Arc<AtomicU64>);

impl Reached {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// Sends a list of requests to every server in every setting, and holds what was reached against it.
async fn compare<R>(
    cases: &[Case<R>],
    send: impl AsyncFn(SocketAddr, &R, &Secrets) -> Option<String>,
) -> BTreeSet<char> {
    let mut wrong = Vec::new();
    let mut ways = BTreeSet::new();
    for setting in &SETTINGS {
        for (server, serve) in servers::ALL {
            let backend = MemoryBackend::new();
            let secrets = Secrets::new(&backend).await;
            let recorder = Recorder::new(backend.clone());
            let layer = ApiKeyLayer::new(Keys(backend, setting.store))
                .recorder(recorder.clone())
                .no_lookup_limit();
            let reached = Reached::default();
            let address = serve((setting.configure)(layer), reached.clone()).await;
            for case in cases {
                let answer = send(address, &case.request, &secrets).await;
                // Not all servers take all requests.
                let passes = case.passes(setting) && answer.is_some();
                let (times, expected) = (reached.take(), u64::from(passes));
                if times != expected {
                    let (letter, name) = (setting.letter, case.name);
                    wrong.push(format!(
                        "{name} ({letter}, {server}): {times} for {expected}, answered {answer:?}"
                    ));
                }
                if expected > 0 && case.letters != GOOD {
                    ways.insert(setting.letter);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ways
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_1_every_way_past_is_named() {
    let ways = compare(&http1::cases(), http1::send).await;
    assert_eq!(ways, ways_past());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_every_way_past_is_named() {
    let ways = compare(&http2::cases(), http2::send).await;
    assert_eq!(ways, ways_past());
}

/// Each way to pass without a key, and a key that only some settings look for.
fn ways_past() -> BTreeSet<char> {
    BTreeSet::from([EXEMPT, ANONYMOUS, PREFLIGHT, FAILING, SOURCES, ALL])
}
