//! The cases. The two classes of each must be indistinguishable, unless documented otherwise.

use std::hint::black_box;
use std::time::Duration;

use dudect_bencher::ctbench::BenchFn;
use dudect_bencher::rand::RngExt;
use dudect_bencher::{BenchRng, CtRunner};
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, CacheConfig, Digest, KeyAdmin, KeyRecord, Peppers, Secret};

use crate::harness::{KEYS, Round, reject, reject_after, time, verify};
use crate::secrets::{issued, mistyped, other, sha256, stored, under_pepper};

pub const ALL: [(&str, BenchFn); 12] = [
    ("leaky_early_exit", leaky_early_exit),
    ("leaky_rejection", leaky_rejection),
    ("control_without_difference", control_without_difference),
    ("digest_first_or_last_byte", digest_first_or_last_byte),
    ("known_or_unknown_cached", known_or_unknown_cached),
    (
        "known_or_unknown_beside_verified",
        known_or_unknown_beside_verified,
    ),
    (
        "known_or_unknown_with_peppers",
        known_or_unknown_with_peppers,
    ),
    (
        "known_or_unknown_of_an_older_pepper",
        known_or_unknown_of_an_older_pepper,
    ),
    (
        "known_or_unknown_plain_beside_peppers",
        known_or_unknown_plain_beside_peppers,
    ),
    ("known_or_unknown_uncached", known_or_unknown_uncached),
    ("checksum_first_or_last_digit", checksum_first_or_last_digit),
    ("malformed_or_unknown", malformed_or_unknown),
];

const DAY: Duration = Duration::from_secs(86_400);

/// A layer that looks up each key once.
fn layer(records: impl IntoIterator<Item = KeyRecord>) -> ApiKeyLayer {
    let cached = CacheConfig::new().ttl(DAY).unknown_ttl(DAY);
    ApiKeyLayer::new(store(records)).cache(cached)
}

fn store(records: impl IntoIterator<Item = KeyRecord>) -> MemoryBackend {
    let store = MemoryBackend::new();
    let context = tokio::runtime::Handle::current();
    for record in records {
        context
            .block_on(store.create(record, Actor::SYSTEM))
            .expect("a new key");
    }
    store
}

fn unknown() -> String {
    issued().0.expose().to_owned()
}

/// Existing keys, and a wrong secret for each.
fn known(rng: &mut BenchRng) -> (Vec<KeyRecord>, Vec<String>) {
    (0..KEYS)
        .map(|_| issued())
        .map(|(secret, record)| (record, other(&secret, rng)))
        .unzip()
}

/// A comparison that is not constant-time.
#[inline(never)]
fn early_exit(one: &[u8; 32], other: &[u8; 32]) -> bool {
    for (one, other) in one.iter().zip(other) {
        if black_box(one) != black_box(other) {
            return false;
        }
    }
    true
}

/// Two digests that differ in the first byte only, or in the last byte only.
fn pair(first: bool, rng: &mut BenchRng) -> ([u8; 32], [u8; 32]) {
    let one: [u8; 32] = rng.random();
    let mut other = one;
    other[if first { 0 } else { 31 }] ^= 1;
    (one, other)
}

/// Must be detected: an early exit on its own.
fn leaky_early_exit(runner: &mut CtRunner, rng: &mut BenchRng) {
    time(runner, rng, pair, |(one, other)| early_exit(one, other));
}

/// Must be detected: the same early exit within the noise of a rejection.
fn leaky_rejection(runner: &mut CtRunner, rng: &mut BenchRng) {
    let pairs = [true, false].map(|first| pair(first, rng));
    let round = |rng: &mut BenchRng| {
        let (records, secrets) = known(rng);
        Round {
            layer: layer(records),
            left: secrets.clone(),
            right: secrets,
        }
    };
    reject_after(runner, rng, round, |is_left| {
        let (one, other) = &pairs[usize::from(!is_left)];
        black_box(early_exit(one, other));
    });
}

/// The control: unknown ids in both classes.
fn control_without_difference(runner: &mut CtRunner, rng: &mut BenchRng) {
    reject(runner, rng, |_| Round {
        layer: layer([]),
        left: (0..KEYS).map(|_| unknown()).collect(),
        right: (0..KEYS).map(|_| unknown()).collect(),
    });
}

/// Wrong secrets of the same keys, whose digest differs from the stored one in the first byte, or only in the
/// last bit of the last byte.
fn digest_first_or_last_byte(runner: &mut CtRunner, rng: &mut BenchRng) {
    reject(runner, rng, |rng| {
        let (mut records, mut left, mut right) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..KEYS {
            let (secret, mut record) = issued();
            let mut digest = sha256(secret.expose());
            digest[31] ^= 1;
            record.digest = stored(&digest);
            records.push(record);
            right.push(secret.expose().to_owned());
            let others = std::iter::repeat_with(|| other(&secret, rng));
            left.extend(others.filter(|other| sha256(other)[0] != digest[0]).take(1));
        }
        Round {
            layer: layer(records),
            left,
            right,
        }
    });
}

/// Wrong secrets of existing keys, and unknown ids, both cached.
fn known_or_unknown_cached(runner: &mut CtRunner, rng: &mut BenchRng) {
    reject(runner, rng, |rng| {
        let (records, left) = known(rng);
        let right = (0..KEYS).map(|_| unknown()).collect();
        Round {
            layer: layer(records),
            left,
            right,
        }
    });
}

/// The same on a thread that has verified the right secrets of the keys, in another layer: keys in use are in the
/// caches of the processor.
fn known_or_unknown_beside_verified(runner: &mut CtRunner, rng: &mut BenchRng) {
    reject(runner, rng, |rng| {
        let keys: Vec<_> = (0..KEYS).map(|_| issued()).collect();
        let left = keys.iter().map(|(secret, _)| other(secret, rng)).collect();
        let right = (0..KEYS).map(|_| unknown()).collect();
        let (secrets, records): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        let other = layer(records.clone());
        // Served by a store lookup, the cache and the table of the thread.
        for _ in 0..3 {
            secrets.iter().for_each(|secret| verify(&other, secret));
        }
        Round {
            layer: layer(records),
            left,
            right,
        }
    });
}

/// The same with peppered digests.
fn known_or_unknown_with_peppers(runner: &mut CtRunner, rng: &mut BenchRng) {
    beside_peppers(runner, rng, |digest| under_pepper("one", digest));
}

/// The same with digests under a previous pepper. May be distinguishable.
fn known_or_unknown_of_an_older_pepper(runner: &mut CtRunner, rng: &mut BenchRng) {
    beside_peppers(runner, rng, |digest| under_pepper("two", digest));
}

/// The same with digests from before peppers were configured.
fn known_or_unknown_plain_beside_peppers(runner: &mut CtRunner, rng: &mut BenchRng) {
    beside_peppers(runner, rng, Digest::clone);
}

fn beside_peppers(runner: &mut CtRunner, rng: &mut BenchRng, stored: fn(&Digest) -> Digest) {
    let peppers = [
        ("one", &b"0123456789abcdef"[..]),
        ("two", b"fedcba9876543210"),
    ];
    let peppers = Peppers::new(peppers).expect("two peppers");
    reject(runner, rng, |rng| {
        let (mut records, left) = known(rng);
        for record in &mut records {
            record.digest = stored(&record.digest);
        }
        let right = (0..KEYS).map(|_| unknown()).collect();
        Round {
            layer: layer(records).peppers(peppers.clone()),
            left,
            right,
        }
    });
}

/// The same without caching, so that each request looks up the key. May be distinguishable, since the store
/// copies a record only if it finds one.
fn known_or_unknown_uncached(runner: &mut CtRunner, rng: &mut BenchRng) {
    reject(runner, rng, |rng| {
        let (records, left) = known(rng);
        let right = (0..KEYS).map(|_| unknown()).collect();
        let always = CacheConfig::new()
            .ttl(Duration::ZERO)
            .unknown_ttl(Duration::ZERO);
        let layer = ApiKeyLayer::new(store(records))
            .cache(always)
            .without_lookup_limit();
        Round { layer, left, right }
    });
}

/// The same secrets, mistyped in the first digit of their checksum or in the last.
fn checksum_first_or_last_digit(runner: &mut CtRunner, rng: &mut BenchRng) {
    reject(runner, rng, |_| {
        let secrets: Vec<Secret> = (0..KEYS).map(|_| issued().0).collect();
        let mistyped = |last| {
            secrets
                .iter()
                .map(|secret| mistyped(secret, last))
                .collect()
        };
        Round {
            layer: layer([]),
            left: mistyped(false),
            right: mistyped(true),
        }
    });
}

/// Secrets with a wrong checksum, and unknown ids. May be distinguishable, since the former are rejected before
/// anything is hashed. An attacker who makes up secrets can compute the checksum, too.
fn malformed_or_unknown(runner: &mut CtRunner, rng: &mut BenchRng) {
    reject(runner, rng, |_| {
        let secrets: Vec<Secret> = (0..KEYS).map(|_| issued().0).collect();
        let left = secrets
            .iter()
            .map(|secret| mistyped(secret, true))
            .collect();
        let right = secrets
            .iter()
            .map(|secret| secret.expose().to_owned())
            .collect();
        Round {
            layer: layer([]),
            left,
            right,
        }
    });
}
