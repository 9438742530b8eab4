//! A wall clock of another process that can be stepped: libfaketime reads its offset from a file. The monotonic clock is
//! not affected.

use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

impl WallClock {
    /// A clock that is right.
    pub(crate) fn new(file: &Path) -> Self {
        let clock = Self {
            file: file.into(),
            library: library(),
        };
        clock.set(0);
        clock
    }

    /// The environment variables of a process that uses this clock.
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

    /// Sets the offset in seconds.
    pub(crate) fn set(&self, offset: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}

/// The path of the library on Debian.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library = paths.find(|file| file.exists());
    library.expect("libfaketime is missing: install Debian's package `faketime`")
}
