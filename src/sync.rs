//! Synchronization primitives and tasks whose interleavings matter.
//!
//! `scripts/model-check` replaces them with those of a model checker, which explores the interleavings. All other
//! builds use the real ones.

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
pub(crate) mod model;

#[cfg(not(all(test, any(keytally_loom, keytally_shuttle))))]
mod real {
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

    pub(crate) use crossbeam_queue::SegQueue;
    pub(crate) use tokio::sync::{Notify, OnceCell};
    pub(crate) use tokio::task::{AbortHandle, JoinHandle, spawn};
}

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
pub(crate) use model::*;
#[cfg(not(all(test, any(keytally_loom, keytally_shuttle))))]
pub(crate) use real::*;
