//! Overflow storage for events that are waiting to be written.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::sink::Batch;

/// A durable local FIFO queue of batches that the sink cannot accept yet.
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`).
///
/// A recorder with a spool ([`RecorderBuilder::spool`](super::RecorderBuilder::spool)) calls it from a single
/// task. A batch keeps its id, so the sink counts it once even if the process dies between writing the batch to
/// the sink and removing it from the spool. Processes can therefore share a spool, as in a rolling deployment: at
/// worst, both write the same batch. A batch that another process drains counts as written by the recorder that
/// pushed it.
///
/// # Errors
///
/// All errors are treated as transient: the recorder continues without the spool and retries it later.
#[async_trait]
pub trait Spool: Send + Sync + 'static {
    /// Appends a batch.
    ///
    /// The batch must be durable when this method returns. Pushing a batch whose id is already in the spool has no
    /// effect.
    async fn push(&self, batch: &Batch) -> Result<(), SpoolError>;

    /// Returns the oldest batch without removing it, or `None` if there is none.
    ///
    /// If a batch with the id `behind` is in the spool, returns the oldest batch after it instead. The recorder
    /// uses this to skip a batch that it could not remove, for instance because the disk is full.
    async fn next(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, SpoolError>;

    /// Removes a batch that the sink has written or rejected. Does nothing if there is no such batch.
    async fn remove(&self, id: Uuid) -> Result<(), SpoolError>;

    /// Takes an unreadable batch out of the queue, so that [`next`](Self::next) returns the one after it.
    ///
    /// The implementation may keep it elsewhere for inspection. Does nothing if there is no such batch.
    async fn set_aside(&self, id: Uuid) -> Result<(), SpoolError>;
}

/// An entry of a [`Spool`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Spooled {
    /// A batch as it was pushed.
    Batch(Batch),
    /// A batch that cannot be read back. The recorder counts its events as lost.
    Unreadable {
        /// The batch id.
        id: Uuid,
        /// The number of events in the batch.
        events: u64,
    },
}

/// An error from a [`Spool`], for instance because its disk is full or its file cannot be read. The spool's own
/// error is in [`source`](Error::source).
#[derive(Debug, Clone, thiserror::Error)]
#[error("the usage spool failed")]
pub struct SpoolError(#[source] Arc<dyn Error + Send + Sync>);

impl SpoolError {
    /// Wraps an error of a spool implementation.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }
}

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: Spool + ?Sized> Spool for $pointer<S> {
            async fn push(&self, batch: &Batch) -> Result<(), SpoolError> {
                (**self).push(batch).await
            }

            async fn next(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, SpoolError> {
                (**self).next(behind).await
            }

            async fn remove(&self, id: Uuid) -> Result<(), SpoolError> {
                (**self).remove(id).await
            }

            async fn set_aside(&self, id: Uuid) -> Result<(), SpoolError> {
                (**self).set_aside(id).await
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);
