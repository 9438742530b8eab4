//! The schema, step by step.

use super::SqliteBackend;
use crate::backend::sql::{BackendError, Migration, migrate, steps};

const STEPS: [Migration; 3] = steps([
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
]);

impl SqliteBackend {
    /// Makes the tables, or brings them up to this version of the crate.
    ///
    /// It can run at every start, in many processes at once: each step is one transaction and is applied
    /// once. Other tables are left alone, those of the application's own migrations included.
    ///
    /// # Errors
    ///
    /// [`BackendError::NewerSchema`] when a newer version of the crate made the tables,
    /// [`BackendError::OtherSchema`] when a step is not what it was, [`BackendError::Encoding`] when the
    /// application made its database with UTF-16, or [`BackendError::Unavailable`].
    pub async fn migrate(&self) -> Result<(), BackendError> {
        migrate(&*self.0.engine, &STEPS).await
    }
}
