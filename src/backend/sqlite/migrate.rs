//! Schema migrations.

use super::SqliteBackend;
use crate::backend::sql::{BackendError, Migration, migrate, migrations};

const MIGRATIONS: [Migration; 4] = migrations([
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
]);

impl SqliteBackend {
    /// Creates the tables, or migrates them to the schema of this version of the crate.
    ///
    /// Can be called on every start and from several processes at once: each migration runs in its own transaction
    /// and is applied once. Other tables, such as those of the application's own migrations, are left untouched.
    ///
    /// # Errors
    ///
    /// - [`BackendError::NewerSchema`] if a newer version of the crate has migrated the tables.
    /// - [`BackendError::MigrationMismatch`] if an applied migration differs from the one in this crate.
    /// - [`BackendError::Encoding`] if the encoding of the database is UTF-16.
    /// - [`BackendError::Unavailable`] if the database cannot be read or written to.
    pub async fn migrate(&self) -> Result<(), BackendError> {
        migrate(&*self.0.engine, &MIGRATIONS).await
    }
}
