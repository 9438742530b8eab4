//! Errors of opening, migrating and pruning a database.

use std::error::Error;
use std::sync::Arc;

use sqlx::Error as SqlError;

/// An error from opening, migrating or pruning a database. The database's own error is in the
/// [`source`](Error::source); it is meant for logs, not for clients.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The database cannot be reached, opened or written to.
    #[error("the database is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// The URL is not a valid database URL for this backend.
    #[error("invalid database URL")]
    Url(#[source] Arc<dyn Error + Send + Sync>),
    /// Authentication failed, the user lacks a privilege, or the database or its file is read-only.
    #[error("permission denied by the database")]
    PermissionDenied(#[source] Arc<dyn Error + Send + Sync>),
    /// The file is not a database, or it is corrupt.
    #[error("the file is not a database or is corrupt")]
    Corrupt(#[source] Arc<dyn Error + Send + Sync>),
    /// The encoding of the database is not UTF-8, so it cannot store all text. Nothing was changed.
    #[error("the database encoding is {0}; UTF-8 is required")]
    Encoding(String),
    /// The tables were created or migrated by a newer version of this crate. Nothing was changed.
    #[error(
        "the database has schema version {found}, but this version of keytally supports versions up to {known}"
    )]
    NewerSchema {
        /// The schema version of the database.
        found: i64,
        /// The newest schema version that this crate supports.
        known: i64,
    },
    /// An applied schema migration differs from the one of this crate with the same version.
    #[error(
        "schema migration {version} in the database differs from that of this version of keytally"
    )]
    MigrationMismatch {
        /// The version of the migration.
        version: i64,
    },
}

#[cfg(feature = "postgres")]
impl BackendError {
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
            // PostgreSQL: invalid_authorization_specification, invalid_password, insufficient_privilege and
            // read_only_sql_transaction (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
            "28000" | "28P01" | "42501" | "25006" => return Self::PermissionDenied(error),
            // Any other PostgreSQL code: they have five characters, SQLite's are shorter.
            code if code.len() == 5 => return Self::Unavailable(error),
            _ => {}
        }
        // SQLite's primary result codes, the low byte of extended ones (<https://sqlite.org/rescode.html>).
        match code.parse::<i64>().map(|code| code & 0xff) {
            Ok(SQLITE_PERM | SQLITE_READONLY) => Self::PermissionDenied(error),
            Ok(SQLITE_CORRUPT | SQLITE_NOTADB) => Self::Corrupt(error),
            _ => Self::Unavailable(error),
        }
    }
}

const SQLITE_PERM: i64 = 3;
const SQLITE_READONLY: i64 = 8;
const SQLITE_CORRUPT: i64 = 11;
const SQLITE_NOTADB: i64 = 26;
