//! API keys: secrets, records and the stores that hold them.

mod address;
mod audit;
mod cache;
mod digest;
mod encoded;
mod encrypted_secret;
#[cfg(feature = "recoverable")]
mod encryption;
mod error;
mod field_bounds;
#[cfg(feature = "dashboard")]
mod identify;
mod import;
mod imported_format;
mod invalidation;
mod issuer;
mod new_key;
mod owner;
mod owner_admin;
#[cfg(feature = "password-hashes")]
mod password_hash;
mod plan;
mod query;
mod record;
mod redact;
#[cfg(feature = "recoverable")]
mod reveal;
mod secret;
mod status;
mod store;
mod update;
mod validate;
mod verified;

pub use address::AddressList;
pub use audit::{Actor, AuditAction, AuditEntry, AuditLog, AuditQuery, AuditState, AuditSubject};
pub use cache::{CacheConfig, CacheStats, CachedStore, KeyCache};
pub use digest::{Digest, Peppers};
pub use encrypted_secret::EncryptedSecret;
#[cfg(feature = "recoverable")]
pub use encryption::Vault;
pub use error::{InvalidKey, InvalidMetadata, InvalidOwner, InvalidPlan, StoreError};
pub use import::{ImportReport, ImportedKey, RejectedImport};
pub use imported_format::ImportedFormat;
#[cfg(feature = "password-hashes")]
pub use imported_format::SecretPrefix;
pub use invalidation::InvalidationFeed;
pub use issuer::{IssueError, Issued, Issuer};
pub use new_key::NewKey;
pub use owner::{Owner, OwnerChange, OwnerQuery, OwnerStatus, OwnerUpdate};
pub use owner_admin::OwnerAdmin;
pub use plan::{Plan, Policy};
pub use query::KeyQuery;
pub use record::{Key, KeyChange, KeyRecord, Rotation};
#[cfg(feature = "recoverable")]
pub use reveal::RevealError;
pub use secret::{Prefix, Secret};
pub use status::KeyStatus;
pub use store::{KeyAdmin, KeyStore};
pub use update::KeyUpdate;

pub(crate) use cache::{CacheLookup, CachedKey};
#[cfg(test)]
pub(crate) use digest::tests::{COMPUTED, Computed};
#[cfg(feature = "dashboard")]
pub(crate) use identify::identify;
pub(crate) use imported_format::ImportCandidate;
#[cfg(feature = "conformance")]
pub(crate) use invalidation::Invalidate;
#[cfg(feature = "password-hashes")]
pub(crate) use password_hash::verify as verify_password;
#[cfg(feature = "dashboard")]
pub(crate) use redact::ids_of_secrets;
pub(crate) use redact::{credential_has_secret, has_secret, redact_secrets, truncate_for_search};
pub(crate) use secret::id_of;
pub(crate) use verified::{Recalled, Tag, forget, recall, remember};
