//! Keeps events in the order in which they were recorded.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::backend::MemoryBackend;
use crate::usage::{Batch, SinkError, UsageEvent, UsageSink};

/// A sink in front of the backend that keeps events in recording order. The backend's request log is ordered by
/// time, which is ambiguous while a manual clock stands still.
#[derive(Debug, Clone)]
pub(super) struct Tape {
    backend: MemoryBackend,
    events: Arc<Mutex<Vec<UsageEvent>>>,
}

impl Tape {
    pub(super) fn over(backend: MemoryBackend) -> Self {
        Self {
            backend,
            events: Arc::default(),
        }
    }

    pub(super) fn events(&self) -> Vec<UsageEvent> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[async_trait]
impl UsageSink for Tape {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.backend.write(batch).await?;
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(batch.events().iter().cloned());
        Ok(())
    }
}
