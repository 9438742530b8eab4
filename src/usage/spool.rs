//! Where events wait that the recorder's memory has no room for.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::sink::Batch;

/// Keeps batches on the recorder's own machine until the sink takes them again: first in, first out.
///
/// A recorder with a spool ([`RecorderBuilder::spool`](super::RecorderBuilder::spool)) asks it from one
/// task. A batch keeps its id: the sink counts it once, even if the process dies after the sink has
/// it and before it is removed here. So two processes that share a spool, as in a rolling deployment,
/// do no harm to each other: at worst both write the same batch. What another process took out
/// counts as written by the recorder that put it in.
///
/// # Errors
///
/// Every failure is taken for one that may pass: the recorder goes on as if it had no spool, and
/// asks again later.
#[async_trait]
pub trait Spool: Send + Sync + 'static {
    /// Adds a batch behind all others; it survives the process once this answers. The same id twice
    /// is kept once.
    async fn push(&self, batch: &Batch) -> Result<(), SpoolError>;

    /// The oldest, or the oldest behind the one with this id if that is there. It stays; `None` when
    /// there is none.
    ///
    /// The recorder asks for what is behind another when it could not remove that: a full disk may
    /// have no room for it, and what is on it should be drained all the same.
    async fn next(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, SpoolError>;

    /// Removes a batch that the sink has or will never take. It is no error when there is none.
    async fn remove(&self, id: Uuid) -> Result<(), SpoolError>;

    /// Takes out of the line what could not be read back, so that [`next`](Self::next) comes to the
    /// one behind it. It may be kept elsewhere for a person to look at. It is no error when there is none.
    async fn set_aside(&self, id: Uuid) -> Result<(), SpoolError>;
}

/// What a [`Spool`] holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Spooled {
    /// A batch as it was pushed.
    Batch(Batch),
    /// What is left of one that cannot be read back. The recorder counts its events as lost.
    Unreadable {
        /// The batch's id.
        id: Uuid,
        /// How many events it had.
        events: u64,
    },
}

/// A spool could not do what it was asked: its disk is full, or its file cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the usage spool failed")]
pub struct SpoolError(#[source] Arc<dyn Error + Send + Sync>);

impl SpoolError {
    /// Wraps a spool's own error.
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
