//! Synchronization primitives and tasks whose interleavings matter.
//!
//! `scripts/model-check` replaces them with those of a model checker, which explores the interleavings. All other
//! builds use the real ones.

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
pub(crate) mod model;

#[cfg(not(all(test, any(keytally_loom, keytally_shuttle))))]
mod real {
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub(crate) use tokio::sync::{Notify, OnceCell};
    pub(crate) use tokio::task::{AbortHandle, JoinHandle, spawn};

    /// The number of the current thread, in the order of their first calls.
    #[inline]
    pub(crate) fn thread_index() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        INDEX.with(|index| {
            if index.get() == usize::MAX {
                index.set(NEXT.fetch_add(1, Ordering::Relaxed));
            }
            index.get()
        })
    }
}

#[cfg(all(test, any(keytally_loom, keytally_shuttle)))]
pub(crate) use model::*;
#[cfg(not(all(test, any(keytally_loom, keytally_shuttle))))]
pub(crate) use real::*;

/// The number of slots for data of threads: a power of two, at least the number of cores.
pub(crate) fn thread_slots() -> usize {
    if cfg!(all(test, any(keytally_loom, keytally_shuttle))) {
        return 2;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.next_power_of_two().min(64)
}
