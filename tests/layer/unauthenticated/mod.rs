//! Invariant 18: no unauthenticated request reaches the inner service unless the application allows it explicitly.
//!
//! Every configuration that admits such requests is tested in front of axum, tonic and plain hyper, over HTTP/1.1 and
//! HTTP/2. The expected results are written by hand.

mod http1;
mod http2;
use crate::postings;
use crate::secrets;
mod servers;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::HeaderName;
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, CacheConfig, Issuer, KeyAdmin, KeyRecord, KeyStore, NewKey, StoreError,
};
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, CredentialSource, KeyId, StoreFailure, async_trait};

/// A configuration of the layer, and the letter that identifies it in the case lists.
struct Setting {
    letter: char,
    store: Store,
    configure: fn(ApiKeyLayer) -> ApiKeyLayer,
}

/// Exempt paths.
const EXEMPT: char = 'e';
/// Anonymous requests allowed.
const ANONYMOUS: char = 'a';
/// CORS preflights allowed.
const PREFLIGHT: char = 'p';
/// `StoreFailure::Admit`, with a store that fails, hangs or panics.
const FAILING: char = 'f';
/// Keys in the query string and in a custom header.
const SOURCES: char = 's';
/// All settings that admit requests without a key, combined, with a failing store.
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
    setting(PREFLIGHT, Store::Works, ApiKeyLayer::allow_preflights),
    setting(FAILING, Store::Fails, pass),
    setting(FAILING, Store::Hangs, pass),
    setting(FAILING, Store::Panics, pass),
    setting('r', Store::Fails, |layer| layer),
    setting('i', Store::Works, ApiKeyLayer::accept_imported),
    setting('k', Store::Works, |layer| {
        layer.keep_credential().without_grpc()
    }),
    setting(SOURCES, Store::Works, |layer| {
        let more = [
            CredentialSource::Header(HeaderName::from_static("x-custom")),
            CredentialSource::insecure_query_parameter("x-api-key"),
        ];
        layer.credential_sources(CredentialSource::DEFAULT.into_iter().chain(more))
    }),
    setting(ALL, Store::Fails, |layer| {
        pass(exempt(layer)).allow_anonymous().allow_preflights()
    }),
];

fn pass(layer: ApiKeyLayer) -> ApiKeyLayer {
    let config = CacheConfig::new().lookup_timeout(Duration::from_millis(50));
    layer.on_store_failure(StoreFailure::Admit).cache(config)
}

/// The settings that admit a request with a valid key: all but a failing store without `StoreFailure::Admit`.
const GOOD: &str = "deapfiks";

fn exempt(layer: ApiKeyLayer) -> ApiKeyLayer {
    layer.exempt("/health").exempt("/public/*")
}

/// A path with a handler on every server.
const PATH: &str = "/postings.v1.Postings/Get";

/// A request, and the letters of the settings that admit it.
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

/// Secrets that replace placeholders in requests.
struct Secrets {
    good: String,
    revoked: String,
    unknown: String,
    /// The valid key's id with a wrong secret.
    wrong: String,
}

impl Secrets {
    async fn new(backend: &MemoryBackend) -> Self {
        let issuer = Issuer::new("acme_test").unwrap();
        let issue = async |backend| {
            issuer
                .issue(backend, NewKey::new("x"), Actor::SYSTEM)
                .await
                .unwrap()
        };
        let (good, revoked) = (issue(backend).await, issue(backend).await);
        backend.revoke(revoked.key.id, Actor::SYSTEM).await.unwrap();
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

/// How the store behaves on lookup.
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
            Store::Panics => panic!("simulated store panic"),
        }
    }
}

/// Counts requests that reach the inner service.
#[derive(Clone, Default)]
struct Reached(Arc<AtomicU64>);

impl Reached {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// Sends every request to every server in every setting and compares which ones reach the inner service.
///
/// Returns the letters of the settings that admitted an unauthenticated request.
async fn compare<R>(
    cases: &[Case<R>],
    send: impl AsyncFn(SocketAddr, &R, &Secrets) -> Option<String>,
) -> BTreeSet<char> {
    let failures = RefCell::new(Vec::new());
    let admitting = RefCell::new(BTreeSet::new());
    let compare_one = async |setting: &Setting, server, serve: servers::Serve| {
        let backend = MemoryBackend::new();
        let secrets = Secrets::new(&backend).await;
        let recorder = Recorder::new(backend.clone());
        let layer = ApiKeyLayer::new(Keys(backend, setting.store))
            .recorder(recorder.clone())
            .without_lookup_limit();
        let reached = Reached::default();
        let address = serve((setting.configure)(layer), reached.clone()).await;
        for case in cases {
            let response = send(address, &case.request, &secrets).await;
            // Not every server supports every request.
            let passes = case.passes(setting) && response.is_some();
            let (times, expected) = (reached.take(), u64::from(passes));
            if times != expected {
                let (letter, name) = (setting.letter, case.name);
                failures.borrow_mut().push(format!(
                    "{name} ({letter}, {server}): reached {times} times, expected {expected}, response {response:?}"
                ));
            }
            if expected > 0 && case.letters != GOOD {
                admitting.borrow_mut().insert(setting.letter);
            }
        }
    };
    // Concurrently, since some requests wait.
    let servers = SETTINGS.iter().flat_map(|setting| {
        servers::ALL.map(|(server, serve)| compare_one(setting, server, serve))
    });
    let mut running: Vec<_> = servers.map(Box::pin).collect();
    poll_fn(|cx| {
        running.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        match running.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    let failures = failures.take();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    admitting.take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_requests_pass_without_a_key_only_where_configured() {
    let admitting = compare(&http1::cases(), http1::send).await;
    assert_eq!(admitting, bypass_settings());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_requests_pass_without_a_key_only_where_configured() {
    let admitting = compare(&http2::cases(), http2::send).await;
    assert_eq!(admitting, bypass_settings());
}

/// The settings that admit requests without a key, and the one that reads keys from other places.
fn bypass_settings() -> BTreeSet<char> {
    BTreeSet::from([EXEMPT, ANONYMOUS, PREFLIGHT, FAILING, SOURCES, ALL])
}
