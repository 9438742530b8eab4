//! Secrets, prefixes and key ids: parsed values round-trip through text, and malformed ones are rejected.
//!
//! The input is a string. It is also parsed with a matching checksum appended, which mutation would not find.

use keytally::KeyId;
use keytally::key::{Prefix, Secret};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The number of digits in the id, the secret part and the checksum.
const BODY: usize = 16 + 32 + 6;

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    assert_eq!(Prefix::new(text).is_ok(), is_prefix(text), "{text}");
    check_id(text);
    check_secret(text);
    check_secret(&format!("{text}{}", checksum(text)));
}

fn check_id(text: &str) {
    let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    match text.parse::<KeyId>() {
        Ok(id) => {
            assert!(digits, "{text}");
            assert_eq!(id.as_str(), text);
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<KeyId>(&json).unwrap(), id);
        }
        Err(_) => assert!(!digits, "{text}"),
    }
}

fn check_secret(text: &str) {
    let imported = (16..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    let Ok(secret) = Secret::parse(text) else {
        assert!(!is_secret(text), "{text}");
        assert_eq!(KeyId::of_secret(text).is_some(), imported, "{text}");
        return;
    };
    assert!(is_secret(text), "{text}");
    assert_eq!(secret.expose(), text);
    let starts = text.len() - BODY;
    assert_eq!(secret.id().as_str(), &text[starts..starts + 16]);
    assert_eq!(KeyId::of_secret(text), Some(secret.id()));
    // Invariant 1: the hint shows the first four digits of the id and nothing after them.
    let hint = format!("{}…", &text[..starts + 4]);
    assert_eq!(secret.hint(), hint);
    assert_eq!(format!("{secret:?}"), format!("Secret({hint})"));
    check_modified(text);
}

/// Checks that changing any single character invalidates the secret.
fn check_modified(text: &str) {
    let mut changed = text.as_bytes().to_vec();
    for index in 0..changed.len() {
        let was = changed[index];
        // Stays in the same character class, so that the checksum has to detect it.
        changed[index] = match was {
            b'9' => b'0',
            b'Z' => b'A',
            b'z' => b'a',
            b'_' => b'x',
            other => other + 1,
        };
        let changed_text = std::str::from_utf8(&changed).unwrap();
        assert!(Secret::parse(changed_text).is_err(), "{changed_text}");
        changed[index] = was;
    }
}

pub(crate) fn is_secret(text: &str) -> bool {
    let Some(starts) = text.len().checked_sub(BODY) else {
        return false;
    };
    if !text.is_ascii() {
        return false;
    }
    let (head, body) = text.split_at(starts);
    let prefix = head.strip_suffix('_').is_some_and(is_prefix);
    let digits = body.bytes().all(|b| BASE62.contains(&b));
    prefix && digits && text.ends_with(&checksum(&text[..text.len() - 6]))
}

/// Words of `a-z` and `0-9`, joined with single underscores and starting with a letter.
fn is_prefix(text: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && word.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9'));
    text.len() <= 32 && text.split('_').all(word) && text.starts_with(|c: char| c.is_alphabetic())
}

/// A bitwise CRC-32 as six base62 digits.
fn checksum(text: &str) -> String {
    let mut crc = u32::MAX;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let mut number = !crc;
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(number % 62) as usize];
        number /= 62;
    }
    String::from_utf8(digits.to_vec()).unwrap()
}
