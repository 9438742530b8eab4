//! What threads share and tasks wait for, where it matters in which order they come.
//!
//! The library's own in every build but that of `scripts/model-check`, where a model checker puts in its own and
//! tries the orders.

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
