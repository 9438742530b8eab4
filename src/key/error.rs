//! Errors of keys and of their stores.

use std::error::Error;
use std::sync::Arc;

use jiff::Timestamp;

use super::status::KeyStatus;
use crate::id::KeyId;
use crate::limit::InvalidLimit;
use crate::page::{InvalidPageToken, MIN_TIME};

/// A field of a key that is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The name is empty or nothing but blanks, longer than 100 characters or has control characters.
    #[error("a key's name is 1 to 100 characters without control characters, and not only blanks")]
    Name,
    /// The owner is empty, longer than 200 characters or has control characters.
    #[error("a key's owner is 1 to 200 characters without control characters")]
    Owner,
    /// The environment is not 1 to 32 characters of `a-z`, `0-9`, `_` and `-`.
    #[error("a key's environment is 1 to 32 characters of a-z, 0-9, `_` and `-`")]
    Environment,
    /// A scope is not 1 to 100 printable characters of ASCII without space, `"` and `\`
    /// ([RFC 6749 §3.3](https://www.rfc-editor.org/rfc/rfc6749#section-3.3)), or is there twice.
    #[error(
        "a scope is 1 to 100 printable ASCII characters without space, quote and backslash, and stands once"
    )]
    Scope,
    /// More than 64 scopes.
    #[error("a key has at most 64 scopes")]
    TooManyScopes,
    /// More than 100 networks.
    #[error("a key has at most 100 networks")]
    TooManyAddresses,
    /// The metadata is longer than 8 KiB as JSON.
    #[error("a key's metadata has at most 8 KiB as JSON")]
    Metadata,
    /// The metadata is nested deeper than 32 levels, itself being the first.
    #[error("a key's metadata is nested 32 levels deep at most")]
    MetadataDepth,
    /// A text of the metadata, or the name of a member, holds U+0000.
    #[error("a key's metadata has no U+0000 in its texts and names")]
    MetadataNul,
    /// The hint is longer than 64 characters or has control characters.
    #[error("a key's hint has at most 64 characters and no control characters")]
    Hint,
    /// A key is said to be recoverable without its sealed secret, has one without being so, or is revoked
    /// and has one.
    #[error(
        "a key is recoverable exactly where its sealed secret is kept, and never once it is revoked"
    )]
    Recoverable,
    /// A time lies before the year 1. Nor may one lie after the year 9999: there is no such
    /// [`Timestamp`].
    #[error("a key's times lie in the years 1 to 9999")]
    Time,
    /// A limit cannot be kept.
    #[error(transparent)]
    Limit(#[from] InvalidLimit),
}

/// A time of a key lies in the years 1 to 9999; jiff has none after those.
pub(crate) fn within_bounds(time: Timestamp) -> Result<(), InvalidKey> {
    if time < MIN_TIME {
        return Err(InvalidKey::Time);
    }
    Ok(())
}

/// What a store could not do. The text of a backend's own error is in its `source`, for logs only.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no key with this id.
    #[error("no key {0}")]
    NotFound(KeyId),
    /// There already is a key with this id.
    #[error("key {0} exists already")]
    Conflict(KeyId),
    /// The key does not work any more, so that it cannot be rotated.
    #[error("key {id} is {status:?}")]
    Unusable {
        /// The key.
        id: KeyId,
        /// Why it does not work.
        status: KeyStatus,
    },
    /// The key is to be recoverable, and the store keeps no sealed secrets.
    #[error("the store keeps no secrets that could be read again")]
    SecretsNotSupported,
    /// A field is out of bounds.
    #[error(transparent)]
    Invalid(#[from] InvalidKey),
    /// The page token is not one of this list.
    #[error(transparent)]
    Page(#[from] InvalidPageToken),
    /// The store answered too late.
    #[error("the key store did not answer in time")]
    Timeout,
    /// The store was not asked, or with too little of the time left: others were being looked up, or
    /// the look-up had to be begun again.
    #[error("the key store could not be asked in time")]
    Busy,
    /// The store cannot answer, or answered nonsense.
    #[error("the key store is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl StoreError {
    /// Wraps a backend's own error.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }
}
