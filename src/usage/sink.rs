//! Batches of events and the sink that stores them.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::event::{UsageEvent, event_id};
use super::event_rows::EventRows;

/// Events that are written together, normalized so that every database can store them.
///
/// Events are normalized when the batch is created or deserialized: times are truncated to whole microseconds and
/// clamped to the years 1 to 9999, latencies and byte counts are capped at 2⁶³ − 1, and U+0000 in strings is
/// replaced with U+FFFD. Nothing else changes.
#[derive(Clone)]
#[non_exhaustive]
pub struct Batch {
    /// The batch id. Retries use the same id, so that the batch is counted once.
    pub id: Uuid,
    /// Shared, so that a sink can keep them without copying.
    rows: Arc<EventRows>,
    events: OnceLock<Arc<[UsageEvent]>>,
}

impl Batch {
    /// Creates a batch of these events with a new id.
    pub fn new(events: Vec<UsageEvent>) -> Self {
        let id = event_id(Timestamp::now().as_microsecond());
        Self::with_id(id, events)
    }

    /// Creates a batch of these events with the id of an earlier batch.
    pub fn with_id(id: Uuid, events: Vec<UsageEvent>) -> Self {
        Self::of_rows(id, events.into_iter().collect())
    }

    /// Creates a batch of normalized events.
    pub(crate) fn of_rows(id: Uuid, rows: EventRows) -> Self {
        Self {
            id,
            rows: Arc::new(rows),
            events: OnceLock::new(),
        }
    }

    /// The events, in no particular order. They are kept in a compact form and converted by the first call.
    pub fn events(&self) -> &[UsageEvent] {
        self.events.get_or_init(|| self.rows.to_events().into())
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The events in their compact form.
    pub(crate) fn rows(&self) -> &Arc<EventRows> {
        &self.rows
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        let events = |batch: &Self| batch.rows.to_events();
        self.id == other.id && events(self) == events(other)
    }
}

impl Eq for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("id", &self.id)
            .field("events", &self.rows.to_events())
            .finish()
    }
}

/// The serialized form of a batch.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Batch")]
struct Wire<E> {
    id: Uuid,
    events: E,
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (id, events) = (self.id, self.events());
        Wire { id, events }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Wire { id, events } = Wire::deserialize(deserializer)?;
        Ok(Self::with_id(id, events))
    }
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
