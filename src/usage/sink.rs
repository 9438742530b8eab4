//! Who keeps what the recorder hands over, and who reads it.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::event::{UsageEvent, event_id};
use super::normalize::normalize;

/// Events that are written together, in a form that every database can keep.
///
/// Events are brought into that form as the batch is made or read from a text: their times are cut to
/// whole microseconds and lie in the years 1 to 9999, latencies and byte counts stop at 2⁶³ − 1, and
/// U+0000 in a text becomes U+FFFD. All else stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Batch {
    /// The batch's own id: a batch that comes again under it must not count again.
    pub id: Uuid,
    /// The events, in no particular order; shared, so that a sink can hold on to them.
    #[serde(deserialize_with = "read_storable")]
    pub events: Arc<[UsageEvent]>,
}

impl Batch {
    /// A batch of these events with an id of its own.
    pub fn new(events: Vec<UsageEvent>) -> Self {
        Self::of(events.into())
    }

    /// As [`Batch::new`]. Copies the events only if somebody else holds them too.
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

/// Keeps events: the log, their sums, or both.
#[async_trait]
pub trait UsageSink: Send + Sync + 'static {
    /// Writes a batch, all of it or nothing. A batch that was written before (the answer got lost)
    /// counts once. Events are kept as the [`Batch`] has them: in whole microseconds, without U+0000 and
    /// with no number above 2⁶³ − 1.
    ///
    /// # Errors
    ///
    /// [`SinkError::Unavailable`] when it is worth trying again, [`SinkError::Rejected`] when not.
    async fn write(&self, batch: &Batch) -> Result<(), SinkError>;
}

/// What a sink could not do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// Not now; the recorder tries again.
    #[error("the usage sink is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// Never: the recorder counts the batch as lost.
    #[error("the usage sink rejected a batch")]
    Rejected(#[source] Arc<dyn Error + Send + Sync>),
}

impl SinkError {
    /// Wraps a backend's own error that may pass.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(error.into()))
    }

    /// Wraps a backend's own error that will not pass.
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
