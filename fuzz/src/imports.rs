//! Digests and imported keys: parsed digests round-trip through text, and a key imported by its secret or by
//! its hash is found only by that secret.
//!
//! The input is a string, used as a digest, as a hash and as a secret.

use std::cell::LazyCell;

use keytally::backend::{MemoryBackend, MemoryConfig};
use keytally::key::{
    Actor, Digest, ImportedKey, IssueError, Issuer, Key, KeyAdmin, KeyStore, NewKey, Peppers,
    StoreError,
};
use keytally::{Clock, KeyId};
use sha2::{Digest as _, Sha256};

use crate::now::now;
use crate::secrets::is_secret;

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    check_digest(text);
    check_pepper(text);
    FIXTURE.with(|fixture| {
        fixture.check_hash(text);
        fixture.check_secret(text);
    });
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_pepper_name(text: &str) -> bool {
    let fits = |c| matches!(c, 'a'..='z' | '0'..='9' | '-');
    (1..=32).contains(&text.len()) && text.chars().all(fits)
}

fn check_digest(text: &str) {
    let expected = match text.split(':').collect::<Vec<_>>()[..] {
        ["sha256" | "sha512", hex] if is_hex(hex) => Some((None, hex)),
        ["hmac-sha256", pepper, hex] if is_hex(hex) && is_pepper_name(pepper) => {
            Some((Some(pepper), hex))
        }
        _ => None,
    };
    let read = text.parse::<Digest>();
    assert_eq!(read.is_ok(), expected.is_some(), "{text}");
    let (Ok(digest), Some((pepper, hex))) = (read, expected) else {
        return;
    };
    assert_eq!(digest.pepper(), pepper);
    let printed = text.replace(hex, &hex.to_ascii_lowercase());
    assert_eq!(digest.to_string(), printed);
    assert_eq!(printed.parse(), Ok(digest.clone()));
    let json = serde_json::to_string(&digest).unwrap();
    assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    // Invariant 1: `Debug` output does not reveal the digest.
    let shown = match pepper {
        Some(pepper) => format!("Digest(hmac-sha256:{pepper})"),
        None => format!("Digest({})", &text[..6]),
    };
    assert_eq!(format!("{digest:?}"), shown);
}

fn check_pepper(text: &str) {
    let (name, pepper) = text.split_once(':').unwrap_or((text, ""));
    let fits = is_pepper_name(name) && pepper.len() >= 16;
    let peppers = Peppers::new([(name, pepper.as_bytes())]);
    assert_eq!(peppers.is_ok(), fits, "{text}");
    if let Ok(peppers) = peppers {
        drop(peppers);
        let twice = [(name, pepper.as_bytes()), (name, b"another of sixteen")];
        assert!(Peppers::new(twice).is_err());
    }
}

struct Fixture {
    store: MemoryBackend,
    plain: Issuer,
    peppered: Issuer,
}

thread_local! {
    static FIXTURE: LazyCell<Fixture> = const { LazyCell::new(Fixture::new) };
}

impl Fixture {
    fn new() -> Self {
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        // An audit log would retain deleted keys and grow.
        let config = MemoryConfig::new().audit_capacity(0);
        let plain = Issuer::new("acme").unwrap().clock(clock.clone());
        let peppers = Peppers::new([("2026", &b"0123456789abcdef"[..])]).unwrap();
        Self {
            store: MemoryBackend::with_clock(config, clock),
            peppered: plain.clone().peppers(peppers),
            plain,
        }
    }

    /// Checks that a valid hash is imported as the key's digest, and an invalid one is rejected.
    fn check_hash(&self, text: &str) {
        let imported = self.plain.import(
            &self.store,
            ImportedKey::from_digest(NewKey::new("a"), Digest::from_sha256(text)),
            Actor::SYSTEM,
        );
        match now(imported) {
            Ok(key) => {
                let stored = now(self.store.find(key.id)).unwrap().unwrap();
                let is_printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
                let expected = match text.len() {
                    64 => Some(text.to_ascii_lowercase()),
                    32 if !is_printable => {
                        Some(text.bytes().map(|byte| format!("{byte:02x}")).collect())
                    }
                    // Base64.
                    43 | 44 if is_printable => None,
                    _ => panic!("{text}"),
                };
                if let Some(hex) = expected {
                    assert_eq!(stored.digest.to_string(), format!("sha256:{hex}"));
                }
                self.delete(&key);
            }
            Err(IssueError::Digest(_)) => assert!(!is_hex(text), "{text}"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Checks that a valid secret is imported under the id that lookups derive from it, and an invalid one is
    /// rejected.
    fn check_secret(&self, secret: &str) {
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = KeyId::of_secret(secret);
        let printable = secret.bytes().all(|b| b.is_ascii_graphic());
        let importable = (16..=512).contains(&secret.len()) && printable;
        assert_eq!(id.is_some(), importable, "{secret}");

        let imported = |issuer: &Issuer| {
            let new = NewKey::new("a");
            now(issuer.import(
                &self.store,
                ImportedKey::from_secret(new, secret),
                Actor::SYSTEM,
            ))
        };
        let Some(id) = id else {
            let rejected = imported(&self.plain);
            assert!(
                matches!(rejected, Err(IssueError::InvalidSecret)),
                "{rejected:?}"
            );
            return;
        };
        let key = imported(&self.peppered).unwrap();
        assert_eq!(key.id, id);
        let stored = now(self.store.find(id)).unwrap().unwrap();
        assert_eq!(stored.digest.pepper(), Some("2026"));
        assert!(!stored.digest.to_string().contains(&hex));
        self.delete(&key);

        let key = imported(&self.plain).unwrap();
        assert_eq!(key.id, id);
        // No part of the secret is stored, except for the id contained in secrets of this crate's format.
        assert_eq!(key.hint, format!("imported {}…", &id.as_str()[..4]));
        let stored = now(self.store.find(id)).unwrap().unwrap();
        assert_eq!(stored.digest.to_string(), format!("sha256:{hex}"));
        let again = imported(&self.plain);
        let conflict = |error: &IssueError| matches!(error, IssueError::Store(StoreError::Conflict(known)) if *known == id);
        assert!(again.is_err_and(|error| conflict(&error)));
        self.delete(&key);

        let by_hash = now(self.plain.import(
            &self.store,
            ImportedKey::from_digest(NewKey::new("a"), Digest::from_sha256(&hex)),
            Actor::SYSTEM,
        ));
        let by_hash = by_hash.unwrap();
        // Secrets in this crate's format are looked up by the id they contain, which a hash does not reveal.
        if !is_secret(secret) {
            assert_eq!(by_hash.id, id);
            assert_eq!(id.as_str(), lowest_digits(&hash));
        }
        self.delete(&by_hash);
    }

    fn delete(&self, key: &Key) {
        now(self.store.delete(key.id, Actor::SYSTEM)).unwrap();
    }
}

/// The sixteen lowest base62 digits of a hash's first half, by long division.
fn lowest_digits(hash: &[u8; 32]) -> String {
    let mut number = hash[..16].to_vec();
    let mut digits = Vec::new();
    for _ in 0..16 {
        let mut rest = 0;
        for byte in &mut number {
            let value = rest * 256 + u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        digits.push(match rest {
            0..=9 => b'0' + rest as u8,
            10..=35 => b'A' + rest as u8 - 10,
            _ => b'a' + rest as u8 - 36,
        });
    }
    digits.reverse();
    String::from_utf8(digits).unwrap()
}
