//! Hashes of the columns that identify a row.

use sha2::{Digest, Sha256};

/// The first 128 bits of the SHA-256 of several columns, as their unique key: the columns themselves cannot be one,
/// since they may be `NULL` or too long for an index.
pub(in crate::backend) type Hash = [u8; 16];

pub(super) fn hash_of(parts: &[Option<&str>]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        // Length prefixes make the concatenation unambiguous.
        let length = part.map_or(u64::MAX, |text| text.len() as u64);
        hash.update(length.to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    let digest: [u8; 32] = hash.finalize().into();
    *digest.first_chunk().unwrap_or(&[0; 16])
}
