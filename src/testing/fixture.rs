//! Everything a test of a protected service needs, wired together.

use std::ops::Deref;
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use super::failing::FailingStore;
use super::tape::Tape;
use crate::backend::{MemoryBackend, MemoryConfig};
use crate::clock::Clock;
use crate::key::{Actor, Issued, Issuer, Key, NewKey, Secret};
use crate::layer::ApiKeyLayer;
use crate::usage::{Recorder, RecorderStats, UsageEvent};

/// An in-memory backend, a manual clock, a recorder, an issuer and a layer, wired together; see the
/// [module](super).
///
/// The clock starts at 10:00 UTC on January 1, 2026 and moves only when [advanced](Self::advance). It drives rate
/// limits, expiry, revocation, cache ages and event times.
#[derive(Debug)]
pub struct Fixture {
    backend: MemoryBackend,
    store: FailingStore<MemoryBackend>,
    clock: Clock,
    issuer: Issuer,
    recorder: Recorder,
    tape: Tape,
    layer: ApiKeyLayer,
}

/// 2026-01-01T10:00:00Z.
const START: i64 = 1_767_261_600;

impl Fixture {
    /// A fixture without keys.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, which the recorder needs.
    #[expect(clippy::new_without_default, reason = "it starts a task and may panic")]
    pub fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_second(START).unwrap_or_default());
        let backend = MemoryBackend::with_clock(MemoryConfig::new(), clock.clone());
        let store = FailingStore::new(backend.clone());
        let tape = Tape::over(backend.clone());
        let recorder = Recorder::new(tape.clone());
        Self {
            issuer: Issuer::new("test")
                .unwrap_or_else(|_| unreachable!("a valid prefix"))
                .clock(clock.clone()),
            layer: ApiKeyLayer::new(store.clone())
                .clock(clock.clone())
                .recorder(recorder.clone()),
            backend,
            store,
            clock,
            recorder,
            tape,
        }
    }

    /// Issues a key.
    ///
    /// # Panics
    ///
    /// If a field of `new` is invalid.
    pub async fn issue(&self, new: NewKey) -> TestKey {
        match self.issuer.issue(&self.backend, new, Actor::SYSTEM).await {
            Ok(Issued { secret, key }) => TestKey { key, secret },
            Err(error) => panic!("failed to issue the key: {error}"),
        }
    }

    /// The layer, to be configured further and applied to your service. All layers derived from it share the state
    /// of the rate limits.
    pub fn layer(&self) -> ApiKeyLayer {
        self.layer.clone()
    }

    /// Advances the clock.
    pub fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// The manual clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The backend, for changing keys and querying usage. It works even during an outage of the
    /// [store](Self::store).
    pub fn backend(&self) -> &MemoryBackend {
        &self.backend
    }

    /// The store that the layer uses, for simulating outages.
    ///
    /// Cached keys keep working until their cache entries are thirty seconds old: advance the clock beyond that to
    /// see the outage.
    pub fn store(&self) -> &FailingStore<MemoryBackend> {
        &self.store
    }

    /// The issuer, for rotating and importing keys in the [backend](Self::backend).
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The recorder, for layers that you build yourself.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The events recorded so far, ordered by time. Events with the same time are in order of completion.
    ///
    /// A request is recorded when its response body has been read to the end or is dropped; if dropped before the
    /// end, it is recorded as cancelled. Requests whose response is still held are not included, but counted in
    /// [`RecorderStats::in_flight`].
    pub async fn events(&self) -> Vec<UsageEvent> {
        self.recorder.flush().await;
        let mut events = self.tape.events();
        events.sort_by_key(|event| event.time);
        events
    }

    /// The recorder's counters, including rejections without a known key.
    pub async fn stats(&self) -> RecorderStats {
        self.recorder.flush().await;
        self.recorder.stats()
    }
}

/// A key and its secret. Dereferences to the [`Key`] as it was when issued.
#[derive(Debug)]
#[non_exhaustive]
pub struct TestKey {
    /// The key.
    pub key: Key,
    /// Its secret in plain text, for example for `x-api-key`, or to test a modified secret.
    pub secret: Secret,
}

impl TestKey {
    /// The value of an `Authorization` header: `Bearer test_…`.
    pub fn bearer(&self) -> HeaderValue {
        let text = format!("Bearer {}", self.secret.expose());
        let value = HeaderValue::try_from(text);
        let mut value = value.unwrap_or_else(|_| unreachable!("a secret is printable ASCII"));
        value.set_sensitive(true);
        value
    }
}

impl Deref for TestKey {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.key
    }
}
