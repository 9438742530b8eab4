//! How a recorder works, and its start.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::usage::event::UsageEvent;
use crate::usage::outcome::{Cause, Outcome};
use crate::usage::pending_event::EVENT_BYTES;
use crate::usage::sink::UsageSink;
use crate::usage::spool::Spool;

/// What happens to a request whose event the recorder has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It is served; its event is dropped and counted as lost.
    #[default]
    Drop,
    /// It is refused with 503 before the work: nothing is served that cannot be accounted for. So is
    /// every request that begins when the recorder is shut down or its runtime is gone. A key that does
    /// not let in gets the answer that it would get anyway, and is counted without an event.
    Refuse,
}

/// How a [`Recorder`](super::Recorder) works; made by [`Recorder::builder`](super::Recorder::builder).
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
    pub(super) spool: Option<Arc<dyn Spool>>,
    pub(super) classify: Option<Arc<Classify>>,
}

type Classify = dyn Fn(&UsageEvent) -> Option<(Outcome, Option<Cause>)> + Send + Sync;

impl RecorderBuilder {
    /// Events go to this sink; the rest is what the setters call "unless set".
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
            spool: None,
            classify: None,
        }
    }

    /// Events that may wait to be written, those that are being written included: 65,536 unless set.
    /// What they may take is bounded by [`capacity_bytes`](Self::capacity_bytes) too, whichever is
    /// reached first.
    ///
    /// Refusals of revoked, disabled and expired keys, and of keys from a wrong address, do not count against this:
    /// up to a sixteenth as many, at most 256, are queued in addition.
    #[must_use]
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events.max(1);
        self
    }

    /// Bytes that waiting events may take: 32 MiB unless set.
    ///
    /// An event counts 256 bytes, and what its path, request id and resource id take beyond 64 bytes. The texts of
    /// rejected keys' events are not counted: there are at most 256 of these, with texts of some 2 KB.
    /// Ordinary events reach the bound in events first; this one is for clients that send paths of
    /// 8 KB. With [`WhenFull::Refuse`] it is looked at when a request begins, so that the texts of
    /// those that are under way may pass it.
    #[must_use]
    pub fn capacity_bytes(mut self, bytes: u64) -> Self {
        self.capacity_bytes = bytes.max(EVENT_BYTES);
        self
    }

    /// Events in one batch at most. Unless set, 2,048 make a batch, and up to 16,384 go together where so
    /// many have gathered while another one was written: databases take them for less.
    #[must_use]
    pub fn batch_size(mut self, events: usize) -> Self {
        self.batch_size = events.max(1);
        self.largest_batch = self.batch_size;
        self
    }

    /// How long an event waits at most for its batch to fill: 250 ms unless set.
    #[must_use]
    pub fn batch_age(mut self, age: Duration) -> Self {
        self.batch_age = age;
        self
    }

    /// How long one write may take before it is tried again: 30 seconds unless set.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// The first pause before a batch is tried again, and the longest; pauses double in between and
    /// are jittered. 50 ms and 5 s unless set.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest);
        self
    }

    /// What happens when there is no room: [`WhenFull::Drop`] unless set.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Lets events wait in a file when the sink is slow or dead: nothing is lost as long as the file
    /// takes them, and little when the process is killed. Without one they wait in memory alone.
    ///
    /// Batches go there while the sink fails, and while it is slow as soon as half of the capacity is
    /// used. The sink gets them in the order in which they were recorded, those that an earlier process
    /// left first, and each under its id: once. What [`shutdown`](super::Recorder::shutdown) cannot write in
    /// time goes there too. A spool that fails is like none, and is asked again later: what is in memory
    /// is then written past it, and what finds no room there is lost.
    #[must_use]
    pub fn spool(mut self, spool: impl Spool) -> Self {
        self.spool = Some(Arc::new(spool));
        self
    }

    /// Classifies events otherwise than by their status; `None` leaves the usual outcome. It runs
    /// in the background and is not asked about refusals.
    ///
    /// ```
    /// # use keytally::backend::MemoryBackend;
    /// # use keytally::usage::{Outcome, Recorder, Status};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let backend = MemoryBackend::new();
    /// // Not finding a posting is a good answer here.
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
