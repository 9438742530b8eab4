//! Secrets in the documented form that no issuer made.
#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// With a checksum that fits: the CRC-32 of all before it in six digits.
pub fn with_checksum(mut text: String) -> String {
    let number = crc32fast::hash(text.as_bytes());
    for place in (0..6).rev() {
        text.push(DIGITS[(number / 62_u32.pow(place) % 62) as usize].into());
    }
    text
}

/// The same id, another secret, a checksum that fits.
pub fn with_a_wrong_secret(secret: &str) -> String {
    let id_ends = secret.len() - 38;
    with_checksum(format!("{}{}", &secret[..id_ends], "a".repeat(32)))
}
