//! Looking keys up: what the request path needs.

use super::steps::{expect, found};
use crate::conformance::assert::same;
use crate::conformance::fixture;
use crate::id::KeyId;
use crate::key::{KeyRecord, KeyStore};

/// Checks a store that keys are only looked up in. It must hold this record, and nobody may change
/// it meanwhile.
///
/// # Panics
///
/// When the store breaks one of these rules:
///
/// - A key is found by its id, with all its fields and its digest, as often as it is asked for; without its
///   [sealed secret](KeyRecord::sealed), if it has one.
/// - An unknown id is `None`, not an error.
/// - Ids are compared exactly: another case is another id.
pub async fn key_store<S: KeyStore + ?Sized>(store: &S, record: &KeyRecord) {
    for _ in 0..2 {
        expect(
            store,
            &record.redacted(),
            "a key is found by its id, with all its fields",
        )
        .await;
        let unknown = found(store, fixture::id()).await;
        same(&unknown, &None, "an unknown id is None, not an error");
    }
    for other in look_alikes(record.key.id) {
        let answer = found(store, other).await;
        same(&answer, &None, "ids are compared exactly, case included");
    }
}

/// Ids that differ in one digit, or in the case of their letters.
fn look_alikes(id: KeyId) -> Vec<KeyId> {
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
