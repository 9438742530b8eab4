//! Who is calling, for handlers.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use uuid::Uuid;

use super::credential::StrippedCredentials;
use crate::key::{CachedKey, Key};
use crate::usage::Recorder;

/// Whoever sent the request: the key, without its digest. In the request's extensions, and with the
/// `axum` feature an extractor.
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
    /// What was taken out of the request, for layers further in; nobody else can reach it.
    pub(super) taken: StrippedCredentials,
    /// The recorder that accounts for the request.
    pub(super) recorder: usize,
    /// The layer that admitted the request, by its `limits_id`.
    pub(super) admitted_by: u64,
}

impl Caller {
    pub(super) fn is_recorded_by(&self, recorder: &Recorder) -> bool {
        self.recorder == recorder.id()
    }

    /// The key.
    pub fn key(&self) -> &Arc<Key> {
        &self.entry.key
    }

    /// The id of the event under which this request is accounted; its `x-request-id` too, unless
    /// the client sent one of its own.
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

/// The caller that an outer layer let in, for layers further in alone.
#[derive(Clone)]
pub(super) struct OuterCaller(pub(super) Caller);

/// A request that the layer let pass without verifying its key, because the store failed and it was
/// told to: in the request's extensions, so that handlers can be careful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unverified;

/// Marks a request that is accounted for without a key, for layers further in: one that finds a key
/// accounts for it instead.
#[derive(Clone)]
pub(super) struct AnonymousMark {
    /// The id of the event, unless it gives way.
    pub(super) id: Uuid,
    pub(super) recorder: usize,
    pub(super) superseded: Arc<AtomicBool>,
}
