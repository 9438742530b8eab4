//! Batches of events and the sink that stores them.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::event::{UsageEvent, event_id};
use super::normalize::normalize;

/// Events that are written together, normalized so that every database can store them.
///
/// Events are normalized when the batch is created or deserialized: times are truncated to whole microseconds and
/// clamped to the years 1 to 9999, latencies and byte counts are capped at 2⁶³ − 1, and U+0000 in strings is
/// replaced with U+FFFD. Nothing else changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Batch {
    /// The batch id. Retries use the same id, so that the batch is counted once.
    pub id: Uuid,
    /// The events, in no particular order. Shared, so that a sink can keep them without copying.
    #[serde(deserialize_with = "read_storable")]
    pub events: Arc<[UsageEvent]>,
}

impl Batch {
    /// Creates a batch of these events with a new id.
    pub fn new(events: Vec<UsageEvent>) -> Self {
        Self::of(events.into())
    }

    /// As [`Batch::new`]. Copies the events only if they are shared.
    pub(crate) fn of(mut events: Arc<[UsageEvent]>) -> Self {
        normalize(Arc::make_mut(&mut events));
        let micros = jiff::Timestamp::now().as_microsecond();
        let id = event_id(micros);
        Self { id, events }
    }
}

fn read_storable<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<[UsageEvent]>, D::Error> {
    let mut events = Vec::<UsageEvent>::deserialize(deserializer)?;
    normalize(&mut events);
    Ok(events.into())
}

/// Stores events as a request log, as rollups, or both.
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`).
#[async_trait]
pub trait UsageSink: Send + Sync + 'static {
    /// Writes a batch atomically and idempotently.
    ///
    /// Either all events are written or none. A batch whose id was already written must not be counted again: the
    /// recorder retries a batch under the same id if it did not learn that an earlier attempt succeeded.
    ///
    /// Store the events as they are in the [`Batch`]: with times in whole microseconds, no U+0000 in strings and
    /// no number above 2⁶³ − 1.
    ///
    /// # Errors
    ///
    /// [`SinkError::Unavailable`] if a retry may succeed, [`SinkError::Rejected`] if it cannot.
    async fn write(&self, batch: &Batch) -> Result<(), SinkError>;
}

/// An error from a [`UsageSink`]. The backend's own error is in [`source`](Error::source).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A transient failure. The recorder retries the batch.
    #[error("the usage sink is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// A permanent failure. The recorder counts the batch as lost.
    #[error("the usage sink rejected a batch")]
    Rejected(#[source] Arc<dyn Error + Send + Sync>),
}

impl SinkError {
    /// Wraps a transient error of a backend.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }

    /// Wraps a permanent error of a backend.
    pub fn rejected(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Rejected(Arc::from(error.into()))
    }
}

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: UsageSink + ?Sized> UsageSink for $pointer<S> {
            async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
                (**self).write(batch).await
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);
