//! What can go wrong when a database is opened.

use std::error::Error;
use std::sync::Arc;

use sqlx::Error as SqlError;

/// Why a database could not be opened or migrated. The text of the database's own error is in the
/// `source`, for logs only.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The database cannot be reached, opened or written.
    #[error("the database is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// The text is not the URL of such a database.
    #[error("not the URL of a database")]
    Url(#[source] Arc<dyn Error + Send + Sync>),
    /// The database does not let this user in, or not do that; or its file is for reading only.
    #[error("the database does not permit it")]
    Denied(#[source] Arc<dyn Error + Send + Sync>),
    /// The file is no database, or a damaged one.
    #[error("the file is not a database, or it is damaged")]
    Damaged(#[source] Arc<dyn Error + Send + Sync>),
    /// The database has another encoding than UTF-8, in which not all texts can be kept; nothing was
    /// changed.
    #[error("the database's encoding is {0}, not UTF-8")]
    Encoding(String),
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
    #[cfg(feature = "_sqlite")]
    pub(in crate::backend) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }

    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn of_url(error: SqlError) -> Self {
        Self::Url(Arc::new(error))
    }
}

impl From<SqlError> for BackendError {
    fn from(error: SqlError) -> Self {
        let code = match &error {
            SqlError::Database(error) => error.code().unwrap_or_default().into_owned(),
            _ => String::new(),
        };
        let error = Arc::new(error);
        match &*code {
            // PostgreSQL's invalid authorization and password, insufficient privilege, and server for
            // reading only (its manual, appendix A).
            "28000" | "28P01" | "42501" | "25006" => return Self::Denied(error),
            // All of its codes have five characters, and none of SQLite's has.
            code if code.len() == 5 => return Self::Unavailable(error),
            _ => {}
        }
        // SQLite's result codes, without what extends them (<https://sqlite.org/rescode.html>).
        match code.parse::<i64>().map(|code| code & 0xff) {
            Ok(SQLITE_PERM | SQLITE_READONLY) => Self::Denied(error),
            Ok(SQLITE_CORRUPT | SQLITE_NOTADB) => Self::Damaged(error),
            _ => Self::Unavailable(error),
        }
    }
}

const SQLITE_PERM: i64 = 3;
const SQLITE_READONLY: i64 = 8;
const SQLITE_CORRUPT: i64 = 11;
const SQLITE_NOTADB: i64 = 26;
