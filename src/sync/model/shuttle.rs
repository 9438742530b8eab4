//! Shuttle's part.

use std::env;
use std::sync::Arc;

use ::shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use ::shuttle::{Config, Runner};

use super::time::TIME;

pub(crate) use ::shuttle::future::{AbortHandle, JoinHandle, block_on, spawn};
pub(crate) use ::shuttle::sync::{Mutex, MutexGuard, atomic};
pub(crate) use ::shuttle::thread::spawn as thread;

/// Tries a model in random orders, half of them such that threads are rarely interrupted.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    let half = orders().div_ceil(2);
    let again = model.clone();
    run(RandomScheduler::new(half), move || again());
    run(PctScheduler::new(3, half), move || model());
}

/// Tries a model in every order; it must be a small one.
pub(crate) fn check_all(model: impl Fn() + Send + Sync + 'static) {
    let tried = run(DfsScheduler::new(None, false), model);
    println!("all {tried} orders");
}

/// `KEYTALLY_ORDERS`: a thousand unless set.
fn orders() -> usize {
    let orders = env::var("KEYTALLY_ORDERS").map(|orders| orders.parse().expect("a number"));
    orders.unwrap_or(1_000)
}

fn run(scheduler: impl Scheduler + 'static, model: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    TIME.with(|time| {
        let _entered = time.enter();
        Runner::new(scheduler, config).run(model)
    })
}
