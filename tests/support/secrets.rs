//! Well-formed secrets that no issuer has generated.
#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Appends a valid checksum: the CRC-32 of the preceding text as six base-62 digits.
pub fn with_checksum(mut text: String) -> String {
    let number = crc32fast::hash(text.as_bytes());
    for place in (0..6).rev() {
        text.push(DIGITS[(number / 62_u32.pow(place) % 62) as usize].into());
    }
    text
}

/// A secret with the same id, a different random part and a valid checksum.
pub fn with_a_wrong_secret(secret: &str) -> String {
    let id_end = secret.len() - 38;
    with_checksum(format!("{}{}", &secret[..id_end], "a".repeat(32)))
}
