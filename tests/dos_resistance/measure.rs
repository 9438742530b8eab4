//! Measures the memory that a flood uses.

use std::alloc::System;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Serializes the floods.
static ALONE: Mutex<()> = Mutex::const_new(());

pub(crate) const MIB: i64 = 1 << 20;

/// Memory that the allocator may keep resident beyond what is in use.
const SLACK: i64 = 24 * MIB;

/// Measures a flood: bytes in use and resident bytes.
pub(crate) struct Flood {
    name: &'static str,
    bound: i64,
    start: Instant,
    live: i64,
    resident: i64,
    most: i64,
    _alone: MutexGuard<'static, ()>,
}

impl Flood {
    /// Starts measuring a flood that may use at most `bound` bytes more than are in use at the start.
    pub(crate) async fn begin(name: &'static str, bound: i64) -> Self {
        let _alone = ALONE.lock().await;
        let (live, resident) = (live(), resident());
        Self {
            name,
            bound,
            start: Instant::now(),
            live,
            resident,
            most: 0,
            _alone,
        }
    }

    /// Asserts that the bound holds.
    pub(crate) fn check(&mut self) {
        self.most = self.most.max(live() - self.live);
        let (most, bound) = (self.most, self.bound);
        assert!(
            most <= bound,
            "{}: {most} bytes exceed the bound of {bound}",
            self.name
        );
    }

    /// Asserts the bounds a last time and prints the measurements.
    pub(crate) fn end(mut self, requests: u64) {
        self.check();
        let (secs, resident) = (
            self.start.elapsed().as_secs_f64(),
            resident() - self.resident,
        );
        assert!(
            resident <= self.bound + SLACK,
            "{}: {resident} bytes resident",
            self.name
        );
        let [before, most, bound, resident] =
            [self.live, self.most, self.bound, resident].map(|bytes| bytes as f64 / MIB as f64);
        println!(
            "figure: {}: {requests} requests in {secs:.1} s; {before:.1} MiB in use before, at most {most:.1} MiB more (bound: \
             {bound:.1} MiB); {resident:+.1} MiB resident",
            self.name
        );
    }
}

fn live() -> i64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
}

fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<i64>().unwrap() * 1_024
}
