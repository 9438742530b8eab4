//! Names, ids and times unique to one run of a suite.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;
use crate::id::KeyId;
use crate::key::{Issuer, KeyRecord, NewKey, Peppers, Prefix, Secret};

/// One run of a suite.
pub(super) struct Fixture {
    /// Part of every name in the run.
    pub(super) tag: KeyId,
    pub(super) owner: String,
    /// Shortly before the current time, in whole microseconds but not whole milliseconds.
    pub(super) now: Timestamp,
    issuer: Issuer,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let tag = id();
        let second = Timestamp::now().as_second();
        let now = micros(second * 1_000_000 - 876_543);
        let peppers = Peppers::new([("conformance", &b"not a secret at all"[..])]);
        Self {
            tag,
            owner: format!("conformance-{tag}"),
            now,
            issuer: Issuer::new("conformance")
                .unwrap_or_else(|_| unreachable!("a valid prefix"))
                .peppers(peppers.unwrap_or_else(|_| unreachable!("a valid pepper")))
                .clock(Clock::manual(now)),
        }
    }

    pub(super) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The record of a new key with this name and the run's owner.
    pub(super) fn record(&self, name: impl Into<String>) -> KeyRecord {
        self.record_of(NewKey::new(name).owner(self.owner.as_str()))
    }

    pub(super) fn record_of(&self, new: NewKey) -> KeyRecord {
        match self.issuer.prepare(new) {
            Ok((_, record)) => record,
            Err(error) => panic!("failed to prepare a key: {error}"),
        }
    }

    /// The time this long after `now`.
    pub(super) fn after(&self, time: Duration) -> Timestamp {
        self.now + SignedDuration::try_from(time).unwrap_or_default()
    }

    /// The time this long before `now`.
    pub(super) fn before(&self, time: Duration) -> Timestamp {
        self.now - SignedDuration::try_from(time).unwrap_or_default()
    }
}

/// A random id that no key has.
pub(super) fn id() -> KeyId {
    Prefix::new("conformance")
        .ok()
        .and_then(|prefix| Secret::generate(&prefix).ok())
        .map_or_else(|| panic!("no source of randomness"), |secret| secret.id())
}

/// A time in microseconds since the Unix epoch.
pub(super) fn micros(time: i64) -> Timestamp {
    Timestamp::from_microsecond(time).unwrap_or_else(|_| unreachable!("a valid time"))
}

/// The earliest valid time of a key: the start of year 1.
pub(super) fn first() -> Timestamp {
    micros(-62_135_596_800_000_000)
}

/// The last microsecond before the earliest valid time.
pub(super) fn too_early() -> Timestamp {
    micros(-62_135_596_800_000_001)
}

/// Strings that break concatenated queries, byte counts taken for character counts, and case or Unicode
/// conversion.
pub(super) fn tricky_strings() -> Vec<String> {
    let mut strings: Vec<String> = [
        "it's \"quoted\" `twice` \\ and \\' once",
        "'); DROP TABLE keys; --",
        "$1 ? :name @p %s {} {0}",
        "50% of_all [a-z]* \\%",
        "مفتاح عربي \u{202e}backwards\u{202c}",
        "e\u{301} is not \u{e9}",
        "zero\u{200b}width\u{feff}",
        " space before and behind ",
        "NULL",
        "ÄRGER mit Жук und straße",
    ]
    .map(Into::into)
    .into();
    strings.push("\u{1f511}".repeat(100));
    strings
}
