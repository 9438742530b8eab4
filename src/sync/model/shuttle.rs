//! Primitives for shuttle.

use std::env;
use std::sync::Arc;

use ::shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use ::shuttle::{Config, Runner};

use super::time::TIME;

pub(crate) use ::shuttle::future::{AbortHandle, JoinHandle, block_on, spawn};
pub(crate) use ::shuttle::sync::{Mutex, MutexGuard, atomic};
pub(crate) use ::shuttle::thread::spawn as thread;

/// The number of the current thread in the model.
pub(crate) fn thread_index() -> usize {
    ::shuttle::current::get_current_task().map_or(0, usize::from)
}

/// Runs a model under random schedules, half of them with few preemptions.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    let half = schedules().div_ceil(2);
    let again = model.clone();
    run(RandomScheduler::new(half), move || again());
    run(PctScheduler::new(3, half), move || model());
}

/// Runs a model, which must be small, under every schedule.
pub(crate) fn check_all(model: impl Fn() + Send + Sync + 'static) {
    let count = run(DfsScheduler::new(None, false), model);
    println!("explored all {count} schedules");
}

/// The number of random schedules: `KEYTALLY_ORDERS`, 1,000 by default.
fn schedules() -> usize {
    let schedules = env::var("KEYTALLY_ORDERS")
        .map(|schedules| schedules.parse().expect("KEYTALLY_ORDERS is not a number"));
    schedules.unwrap_or(1_000)
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
