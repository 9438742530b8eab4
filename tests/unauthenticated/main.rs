//! Invariant 18: nothing unauthenticated reaches the inner service unless the application named it.
//!
//! Every configuration that lets requests pass, in front of axum, tonic and bare hyper, asked over HTTP/1.1 and
//! HTTP/2. What passes is a list written by hand.

mod http1;
mod http2;
#[allow(dead_code, reason = "the client is not needed")]
#[path = "../../examples/postings/mod.rs"]
mod postings;
#[path = "../support/secrets.rs"]
mod secrets;
mod servers;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keytally::backend::MemoryBackend;
use keytally::key::{Issuer, KeyAdmin, KeyRecord, KeyStore, NewKey, StoreError};
use keytally::usage::Recorder;
use keytally::{ApiKeyLayer, KeyId, StoreFailure, async_trait};

/// A configuration of the layer, and the letter that stands for it in the lists.
struct Setting {
    letter: char,
    fails: bool,
    configure: fn(ApiKeyLayer) -> ApiKeyLayer,
}

/// With exempt paths.
const EXEMPT: char = 'e';
/// With anonymous requests allowed.
const ANONYMOUS: char = 'a';
/// With preflights allowed.
const PREFLIGHT: char = 'p';
/// While the store fails, with requests let pass meanwhile.
const FAILING: char = 'f';
/// With all of these at once.
const ALL: char = '*';

const SETTINGS: [Setting; 8] = [
    Setting {
        letter: 'd',
        fails: false,
        configure: |layer| layer,
    },
    Setting {
        letter: EXEMPT,
        fails: false,
        configure: exempt,
    },
    Setting {
        letter: ANONYMOUS,
        fails: false,
        configure: ApiKeyLayer::allow_anonymous,
    },
    Setting {
        letter: PREFLIGHT,
        fails: false,
        configure: ApiKeyLayer::allow_preflight,
    },
    Setting {
        letter: FAILING,
        fails: true,
        configure: |layer| layer.on_store_failure(StoreFailure::Pass),
    },
    Setting {
        letter: 'r',
        fails: true,
        configure: |layer| layer,
    },
    Setting {
        letter: 'i',
        fails: false,
        configure: ApiKeyLayer::accept_imported,
    },
    Setting {
        letter: ALL,
        fails: true,
        configure: |layer| {
            exempt(layer)
                .allow_anonymous()
                .allow_preflight()
                .on_store_failure(StoreFailure::Pass)
        },
    },
];

/// The letters of a request with a good key: it passes but for a store that fails.
const GOOD: &str = "deapfi";

fn exempt(layer: ApiKeyLayer) -> ApiKeyLayer {
    layer.exempt("/health").exempt("/public/*")
}

/// What there is at every server.
const PATH: &str = "/postings.v1.Postings/Get";

/// A request of a list: what passes with these letters, and with none else.
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
        let issue = async |backend| issuer.issue(backend, NewKey::named("x")).await.unwrap();
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

/// Fails whatever it is asked, where it is told to.
struct Store(MemoryBackend, bool);

#[async_trait]
impl KeyStore for Store {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        if self.1 {
            return Err(StoreError::unavailable("down"));
        }
        self.0.find(id).await
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
            let layer = ApiKeyLayer::new(Store(backend, setting.fails))
                .recorder(recorder.clone())
                .no_lookup_budget();
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
    assert_eq!(
        ways,
        BTreeSet::from([EXEMPT, ANONYMOUS, PREFLIGHT, FAILING, ALL])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_every_way_past_is_named() {
    let ways = compare(&http2::cases(), http2::send).await;
    assert_eq!(
        ways,
        BTreeSet::from([EXEMPT, ANONYMOUS, PREFLIGHT, FAILING, ALL])
    );
}
