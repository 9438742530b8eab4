//! One short name for what tells the sums of one bucket of time apart.

use sha2::{Digest, Sha256};

use super::value::status_codes;
use crate::usage::Rollup;

/// Names a rollup's key, owner, endpoint, method, status, outcome and cause: 128 bits of the SHA-256
/// over their texts. Columns that may be empty, or longer than an index takes, cannot be a primary
/// key.
pub(in crate::backend) fn series(rollup: &Rollup) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut add = |part: Option<&str>| {
        // Lengths keep apart what would read the same when put together.
        let length = part.map_or(u64::MAX, |text| text.len() as u64);
        hash.update(length.to_be_bytes());
        hash.update(part.unwrap_or_default());
    };
    let (http, grpc) = status_codes(rollup.status);
    add(rollup.key.as_ref().map(|key| key.as_str()));
    add(rollup.owner.as_deref());
    add(Some(&rollup.endpoint));
    add(Some(rollup.method.as_str()));
    add(http.map(|code| code.to_string()).as_deref());
    add(grpc.map(|code| code.to_string()).as_deref());
    add(Some(rollup.outcome.as_str()));
    add(rollup.cause.map(|cause| cause.as_str()));
    hash.finalize()[..16].to_vec()
}
