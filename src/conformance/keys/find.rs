//! Key lookups, as needed on the request path.

use super::steps::{expect, find_key};
use crate::conformance::assert::equal;
use crate::conformance::fixture;
use crate::id::KeyId;
use crate::key::{KeyRecord, KeyStore};

/// Checks a store that supports lookups only. It must hold `record`, which must not change meanwhile.
///
/// # Panics
///
/// If the store breaks one of these rules:
///
/// - Every lookup of a key by its id returns all fields and the digest, but not the
///   [encrypted secret](KeyRecord::encrypted_secret).
/// - Looking up an unknown id returns `None`, not an error.
/// - Ids are compared exactly, including case.
pub async fn key_store<S: KeyStore + ?Sized>(store: &S, record: &KeyRecord) {
    for _ in 0..2 {
        expect(
            store,
            &record.redacted(),
            "a key is found by its id, with all its fields",
        )
        .await;
        let unknown = find_key(store, fixture::id()).await;
        equal(
            &unknown,
            &None,
            "looking up an unknown id returns None, not an error",
        );
    }
    for other in similar_ids(record.key.id) {
        let found = find_key(store, other).await;
        equal(&found, &None, "ids are compared exactly, including case");
    }
}

/// Ids that differ in one digit or in the case of their letters.
fn similar_ids(id: KeyId) -> Vec<KeyId> {
    let swap_case = |b: u8| match b {
        b if b.is_ascii_lowercase() => b.to_ascii_uppercase(),
        b => b.to_ascii_lowercase(),
    };
    let text = id.as_str();
    let digits = text.as_bytes();
    let first = if digits[0] == b'0' { '1' } else { '0' };
    let last = if digits[KeyId::LEN - 1] == b'0' {
        '1'
    } else {
        '0'
    };
    let swapped: String = digits.iter().map(|&b| char::from(swap_case(b))).collect();
    [
        format!("{first}{}", &text[1..]),
        format!("{}{last}", &text[..KeyId::LEN - 1]),
        swapped,
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .filter(|other| *other != id)
    .collect()
}
