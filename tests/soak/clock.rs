//! The clock of the process under test, which is stepped: libfaketime reads the offset from a file. What
//! has passed since is never wrong there, and the database and this process have the true time.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::wire::Control;

pub(crate) struct SteppedClock {
    file: PathBuf,
    library: PathBuf,
    /// The offset in seconds, and how often it was changed; nothing while it changes.
    settled: Mutex<Option<(i64, u64)>>,
    pub(crate) steps: AtomicU64,
}

/// The offsets, in turn.
const OFFSETS: [i64; 4] = [3_600, 0, -3_600, 0];

impl SteppedClock {
    pub(crate) fn new(folder: &Path) -> Self {
        let clock = Self {
            file: folder.join("offset"),
            library: library(),
            settled: Mutex::new(Some((0, 0))),
            steps: AtomicU64::new(0),
        };
        clock.set(0);
        clock
    }

    /// The environment of a process that goes by this clock.
    pub(crate) fn environment(&self) -> [(&str, &str); 5] {
        [
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            // The file is read again every second.
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
    }

    fn set(&self, offset: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// The offset in seconds and a number that is another one after every step.
    pub(crate) fn settled(&self) -> Option<(i64, u64)> {
        *self.settled.lock().unwrap()
    }

    /// Steps the clock again and again, and sees to it that the other process follows.
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
        self.set(offset);
        let began = Instant::now();
        loop {
            let ahead = control.about().await.wall.duration_since(Timestamp::now());
            if (ahead - SignedDuration::from_secs(offset)).abs() < SignedDuration::from_secs(60) {
                break;
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "the clock is not stepped: it is {ahead:?} ahead instead of {offset} s"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        *self.settled.lock().unwrap() = Some((offset, step));
    }
}

/// Where Debian has the library.
fn library() -> PathBuf {
    let places = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let mut found = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    let found = found.find(|file| file.exists());
    found.expect("libfaketime is not installed (Debian: faketime)")
}
