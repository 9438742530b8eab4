//! [`Caller`]: the authenticated key of a request, for handlers.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::Extensions;
use uuid::Uuid;

use super::cost::{Cost, FinalCost};
use super::credential::StrippedCredentials;
use crate::clock::Now;
use crate::key::{CachedKey, Key};
use crate::usage::Recorder;

/// The authenticated key of a request, without its digest.
///
/// [`ApiKeyLayer`](super::ApiKeyLayer) inserts it into the request's extensions. With the `axum` feature it is an
/// extractor.
///
/// ```
/// use keytally::Caller;
///
/// fn greet(caller: &Caller) -> String {
///     format!("hello {}, you are {:?}", caller.name, caller.owner)
/// }
/// ```
#[derive(Clone)]
pub struct Caller {
    pub(super) entry: Arc<CachedKey>,
    pub(super) event_id: Uuid,
    /// The credentials removed from the request, for nested layers only.
    pub(super) stripped: StrippedCredentials,
    /// The id of the recorder that records the request.
    pub(super) recorder: usize,
    /// The `limits_id` of the layer that admitted the request.
    pub(super) admitted_by: u64,
    /// The cost charged to the rate limits, and when.
    pub(super) charged: u32,
    pub(super) charged_at: Now,
    pub(super) final_cost: FinalCost,
}

impl Caller {
    /// Creates the caller of an unrecorded request with this key, for unit tests of handlers.
    ///
    /// ```
    /// use keytally::Caller;
    /// use keytally::key::Key;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let key = Key::new("3fK9aB0000zzZZ19".parse()?, "test", "2026-11-01T10:00:00Z".parse()?);
    /// let caller = Caller::new(key);
    /// assert_eq!(caller.name, "test");
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "testing")]
    pub fn new(key: Key) -> Self {
        Self {
            entry: Arc::new(CachedKey::new(key)),
            event_id: Uuid::nil(),
            stripped: StrippedCredentials::new(),
            recorder: 0,
            admitted_by: u64::MAX,
            charged: 0,
            charged_at: Now::ORIGIN,
            final_cost: FinalCost::new(),
        }
    }

    pub(super) fn is_recorded_by(&self, recorder: &Recorder) -> bool {
        self.recorder == recorder.id()
    }

    /// Returns the key.
    pub fn key(&self) -> &Arc<Key> {
        &self.entry.key
    }

    /// Sets the cost of the request in the recorded usage, for costs that are known only while or after the request is
    /// processed, such as tokens, rows or kilobytes. Defaults to the [cost](super::ApiKeyLayer::cost) charged to the
    /// rate limits, which are not affected. Has no effect on requests that are not recorded.
    ///
    /// The last cost set before the end of the response body is recorded. A body can hold a clone of the caller and
    /// charge for what it has sent. A [`Cost`] in the extensions of the response also sets the cost.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] {
    /// use keytally::Caller;
    ///
    /// async fn complete(caller: Caller) -> String {
    ///     let (text, tokens) = ("a completion".to_owned(), 2);
    ///     caller.charge(tokens);
    ///     text
    /// }
    /// # }
    /// ```
    pub fn charge(&self, cost: u32) {
        self.final_cost.set(Cost(cost));
    }

    /// Returns the cost set by [`charge`](Self::charge), or `None`.
    pub fn charged(&self) -> Option<u32> {
        self.final_cost.get().map(|Cost(cost)| cost)
    }

    /// Returns the id of the request's event, a UUIDv7. It is also the `x-request-id`, unless the client sent one.
    pub fn event_id(&self) -> Uuid {
        self.event_id
    }
}

impl Deref for Caller {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.entry.key
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("key", &self.entry.key.id)
            .field("name", &self.entry.key.name)
            .field("event_id", &self.event_id)
            .finish()
    }
}

/// The caller admitted by an outer layer, hidden from handlers because a nested layer could not verify its key.
#[derive(Clone)]
pub(super) struct OuterCaller(pub(super) Caller);

/// Marks a request that was admitted without verifying its key, because the store failed and
/// [`StoreFailure::Admit`](super::StoreFailure::Admit) is set. Inserted into the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unverified;

/// Marks a request that was admitted without changes, such as a preflight or one with an exempt path.
#[derive(Clone)]
pub(super) struct Unchanged;

/// Whether an [`ApiKeyLayer`](super::ApiKeyLayer) has admitted the request, possibly without a key.
pub(super) fn is_admitted(extensions: &Extensions) -> bool {
    extensions.get::<Caller>().is_some()
        || extensions.get::<AnonymousMark>().is_some()
        || extensions.get::<Unverified>().is_some()
        || extensions.get::<Unchanged>().is_some()
}

/// Marks a request recorded as anonymous. A nested layer that authenticates a key records it instead.
#[derive(Clone)]
pub(super) struct AnonymousMark {
    /// The id of the anonymous event.
    pub(super) id: Uuid,
    pub(super) recorder: usize,
    pub(super) superseded: Arc<AtomicBool>,
}
