//! The schema, step by step.

use super::PostgresBackend;
use crate::backend::sql::{BackendError, Engine, Migration, migrate, steps};

const STEPS: [Migration; 3] = steps([
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
]);

impl PostgresBackend {
    /// Makes the tables, or brings them up to this version of the crate; the schema too, if
    /// [one was named](Self::with_schema) and is not there.
    ///
    /// It can run at every start, in many processes at once: each step is one transaction and is applied
    /// once. Other tables are left alone, those of the application's own migrations included.
    ///
    /// # Errors
    ///
    /// [`BackendError::NewerSchema`] when a newer version of the crate made the tables,
    /// [`BackendError::OtherSchema`] when a step is not what it was, [`BackendError::Denied`] when the
    /// user may not make tables, [`BackendError::Encoding`] when texts cannot all be kept, or
    /// [`BackendError::Unavailable`], also when another process has been migrating for a minute, or
    /// somebody holds a lock that is needed.
    pub async fn migrate(&self) -> Result<(), BackendError> {
        let engine = &*self.0.engine;
        migrate(engine, &STEPS).await?;
        // Before the first look-up: caches drop what they hold when listening begins.
        engine.about_to_look_up(&self.0.changes);
        Ok(())
    }
}
