//! Who keeps what the recorder hands over, and who reads it.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::{UsageEvent, event_id};
use crate::page::whole_micros;

/// Events that are written together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Batch {
    /// The batch's own id: a batch that comes again under it must not count again.
    pub id: Uuid,
    /// The events, in no particular order; shared, so that a sink can hold on to them.
    pub events: Arc<[UsageEvent]>,
}

impl Batch {
    /// A batch with an id of its own. Times are cut to whole microseconds.
    pub fn new(mut events: Vec<UsageEvent>) -> Self {
        for event in &mut events {
            event.time = whole_micros(event.time);
        }
        Self::of(events.into())
    }

    /// A batch of events that have their times in whole microseconds.
    pub(crate) fn of(events: Arc<[UsageEvent]>) -> Self {
        let micros = jiff::Timestamp::now().as_microsecond();
        let id = event_id(micros);
        Self { id, events }
    }
}

/// Keeps events: the log, their sums, or both.
#[async_trait]
pub trait UsageSink: Send + Sync + 'static {
    /// Writes a batch, all of it or nothing. A batch that was written before (the answer got lost)
    /// counts once. Times are kept in whole microseconds.
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
