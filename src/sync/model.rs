//! Replacements for the synchronization primitives that a model checker can control.
//!
//! `shuttle` runs a model under many random schedules and treats every atomic access as sequentially consistent.
//! `loom` explores all schedules that it can distinguish, and lets a load return any value that its ordering
//! allows, however stale. Models that run under both are written once.

#[cfg(keytally_loom)]
mod loom;
#[cfg(keytally_shuttle)]
mod shuttle;
mod time;

use std::ops::Deref;

#[cfg(keytally_loom)]
pub(crate) use self::loom::*;
#[cfg(keytally_shuttle)]
pub(crate) use self::shuttle::*;
#[cfg(keytally_shuttle)]
use self::time::TIME;
use atomic::{AtomicU64, Ordering};

pub(crate) type Notify = Step<tokio::sync::Notify>;
pub(crate) type OnceCell<T> = Step<tokio::sync::OnceCell<T>>;

/// A primitive that is opaque to the checker. Each call is one step, which the checker interleaves with those
/// of other threads. Writes before one step are visible after the next.
#[derive(Debug, Default)]
pub(crate) struct Step<T> {
    steps: AtomicU64,
    inner: T,
}

impl<T> Deref for Step<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.steps.fetch_add(1, Ordering::AcqRel);
        &self.inner
    }
}

/// Advances the simulated time, as one step.
#[cfg(keytally_shuttle)]
pub(crate) fn pass(time: std::time::Duration) {
    ::shuttle::thread::yield_now();
    TIME.with(|runtime| runtime.block_on(tokio::time::advance(time)));
}
