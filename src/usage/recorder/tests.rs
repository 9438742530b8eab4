mod ending;
mod full;
mod spooled;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::usage::event::event_id;
use crate::usage::pending_event::USUAL_TEXT_BYTES;
use crate::usage::{Abandon, Batch, Cause, EventFields, Method, Outcome, SinkError, Status};

pub(in crate::usage) fn pending() -> PendingEvent {
    PendingEvent {
        fields: EventFields {
            id: event_id(0),
            time: 0,
            latency_us: 1,
            request_bytes: 0,
            response_bytes: 0,
            client_ip: None,
            cost: 1,
            status: Status::Http(200),
            method: Method::Get,
            outcome: Outcome::Completed,
            cause: None,
            rejection_reason: None,
            billable: false,
            is_rejected: false,
        },
        attribution: None,
        path: b"/".to_vec(),
        request_id: None,
        endpoint: None,
        resource_id: None,
    }
}

/// A sink that performs one scripted step per write and then succeeds.
#[derive(Clone, Default)]
struct Scripted {
    script: Arc<Mutex<Vec<Step>>>,
    calls: Arc<Mutex<Vec<Uuid>>>,
    batches: Arc<Mutex<Vec<usize>>>,
    events: Arc<Mutex<HashSet<Uuid>>>,
}

#[derive(Clone, Copy)]
enum Step {
    Fail,
    /// Writes the batch but returns an error.
    WriteAndFail,
    Reject,
    Panic,
    Hang,
}

impl Scripted {
    fn with(script: &[Step]) -> Self {
        let sink = Self::default();
        sink.script.lock().unwrap().extend(script.iter().rev());
        sink
    }

    fn calls(&self) -> Vec<Uuid> {
        self.calls.lock().unwrap().clone()
    }

    fn batches(&self) -> Vec<usize> {
        self.batches.lock().unwrap().clone()
    }

    fn events(&self) -> u64 {
        self.events.lock().unwrap().len() as u64
    }

    fn keep(&self, batch: &Batch) {
        self.batches.lock().unwrap().push(batch.len());
        let ids = batch.events().iter().map(|event| event.id);
        self.events.lock().unwrap().extend(ids);
    }
}

#[async_trait]
impl UsageSink for Scripted {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.calls.lock().unwrap().push(batch.id);
        let step = self.script.lock().unwrap().pop();
        match step {
            None => self.keep(batch),
            Some(Step::Fail) => return Err(SinkError::unavailable("down")),
            Some(Step::WriteAndFail) => {
                self.keep(batch);
                return Err(SinkError::unavailable("connection lost after the write"));
            }
            Some(Step::Reject) => return Err(SinkError::rejected("invalid batch")),
            Some(Step::Panic) => panic!("intentional panic of a sink"),
            Some(Step::Hang) => std::future::pending().await,
        }
        Ok(())
    }
}

fn record(recorder: &Recorder, events: usize) {
    for _ in 0..events {
        assert!(recorder.reserve());
        recorder.record(&mut pending());
    }
}

/// Asserts invariant 9 when nothing is queued.
fn assert_conserved(recorder: &Recorder, written: u64, lost: u64) {
    let stats = recorder.stats();
    assert_eq!((stats.written, stats.lost), (written, lost), "{stats:?}");
    assert_eq!(
        (stats.accepted, stats.queued, stats.in_flight),
        (written + lost, 0, 0),
        "{stats:?}"
    );
    assert_eq!(stats.queued_bytes, 0);
}

/// An event with this number of extra bytes.
pub(super) fn long_pending(extra: usize) -> PendingEvent {
    let event = PendingEvent {
        path: vec![b'x'; extra + USUAL_TEXT_BYTES],
        ..pending()
    };
    assert_eq!(event.extra_bytes(), extra as u64);
    event
}

fn record_long(recorder: &Recorder, events: usize, extra: usize) {
    for _ in 0..events {
        assert!(recorder.reserve());
        recorder.record(&mut long_pending(extra));
    }
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_at_its_maximum_age() {
    let sink = Scripted::default();
    let recorder = Recorder::builder(sink.clone())
        .batch_age(Duration::from_millis(300))
        .start();
    record(&recorder, 3);
    tokio::time::sleep(Duration::from_millis(290)).await;
    assert_eq!(sink.events(), 0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(sink.batches(), [3]);
    assert_conserved(&recorder, 3, 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_written_at_its_maximum_size() {
    let sink = Scripted::default();
    let recorder = Recorder::builder(sink.clone())
        .batch_size(10)
        .batch_age(Duration::from_secs(3_600))
        .start();
    record(&recorder, 25);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(sink.batches(), [10, 10]);
    recorder.flush().await;
    assert_eq!(sink.batches(), [10, 10, 5]);
    assert_conserved(&recorder, 25, 0);
}

mod batches_count_once {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_retried_under_its_id() {
        let sink = Scripted::with(&[Step::Fail, Step::WriteAndFail, Step::Panic, Step::Hang]);
        let recorder = Recorder::builder(sink.clone()).start();
        record(&recorder, 7);
        recorder.flush().await;
        let calls = sink.calls();
        assert_eq!(calls.len(), 5);
        assert!(calls.iter().all(|id| *id == calls[0]));
        assert_eq!(sink.events(), 7);
        assert_eq!(recorder.stats().retries, 4);
        assert!(recorder.stats().last_written_at.is_some());
        assert_conserved(&recorder, 7, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_times_out_is_dropped() {
    /// Hangs forever. Each pending write holds a reference.
    #[derive(Default)]
    struct Endless(Arc<()>);
    #[async_trait]
    impl UsageSink for Endless {
        async fn write(&self, _: &Batch) -> Result<(), SinkError> {
            let _held = self.0.clone();
            std::future::pending().await
        }
    }
    let sink = Arc::new(Endless::default());
    let recorder = Recorder::new(sink.clone());
    record(&recorder, 1);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(recorder.stats().retries > 10);
    assert!(Arc::strong_count(&sink.0) <= 2);
}

#[test]
fn backoff_has_a_jitter_of_50_percent() {
    let pause = Duration::from_secs(100);
    let mut pauses: Vec<_> = (0..1_000).map(|_| super::writer::jittered(pause)).collect();
    pauses.sort();
    let secs = |secs| Duration::from_secs(secs);
    assert!(pauses[0] >= secs(50) && pauses[0] < secs(60));
    assert!(pauses[999] <= secs(150) && pauses[999] > secs(140));
}

mod complete_accounting {
    use super::*;

    #[tokio::test]
    async fn rejected_batches_count_as_lost() {
        let sink = Scripted::with(&[Step::Reject]);
        let recorder = Recorder::builder(sink.clone()).start();
        record(&recorder, 4);
        recorder.flush().await;
        assert_conserved(&recorder, 0, 4);
        record(&recorder, 2);
        recorder.flush().await;
        assert_conserved(&recorder, 2, 4);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn maximum_durations_do_not_panic() {
    let recorder = Recorder::builder(Scripted::with(&[Step::Fail]))
        .backoff(Duration::MAX, Duration::MAX)
        .batch_age(Duration::MAX)
        .write_timeout(Duration::MAX)
        .batch_size(3)
        .start();
    record(&recorder, 3);
    tokio::time::sleep(SOON).await;
    let stats = recorder.stats();
    assert_eq!((stats.retries, stats.queued), (1, 3));
    let report = recorder.shutdown(SOON).await;
    assert_eq!((report.written, report.lost), (0, 3));
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn lost_events_are_logged_at_most_once_per_second() {
    let log = crate::test_tracing::CapturedEvents::default();
    let _guard = log.capture();
    let sink = Scripted::with(&[Step::Hang]);
    let recorder = Recorder::builder(sink).capacity(10).start();
    record(&recorder, 25);
    assert_eq!(log.values_of("events"), ["1"]);
    std::thread::sleep(Duration::from_millis(1_010));
    record(&recorder, 1);
    assert_eq!(log.values_of("events"), ["1", "15"]);
    let report = recorder.shutdown(Duration::from_millis(50)).await;
    assert_eq!(report.lost, 26);
    assert_eq!(log.values_of("events"), ["1", "15", "10"]);
    // A recorder that loses nothing logs nothing.
    let recorder = Recorder::new(Scripted::default());
    record(&recorder, 1);
    assert_eq!(recorder.shutdown(SOON).await.lost, 0);
    assert_eq!(log.values_of("events").len(), 3);
}

#[tokio::test]
async fn classify_overrides_the_outcome_and_may_panic() {
    let backend = crate::backend::MemoryBackend::new();
    let recorder = Recorder::builder(backend.clone())
        .classify(|event| match event.latency_us {
            1 => Some((Outcome::Failed, Some(Cause::ServerError))),
            _ => panic!("intentional panic of a hook"),
        })
        .start();
    record(&recorder, 1);
    assert!(recorder.reserve());
    let mut event = pending();
    event.fields.latency_us = 2;
    recorder.record(&mut event);
    recorder.flush().await;
    let query = crate::usage::SummaryQuery::default();
    let summary = crate::usage::UsageReader::summary(&backend, &query)
        .await
        .unwrap();
    assert_eq!(summary.totals.failed(), 1);
    assert_eq!(summary.totals.completed(), 1);
}

#[tokio::test]
async fn billable_outcomes_are_configurable_and_the_hook_may_panic() {
    async fn totals(
        configure: impl FnOnce(RecorderBuilder) -> RecorderBuilder,
    ) -> crate::usage::Totals {
        let backend = crate::backend::MemoryBackend::new();
        let recorder = configure(Recorder::builder(backend.clone())).start();
        let outcomes = [
            (Outcome::Completed, None, None),
            (Outcome::Failed, Some(Cause::ClientError), None),
            (Outcome::Failed, Some(Cause::ServerError), None),
            (
                Outcome::RateLimited,
                None,
                Some(RejectionReason::RateLimited),
            ),
        ];
        for (index, (outcome, cause, reason)) in outcomes.into_iter().enumerate() {
            assert!(recorder.reserve());
            let mut event = pending();
            let fields = &mut event.fields;
            (fields.outcome, fields.cause, fields.rejection_reason) = (outcome, cause, reason);
            fields.cost = 1 << index;
            recorder.record(&mut event);
        }
        recorder.flush().await;
        let query = crate::usage::SummaryQuery::default();
        let summary = crate::usage::UsageReader::summary(&backend, &query).await;
        summary.unwrap().totals
    }
    let default = totals(|it| it).await;
    assert_eq!((default.billable(), default.billable_cost()), (1, 1));
    assert_eq!((default.total(), default.cost()), (4, 15));
    let also_client_errors =
        totals(|it| it.billable(|_, cause| cause != Some(Cause::ServerError))).await;
    // Never those that the layer rejected.
    assert_eq!(
        (
            also_client_errors.billable(),
            also_client_errors.billable_cost()
        ),
        (2, 3)
    );
    let panics = totals(|it| it.billable(|_, _| panic!("intentional panic of a hook"))).await;
    assert_eq!(panics, default);
}

#[tokio::test]
async fn a_recorder_without_a_sink_only_counts() {
    let recorder = Recorder::counting();
    record(&recorder, 5);
    recorder.count_rejection(RejectionReason::Malformed, Now::ORIGIN, || (None, None));
    recorder.flush().await;
    assert_conserved(&recorder, 5, 0);
    recorder.count_unverified();
    let stats = recorder.stats();
    assert_eq!(stats.rejected, [(RejectionReason::Malformed, 1)]);
    assert_eq!(stats.rejected_for(RejectionReason::Malformed), 1);
    assert_eq!(stats.rejected_for(RejectionReason::Unknown), 0);
    assert_eq!(stats.unverified, 1);
    assert_ne!(recorder.id(), Recorder::counting().id());
    let report = recorder.shutdown(SOON).await;
    assert_eq!(
        report,
        ShutdownReport {
            written: 5,
            lost: 0,
            spooled: 0
        }
    );
    record(&recorder, 2);
    assert_conserved(&recorder, 5, 2);
}
