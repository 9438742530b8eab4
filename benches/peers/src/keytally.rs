//! keytally with all features in use: one rate limit, headers, and an event per request, recorded into the memory
//! backend.

use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, KeyAdmin, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use tokio::runtime::Runtime;

use crate::Template;

/// Requests between two flushes of the recorder: fewer than fit into its queue.
pub const CHUNK: u64 = 16_384;

pub struct Keytally {
    pub layer: ApiKeyLayer,
    pub recorder: Recorder,
    pub allowed: Template,
    pub limited: Template,
    pub unknown: Template,
    pub malformed: Template,
    /// The secret of the `allowed` key.
    pub secret: String,
    pub runtime: Runtime,
}

impl Keytally {
    /// Waits until all events recorded so far are written.
    pub fn drain(&self) {
        self.runtime.block_on(self.recorder.flush());
    }

    /// Checks that every request was recorded: a measurement that loses events would be invalid.
    pub fn assert_nothing_lost(&self) {
        self.drain();
        let stats = self.recorder.stats();
        assert_eq!((stats.lost, stats.queued, stats.in_flight), (0, 0, 0));
        assert_eq!(stats.accepted, stats.written);
    }
}

/// The recorder's task runs on a thread of its own, as in a server.
pub fn keytally() -> Keytally {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let backend = MemoryBackend::new();
    let recorder = {
        let _context = runtime.enter();
        Recorder::new(backend.clone())
    };
    let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
    let issuer = Issuer::new("acme_live").unwrap();
    let issue = |name, limit| {
        let new = NewKey::new(name).owner("customer-17").limit(limit);
        runtime
            .block_on(issuer.issue(&backend, new, Actor::SYSTEM))
            .unwrap()
    };
    let wide = RateLimit::per_second(10_000_000).with_burst(100_000_000);
    let allowed = issue("allowed", wide.clone());
    let limited = issue("limited", RateLimit::per_hour(1));
    let deleted = issue("deleted", wide);
    runtime
        .block_on(backend.delete(deleted.key.id, Actor::SYSTEM))
        .unwrap();
    let malformed = format!("{}0", &allowed.secret.expose()[..63]);
    Keytally {
        layer,
        recorder,
        allowed: Template::presenting(allowed.secret.expose()),
        limited: Template::presenting(limited.secret.expose()),
        unknown: Template::presenting(deleted.secret.expose()),
        malformed: Template::presenting(&malformed),
        secret: allowed.secret.expose().to_owned(),
        runtime,
    }
}
