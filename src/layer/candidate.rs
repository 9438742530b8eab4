//! The keys that a secret may belong to.

use std::borrow::Cow;

use zeroize::Zeroizing;

use crate::id::KeyId;
use crate::key::{Digest, ImportCandidate};

/// A secret, and the key that it may belong to.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) id: KeyId,
    pub(super) secret: Zeroizing<Vec<u8>>,
    /// The digest in the format of another system.
    pub(super) digest: Option<Digest>,
}

impl Candidate {
    pub(super) fn of(id: KeyId, secret: Cow<'_, [u8]>) -> Self {
        Self {
            id,
            secret: Zeroizing::new(secret.into_owned()),
            digest: None,
        }
    }

    pub(super) fn imported(candidate: ImportCandidate<'_>) -> Self {
        Self {
            id: candidate.id,
            secret: Zeroizing::new(candidate.hashed.to_vec()),
            digest: candidate.digest,
        }
    }
}
