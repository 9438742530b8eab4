//! Schema migrations.

use super::PostgresBackend;
use crate::backend::sql::{BackendError, Engine, Migration, migrate, migrations};

const MIGRATIONS: [Migration; 4] = migrations([
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
]);

impl PostgresBackend {
    /// Creates the tables, or migrates them to the schema of this version of the crate. Also creates the
    /// [configured schema](Self::with_schema) if it does not exist.
    ///
    /// Can be called on every start and from several processes at once: each migration runs in its own transaction
    /// and is applied once. Other tables, such as those of the application's own migrations, are left untouched.
    ///
    /// # Errors
    ///
    /// - [`BackendError::NewerSchema`] if a newer version of the crate has migrated the tables.
    /// - [`BackendError::MigrationMismatch`] if an applied migration differs from the one in this crate.
    /// - [`BackendError::PermissionDenied`] if the user may not create tables.
    /// - [`BackendError::Encoding`] if the encoding of the database is not UTF-8.
    /// - [`BackendError::Unavailable`] if the database cannot be reached, if another process is still migrating
    ///   after a minute, or if a required lock is held elsewhere.
    pub async fn migrate(&self) -> Result<(), BackendError> {
        let engine = &*self.0.engine;
        migrate(engine, &MIGRATIONS).await?;
        // Before the first lookup: starting to listen clears the caches.
        engine.before_lookup(&self.0.changes);
        Ok(())
    }
}
