//! What can go wrong when a database is opened.

use std::error::Error;
use std::sync::Arc;

/// Why a database could not be opened or migrated. The text of the database's own error is in the
/// `source`, for logs only.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The database cannot be reached, opened or written, or is not a database.
    #[error("the database is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// The tables were made by a newer version of this crate; nothing was changed.
    #[error("the tables are of schema {found}, and this version knows schemas up to {known}")]
    NewerSchema {
        /// The schema's version in the database.
        found: i64,
        /// The newest version that this crate knows.
        known: i64,
    },
    /// A step that was applied is not the one that this crate has under its version.
    #[error("schema {version} in the database is not the one that this version knows")]
    OtherSchema {
        /// The step's version.
        version: i64,
    },
}

impl BackendError {
    pub(in crate::backend) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }
}
