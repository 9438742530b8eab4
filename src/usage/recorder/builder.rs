//! Configuration of the recorder.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::usage::event::UsageEvent;
use crate::usage::outcome::{Cause, Outcome};
use crate::usage::pending_event::EVENT_BYTES;
use crate::usage::sink::UsageSink;
use crate::usage::spool::Spool;

/// The behavior for requests whose event does not fit into the recorder's capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Serve the request and count its event as lost. The default.
    #[default]
    Drop,
    /// Reject the request with 503 before it reaches the service, so that nothing is served without being
    /// accounted for. This also applies to every request that begins after the recorder was shut down or its
    /// runtime dropped. Requests with a rejected key get their usual response and are counted without an event.
    Reject,
}

/// Configures and starts a [`Recorder`](super::Recorder). Created by
/// [`Recorder::builder`](super::Recorder::builder).
pub struct RecorderBuilder {
    pub(super) sink: Arc<dyn UsageSink>,
    pub(super) capacity: usize,
    pub(super) capacity_bytes: u64,
    pub(super) batch_size: usize,
    pub(super) largest_batch: usize,
    pub(super) batch_age: Duration,
    pub(super) write_timeout: Duration,
    pub(super) backoff: (Duration, Duration),
    pub(super) when_full: WhenFull,
    pub(super) rejected_senders: usize,
    pub(super) spool: Option<Arc<dyn Spool>>,
    pub(super) classify: Option<Arc<Classify>>,
    pub(super) billable: Option<Arc<Billable>>,
}

type Billable = dyn Fn(Outcome, Option<Cause>) -> bool + Send + Sync;
type Classify = dyn Fn(&UsageEvent) -> Option<(Outcome, Option<Cause>)> + Send + Sync;

impl RecorderBuilder {
    /// Creates a builder with the defaults documented at the setters.
    pub(super) fn new(sink: Arc<dyn UsageSink>) -> Self {
        Self {
            sink,
            capacity: 65_536,
            capacity_bytes: 32 << 20,
            batch_size: 2_048,
            largest_batch: 16_384,
            batch_age: Duration::from_millis(250),
            write_timeout: Duration::from_secs(30),
            backoff: (Duration::from_millis(50), Duration::from_secs(5)),
            when_full: WhenFull::default(),
            rejected_senders: 0,
            spool: None,
            classify: None,
            billable: None,
        }
    }

    /// The maximum number of events in memory, including those being written. 65,536 by default; at least 1.
    ///
    /// [`capacity_bytes`](Self::capacity_bytes) limits them too; the limit that is reached first applies. Up to a
    /// sixty-fourth of the capacity may be reserved by threads that do not use it at the moment.
    ///
    /// Events for revoked, disabled and expired keys, and for keys used from a client IP that is not allowed, do
    /// not count against this capacity. They have an extra capacity of a sixteenth of it, at most 256 events.
    #[must_use]
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events.max(1);
        self
    }

    /// The maximum memory for events, in bytes. 32 MiB by default; at least 256.
    ///
    /// An event counts as 256 bytes, plus the combined length of its path, request id and resource id beyond 96
    /// bytes. The strings of rejected keys' events are not counted: there are at most 256 such events, with about
    /// 2 KB of strings each.
    ///
    /// Typical events reach [`capacity`](Self::capacity) first; this limit protects against clients that send 8 KB
    /// paths. With [`WhenFull::Reject`] it is checked when a request begins, so the strings of open requests can
    /// exceed it.
    #[must_use]
    pub fn capacity_bytes(mut self, bytes: u64) -> Self {
        self.capacity_bytes = bytes.max(EVENT_BYTES);
        self
    }

    /// The maximum number of events per batch; at least 1.
    ///
    /// By default a batch is written once it has about 2,048 events, and takes up to 16,384 if that many have
    /// accumulated during the previous write, since larger batches are cheaper per event.
    #[must_use]
    pub fn batch_size(mut self, events: usize) -> Self {
        self.batch_size = events.max(1);
        self.largest_batch = self.batch_size;
        self
    }

    /// The maximum time that an event waits for its batch to fill. 250 ms by default.
    #[must_use]
    pub fn batch_age(mut self, age: Duration) -> Self {
        self.batch_age = age;
        self
    }

    /// The timeout of one write attempt, after which it is retried. 30 seconds by default.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// The backoff between retries of a batch: starts at `first` and doubles up to `longest`, with jitter of
    /// ±50%. 50 ms and 5 s by default.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest);
        self
    }

    /// The behavior when the recorder is full. [`WhenFull::Drop`] by default.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// The maximum number of client IPs, and of key ids in credentials, to keep of rejections that are not recorded as
    /// events, for each of the last 24 hours with such rejections. 0 by default: they are not kept. At most 1,000.
    ///
    /// Client IPs are personal data. They are kept in memory only, about 3 KB for each one allowed here, and shown
    /// on the dashboard. If more senders are active, those with the most rejections are kept.
    #[must_use]
    pub fn rejected_senders(mut self, most: usize) -> Self {
        self.rejected_senders = most.min(1_000);
        self
    }

    /// Stores events on disk while the sink is slow or unavailable. None by default: events wait in memory only.
    ///
    /// With a spool, no events are lost during an outage while the spool accepts writes, and few if the process is
    /// killed.
    ///
    /// Batches are spooled while the sink fails, or once half of the capacity is used if it is slow, and when
    /// [`shutdown`](super::Recorder::shutdown) cannot write them in time. They are then written in the order in
    /// which they were spooled, starting with those of earlier processes, and each under its id, so that the sink
    /// counts it once.
    ///
    /// If the spool fails, it is retried with a backoff. In the meantime the recorder works as without a spool: it
    /// writes from memory, and events that exceed the capacity are lost.
    #[must_use]
    pub fn spool(mut self, spool: impl Spool) -> Self {
        self.spool = Some(Arc::new(spool));
        self
    }

    /// A hook that overrides the outcome and cause of an event; `None` keeps those derived from the status.
    ///
    /// It runs in the background, and is not called for requests that the layer rejected. If it panics, the event
    /// keeps its outcome.
    ///
    /// ```
    /// # use keytally::backend::MemoryBackend;
    /// # use keytally::usage::{Outcome, Recorder, Status};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let backend = MemoryBackend::new();
    /// // For this service, 404 is not a failure.
    /// let recorder = Recorder::builder(backend)
    ///     .classify(|event| (event.status == Status::Http(404)).then_some((Outcome::Completed, None)))
    ///     .start();
    /// # let _ = recorder.shutdown(std::time::Duration::from_secs(1)).await;
    /// # }
    /// ```
    #[must_use]
    pub fn classify(
        mut self,
        classify: impl Fn(&UsageEvent) -> Option<(Outcome, Option<Cause>)> + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Arc::new(classify));
        self
    }

    /// Which outcomes are billable. By default, completed requests are, and failed ones are not.
    ///
    /// Totals, rollups and the SQL views sum the cost of billable requests apart
    /// ([`Totals::billable_cost`](super::super::summary::Totals::billable_cost)), so invoices need no filter. Requests
    /// that the layer rejected are never billable. The setting applies to requests from then on: recorded ones keep
    /// theirs. If it panics, the default applies.
    ///
    /// ```
    /// # use keytally::backend::MemoryBackend;
    /// # use keytally::usage::{Cause, Outcome, Recorder};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let backend = MemoryBackend::new();
    /// // Customers also pay for their own errors, but not for those of the service.
    /// let recorder = Recorder::builder(backend)
    ///     .billable(|outcome, cause| {
    ///         outcome == Outcome::Completed || cause == Some(Cause::ClientError)
    ///     })
    ///     .start();
    /// # let _ = recorder.shutdown(std::time::Duration::from_secs(1)).await;
    /// # }
    /// ```
    #[must_use]
    pub fn billable(
        mut self,
        billable: impl Fn(Outcome, Option<Cause>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.billable = Some(Arc::new(billable));
        self
    }
}

impl std::fmt::Debug for RecorderBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecorderBuilder")
            .field("capacity", &self.capacity)
            .field("capacity_bytes", &self.capacity_bytes)
            .field("batch_size", &self.batch_size)
            .field("batch_age", &self.batch_age)
            .field("write_timeout", &self.write_timeout)
            .field("backoff", &self.backoff)
            .field("when_full", &self.when_full)
            .field("spool", &self.spool.is_some())
            .finish_non_exhaustive()
    }
}
