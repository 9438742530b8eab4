//! The stepped wall clock of the process under test. The database and this process are not affected.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::wall_clock::WallClock;
use crate::wire::Control;

pub(crate) struct SteppedClock {
    clock: WallClock,
    /// The offset in seconds and the number of steps so far; `None` during a step.
    settled: Mutex<Option<(i64, u64)>>,
    pub(crate) steps: AtomicU64,
}

/// The offsets in seconds, in turn.
const OFFSETS: [i64; 4] = [3_600, 0, -3_600, 0];

impl SteppedClock {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            clock: WallClock::new(&folder.join("offset")),
            settled: Mutex::new(Some((0, 0))),
            steps: AtomicU64::new(0),
        }
    }

    /// The environment variables of a process that uses this clock.
    pub(crate) fn environment(&self) -> [(&str, &str); 5] {
        self.clock.environment()
    }

    /// The offset in seconds and a number that changes with every step; `None` during a step.
    pub(crate) fn settled(&self) -> Option<(i64, u64)> {
        *self.settled.lock().unwrap()
    }

    /// Steps the clock periodically, waiting each time for the other process to follow.
    pub(crate) async fn step(&self, every: Duration, control: &Control, stop: &AtomicBool) {
        let mut due = Instant::now() + every;
        for offset in OFFSETS.into_iter().cycle() {
            while Instant::now() < due {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.go_to(offset, control).await;
            due += every;
        }
    }

    pub(crate) async fn go_to(&self, offset: i64, control: &Control) {
        *self.settled.lock().unwrap() = None;
        self.clock.set(offset);
        let start = Instant::now();
        loop {
            let ahead = control.status().await.wall.duration_since(Timestamp::now());
            if (ahead - SignedDuration::from_secs(offset)).abs() < SignedDuration::from_secs(60) {
                break;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "the clock has not stepped: it is {ahead:?} ahead instead of {offset} s"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        *self.settled.lock().unwrap() = Some((offset, step));
    }
}
