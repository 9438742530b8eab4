//! Digests and imported keys: what is read prints the same, and a key that was imported, by its secret
//! or by the hash of it, is found by that secret alone.
//!
//! The input is a text: a digest's, a hash, and a secret.

use std::cell::LazyCell;

use keytally::backend::{MemoryBackend, MemoryConfig};
use keytally::key::{
    Digest, IssueError, Issuer, Key, KeyAdmin, KeyStore, NewKey, Peppers, StoreError,
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
    SHELF.with(|shelf| {
        shelf.check_hash(text);
        shelf.check_secret(text);
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
        ["sha256", hex] if is_hex(hex) => Some((None, hex)),
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
    // Rule 1.
    let shown = match pepper {
        Some(pepper) => format!("Digest(hmac-sha256:{pepper})"),
        None => "Digest(sha256)".into(),
    };
    assert_eq!(format!("{digest:?}"), shown);
}

fn check_pepper(text: &str) {
    let (name, pepper) = text.split_once(':').unwrap_or((text, ""));
    let fits = is_pepper_name(name) && pepper.len() >= 16;
    let peppers = Peppers::none().with(name, pepper.as_bytes());
    assert_eq!(peppers.is_ok(), fits, "{text}");
    if let Ok(peppers) = peppers {
        assert!(peppers.with(name, b"another of sixteen").is_err());
    }
}

struct Shelf {
    store: MemoryBackend,
    plain: Issuer,
    peppered: Issuer,
}

thread_local! {
    static SHELF: LazyCell<Shelf> = const { LazyCell::new(Shelf::new) };
}

impl Shelf {
    fn new() -> Self {
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        // An audit would keep what was deleted.
        let config = MemoryConfig::new().audit_capacity(0);
        let plain = Issuer::new("acme").unwrap().clock(clock.clone());
        let peppers = Peppers::none().with("2026", b"0123456789abcdef").unwrap();
        Self {
            store: MemoryBackend::with_clock(config, clock),
            peppered: plain.clone().peppers(peppers),
            plain,
        }
    }

    /// A hash is taken over if it is one, as the digest that it is.
    fn check_hash(&self, hex: &str) {
        let imported = self
            .plain
            .import_sha256(&self.store, NewKey::new("a"), hex);
        match now(imported) {
            Ok(key) => {
                assert!(is_hex(hex), "{hex}");
                let kept = now(self.store.find(key.id)).unwrap().unwrap();
                let expected = format!("sha256:{}", hex.to_ascii_lowercase());
                assert_eq!(kept.digest.to_string(), expected);
                self.take_away(&key);
            }
            Err(IssueError::Digest(_)) => assert!(!is_hex(hex), "{hex}"),
            Err(error) => panic!("{error}"),
        }
    }

    /// A secret is taken over if it can be one, under the id that it is looked up by.
    fn check_secret(&self, secret: &str) {
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = KeyId::of_secret(secret);
        let printable = secret.bytes().all(|b| b.is_ascii_graphic());
        let importable = (16..=512).contains(&secret.len()) && printable;
        assert_eq!(id.is_some(), importable, "{secret}");

        let imported = |issuer: &Issuer| {
            let new = NewKey::new("a");
            now(issuer.import_secret(&self.store, new, secret))
        };
        let Some(id) = id else {
            let refused = imported(&self.plain);
            assert!(matches!(refused, Err(IssueError::Secret)), "{refused:?}");
            return;
        };
        let key = imported(&self.peppered).unwrap();
        assert_eq!(key.id, id);
        let kept = now(self.store.find(id)).unwrap().unwrap();
        assert_eq!(kept.digest.pepper(), Some("2026"));
        assert!(!kept.digest.to_string().contains(&hex));
        self.take_away(&key);

        let key = imported(&self.plain).unwrap();
        assert_eq!(key.id, id);
        // Nothing of the secret is stored, but for the id that this crate's own have within.
        assert_eq!(key.hint, format!("imported {}…", &id.as_str()[..4]));
        let kept = now(self.store.find(id)).unwrap().unwrap();
        assert_eq!(kept.digest.to_string(), format!("sha256:{hex}"));
        let again = imported(&self.plain);
        let conflict = |error: &IssueError| matches!(error, IssueError::Store(StoreError::Conflict(known)) if *known == id);
        assert!(again.is_err_and(|error| conflict(&error)));
        self.take_away(&key);

        let by_hash = now(self
            .plain
            .import_sha256(&self.store, NewKey::new("a"), &hex));
        let by_hash = by_hash.unwrap();
        // This crate's own secrets are looked up by the id within them, which no hash tells.
        if !is_secret(secret) {
            assert_eq!(by_hash.id, id);
            assert_eq!(id.as_str(), lowest_digits(&hash));
        }
        self.take_away(&by_hash);
    }

    fn take_away(&self, key: &Key) {
        now(self.store.delete(key.id)).unwrap();
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
