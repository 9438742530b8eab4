//! Errors of keys and key stores.

use std::error::Error;
use std::sync::Arc;

use jiff::Timestamp;

use super::status::KeyStatus;
use crate::id::KeyId;
use crate::limit::InvalidLimit;
use crate::page::{InvalidPageToken, MIN_TIME};

/// A field of a key is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The name is empty, only whitespace, longer than 100 characters or contains control characters.
    #[error(
        "the name must be 1 to 100 characters without control characters, and not only whitespace"
    )]
    Name,
    /// The owner is empty, longer than 200 characters or contains control characters.
    #[error("the owner must be 1 to 200 characters without control characters")]
    Owner,
    /// The plan is empty, only whitespace, longer than 100 characters or contains control characters.
    #[error(
        "the plan must be 1 to 100 characters without control characters, and not only whitespace"
    )]
    Plan,
    /// The environment is not 1 to 32 characters of `a-z`, `0-9`, `_` and `-`.
    #[error("the environment must be 1 to 32 characters of a-z, 0-9, `_` and `-`")]
    Environment,
    /// A scope is not 1 to 100 printable ASCII characters without space, `"` and `\` ([RFC 6749
    /// §3.3](https://www.rfc-editor.org/rfc/rfc6749#section-3.3)), or is a duplicate.
    #[error(
        "a scope must be unique, and 1 to 100 printable ASCII characters without space, quote and backslash"
    )]
    Scope,
    /// The key has more than 64 scopes.
    #[error("a key can have at most 64 scopes")]
    TooManyScopes,
    /// The key has more than 100 networks.
    #[error("a key can have at most 100 networks")]
    TooManyAddresses,
    /// The metadata is longer than 8 KiB as JSON.
    #[error("the metadata must not exceed 8 KiB of JSON")]
    Metadata,
    /// The metadata is nested deeper than 32 levels, the outermost object included.
    #[error("the metadata must not be nested deeper than 32 levels")]
    MetadataDepth,
    /// A string or object key in the metadata contains U+0000.
    #[error("the metadata must not contain U+0000")]
    MetadataNul,
    /// The hint is longer than 64 characters or contains control characters.
    #[error("the hint must be at most 64 characters without control characters")]
    Hint,
    /// `recoverable` does not match the presence of an encrypted secret, or the key is revoked and has one.
    #[error(
        "a recoverable key needs an encrypted secret; other and revoked keys must not have one"
    )]
    Recoverable,
    /// A time is before the year 1. The upper bound, the year 9999, is that of [`Timestamp`].
    #[error("times must be within the years 1 to 9999")]
    Time,
    /// A rate limit is invalid.
    #[error(transparent)]
    Limit(#[from] InvalidLimit),
}

impl From<InvalidMetadata> for InvalidKey {
    fn from(error: InvalidMetadata) -> Self {
        match error {
            InvalidMetadata::Length => Self::Metadata,
            InvalidMetadata::Depth => Self::MetadataDepth,
            InvalidMetadata::Nul => Self::MetadataNul,
        }
    }
}

/// The metadata of an owner or a plan is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMetadata {
    /// The metadata is longer than 8 KiB as JSON.
    #[error("the metadata must not exceed 8 KiB of JSON")]
    Length,
    /// The metadata is nested deeper than 32 levels, the outermost object included.
    #[error("the metadata must not be nested deeper than 32 levels")]
    Depth,
    /// A string or object key in the metadata contains U+0000.
    #[error("the metadata must not contain U+0000")]
    Nul,
}

/// A field of an owner is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOwner {
    /// The id is empty, longer than 200 characters or contains control characters.
    #[error("the owner must be 1 to 200 characters without control characters")]
    Id,
    /// The name is empty, only whitespace, longer than 100 characters or contains control characters.
    #[error(
        "the name must be 1 to 100 characters without control characters, and not only whitespace"
    )]
    Name,
    /// The name of the plan is out of bounds.
    #[error(
        "the plan must be 1 to 100 characters without control characters, and not only whitespace"
    )]
    Plan,
    /// A rate limit is invalid.
    #[error(transparent)]
    Limits(InvalidLimit),
    /// The metadata is out of bounds.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// The creation time is before the year 1.
    #[error("times must be within the years 1 to 9999")]
    Time,
}

/// A field of a plan is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPlan {
    /// The name is empty, longer than 100 characters, or has control characters or surrounding whitespace.
    #[error(
        "the name must be 1 to 100 characters without control characters and surrounding whitespace"
    )]
    Name,
    /// A rate limit of keys is invalid.
    #[error("limits of keys: {0}")]
    KeyLimits(InvalidLimit),
    /// A rate limit of owners is invalid.
    #[error("limits of owners: {0}")]
    OwnerLimits(InvalidLimit),
    /// The metadata is out of bounds.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// The creation time is before the year 1.
    #[error("times must be within the years 1 to 9999")]
    Time,
}

/// Checks that a time is within the years 1 to 9999; jiff has no later ones.
pub(crate) fn check_time(time: Timestamp) -> Result<(), InvalidKey> {
    if time < MIN_TIME {
        return Err(InvalidKey::Time);
    }
    Ok(())
}

/// An error of a key store. Details of the backend are only in the error's `source`, for logs.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no key with this id.
    #[error("key {0} not found")]
    NotFound(KeyId),
    /// A key with this id already exists.
    #[error("key {0} already exists")]
    Conflict(KeyId),
    /// The key is not active, so that it cannot be rotated.
    #[error("key {id} is {status}")]
    NotActive {
        /// The key.
        id: KeyId,
        /// The status of the key.
        status: KeyStatus,
    },
    /// The key has been replaced in a rotation, so that it cannot be rotated again.
    #[error("key {id} has been replaced by key {replaced_by}; rotate that key instead")]
    Replaced {
        /// The key.
        id: KeyId,
        /// The key that replaced it.
        replaced_by: KeyId,
    },
    /// The record has an encrypted secret, which the store does not support.
    #[error("the store does not support recoverable secrets")]
    SecretsNotSupported,
    /// A field is out of bounds.
    #[error(transparent)]
    Invalid(#[from] InvalidKey),
    /// A field of an owner is out of bounds.
    #[error(transparent)]
    InvalidOwner(#[from] InvalidOwner),
    /// A field of a plan is out of bounds.
    #[error(transparent)]
    InvalidPlan(#[from] InvalidPlan),
    /// There is no plan with this name.
    #[error("there is no plan \"{0}\"")]
    PlanNotFound(Arc<str>),
    /// The plan cannot be deleted, because a key or an owner has it.
    #[error("the plan \"{0}\" is in use; assign another one to its API keys and owners first")]
    PlanInUse(Arc<str>),
    /// The store does not keep owners and plans.
    #[error("the store does not support owners and plans")]
    OwnersNotSupported,
    /// The page token is invalid.
    #[error(transparent)]
    Page(#[from] InvalidPageToken),
    /// The store did not respond within the lookup timeout.
    #[error("the key store timed out")]
    Timeout,
    /// The lookup did not complete in time for reasons other than the store: it waited for other lookups, or was
    /// restarted because the key kept changing.
    #[error("the key lookup did not complete in time")]
    Busy,
    /// The store failed or returned an invalid response.
    #[error("the key store is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl StoreError {
    /// Wraps an error of the backend.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }
}
