//! What a model checker can follow, in place of what the library shares otherwise.
//!
//! `shuttle` runs a model in many random orders, and takes every atomic access as sequentially consistent.
//! `loom` runs it in all orders that differ in something loom can see, and lets a load answer what its
//! ordering allows, however old. A model that both can run is written once.

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

pub(crate) type SegQueue<T> = Step<crossbeam_queue::SegQueue<T>, false>;
pub(crate) type Notify = Step<tokio::sync::Notify, true>;
pub(crate) type OnceCell<T> = Step<tokio::sync::OnceCell<T>, true>;

/// Something that a checker cannot look into. Each call is a step, which it puts before or after those of
/// other threads; only where `ORDERS`, what came before one such step is seen after the next. The queue
/// promises its readers no more than what is in it.
#[derive(Debug, Default)]
pub(crate) struct Step<T, const ORDERS: bool> {
    steps: AtomicU64,
    inner: T,
}

impl<T, const ORDERS: bool> Deref for Step<T, ORDERS> {
    type Target = T;

    fn deref(&self) -> &T {
        let order = if ORDERS {
            Ordering::AcqRel
        } else {
            Ordering::Relaxed
        };
        self.steps.fetch_add(1, order);
        &self.inner
    }
}

/// Lets time pass: one step.
#[cfg(keytally_shuttle)]
pub(crate) fn pass(time: std::time::Duration) {
    ::shuttle::thread::yield_now();
    TIME.with(|runtime| runtime.block_on(tokio::time::advance(time)));
}
