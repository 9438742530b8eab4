//! What a key is: its secret, its record, and where it is kept.

mod address;
mod audit;
mod bounds;
mod cached;
mod changes;
mod digest;
mod issuer;
mod new;
mod query;
mod record;
mod redact;
#[cfg(feature = "recoverable")]
mod reveal;
mod sealed;
mod store;
mod token;
mod update;
#[cfg(feature = "recoverable")]
mod vault;

pub use address::{AddressList, InvalidNetwork};
pub use audit::{AuditAction, AuditEntry, AuditQuery, InvalidAuditAction};
pub use bounds::InvalidKey;
pub use cached::{CacheConfig, CacheStats, CachedStore, KeyCache};
pub use changes::ChangeFeed;
pub use digest::{Digest, InvalidDigest, InvalidPepper, Peppers};
pub use issuer::{IssueError, Issued, Issuer};
pub use new::NewKey;
pub use query::KeyQuery;
pub use record::{Key, KeyChange, KeyRecord, KeyStatus, Rotation};
#[cfg(feature = "recoverable")]
pub use reveal::RevealError;
pub use sealed::Sealed;
pub use store::{KeyAdmin, KeyStore, StoreError};
pub use token::{InvalidPrefix, MalformedSecret, Prefix, Secret};
pub use update::KeyUpdate;
#[cfg(feature = "recoverable")]
pub use vault::{InvalidVaultKey, Vault};

pub(crate) use bounds::within_bounds;
pub(crate) use cached::{CachedKey, Peek};
#[cfg(feature = "conformance")]
pub(crate) use changes::Forget;
#[cfg(test)]
pub(crate) use digest::tests::{COMPUTED, Computed};
pub(crate) use issuer::is_importable;
pub(crate) use redact::{has_secret, holds_secret, searched, without_secrets};
pub(crate) use token::id_of;
