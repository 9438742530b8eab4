//! Everything that a protected service needs, wired together.

use std::ops::Deref;
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use super::failing::FailingStore;
use super::tape::Tape;
use crate::backend::{MemoryBackend, MemoryConfig};
use crate::clock::Clock;
use crate::key::{Issued, Issuer, Key, NewKey, Secret};
use crate::layer::ApiKeyLayer;
use crate::usage::{Recorder, RecorderStats, UsageEvent};

/// A backend, a clock, a recorder, an issuer and a layer that belong together; see the
/// [module](super).
///
/// The clock shows 10:00 UTC on the first of January 2026 until it is turned: limits, expiry,
/// revocation, the ages of caches and the times of events all follow it.
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
    /// A fixture without any key.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, where its recorder works.
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
    /// When a field is out of bounds.
    pub async fn issue(&self, new: NewKey) -> TestKey {
        match self.issuer.issue(&self.backend, new).await {
            Ok(Issued { secret, key }) => TestKey { key, secret },
            Err(error) => panic!("the key cannot be issued: {error}"),
        }
    }

    /// The layer, to be put in front of your service and configured further. What keys have spent is
    /// shared by all that come from it.
    pub fn layer(&self) -> ApiKeyLayer {
        self.layer.clone()
    }

    /// Turns the clock forward.
    pub fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Where keys and usage are kept: to change keys and to ask for summaries, also while the
    /// [store](Self::store) fails.
    pub fn backend(&self) -> &MemoryBackend {
        &self.backend
    }

    /// The store as the layer sees it, to be switched off and on.
    ///
    /// Keys that the layer knows go on working until its cache is thirty seconds old: turn the clock
    /// past that to see the outage.
    pub fn store(&self) -> &FailingStore<MemoryBackend> {
        &self.store
    }

    /// The issuer, to rotate and import keys in the [backend](Self::backend).
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The recorder, for layers made by hand.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What was recorded so far, by time; what happened at the same time in the order in which it
    /// ended.
    ///
    /// A request is recorded when the body of its answer was read to the end, or dropped: then as
    /// cancelled, if there was more to read. One whose answer is still held is not among them, but
    /// counted in [`RecorderStats::open`].
    pub async fn events(&self) -> Vec<UsageEvent> {
        self.recorder.flush().await;
        let mut events = self.tape.events();
        events.sort_by_key(|event| event.time);
        events
    }

    /// What the recorder counted so far, refusals without a known key included.
    pub async fn stats(&self) -> RecorderStats {
        self.recorder.flush().await;
        self.recorder.stats()
    }
}

/// A key that a test may use: also [`Key`] itself, as it was when it was issued.
#[derive(Debug)]
#[non_exhaustive]
pub struct TestKey {
    /// The key.
    pub key: Key,
    /// Its plain text, for `x-api-key` and for spoiling it.
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
