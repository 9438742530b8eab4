//! Secrets that are invalid in a known way.

use dudect_bencher::BenchRng;
use dudect_bencher::rand::RngExt;
use keytally::key::{Issuer, KeyRecord, NewKey, Secret};
use sha2::{Digest, Sha256};

/// Lengths of the secret part and of the checksum, at the end of a secret.
const SECRET: usize = 32;
const CHECKSUM: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A newly issued secret and its record.
pub fn issued() -> (Secret, KeyRecord) {
    let issuer = Issuer::new("acme_live").expect("a prefix");
    issuer.prepare(NewKey::new("x")).expect("randomness")
}

/// Another secret with the same id and a valid checksum.
pub fn other(secret: &Secret, rng: &mut BenchRng) -> String {
    let text = secret.expose();
    let starts = text.len() - SECRET - CHECKSUM;
    let digits = (0..SECRET).map(|_| char::from(DIGITS[rng.random_range(0..DIGITS.len())]));
    let other: String = text[..starts].chars().chain(digits).collect();
    let other = format!("{other}{}", checksum(&other));
    assert!(Secret::parse(&other).is_ok_and(|parsed| parsed.id() == secret.id()));
    other
}

/// The secret with a wrong first or last digit of its checksum.
pub fn mistyped(secret: &Secret, last: bool) -> String {
    let text = secret.expose();
    let at = if last {
        text.len() - 1
    } else {
        text.len() - CHECKSUM
    };
    let other = if &text[at..=at] == "0" { "1" } else { "0" };
    let mistyped = [&text[..at], other, &text[at + 1..]].concat();
    assert!(Secret::parse(&mistyped).is_err());
    mistyped
}

pub fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// A digest as stored.
pub fn stored(digest: &[u8; 32]) -> keytally::key::Digest {
    keytally::key::Digest::from_sha256(digest).expect("32 bytes")
}

/// The same digest bytes, marked as computed under a pepper.
pub fn under_pepper(name: &str, digest: &keytally::key::Digest) -> keytally::key::Digest {
    let text = digest
        .to_string()
        .replace("sha256:", &format!("hmac-sha256:{name}:"));
    text.parse().expect("a digest")
}

fn checksum(text: &str) -> String {
    let mut number = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    String::from_utf8_lossy(&digits).into_owned()
}
