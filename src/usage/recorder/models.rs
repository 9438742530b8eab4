//! Models of the queue, the task and their end: what holds whoever comes first.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use super::queue::{EMPTY, FILLING, HALF, Queue};
use super::tests::{draft, long_draft};
use super::writer::Writer;
use super::*;
use crate::sync::model::{block_on, check, thread};
use crate::usage::{Batch, SinkError};

/// A sink that takes everything.
#[derive(Clone, Default)]
struct Takes(Arc<std::sync::atomic::AtomicU64>);

#[async_trait]
impl UsageSink for Takes {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.0.fetch_add(batch.events.len() as u64, SeqCst);
        Ok(())
    }
}

impl Takes {
    fn events(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// A recorder without its task, and the task.
fn apart(builder: RecorderBuilder) -> (Recorder, Writer) {
    let inner = Inner::new(Some(Queue::new(&builder)), builder.when_full);
    let inner = Arc::new(inner);
    let writer = Writer::new(inner.clone(), builder);
    (Recorder(Arc::new(Handle(inner))), writer)
}

fn queue(recorder: &Recorder) -> &Queue {
    recorder.0.0.queue.as_ref().unwrap()
}

fn record(recorder: &Recorder) {
    assert!(recorder.begin());
    recorder.record(draft());
}

/// Rule 9, once the task has ended.
fn assert_conserved(inner: &Inner, accepted: u64) -> RecorderStats {
    let stats = inner.counters.snapshot();
    assert_eq!(stats.accepted, accepted, "{stats:?}");
    assert_eq!(
        stats.written + stats.lost + stats.spooled,
        accepted,
        "{stats:?}"
    );
    assert_eq!(
        (stats.queued, stats.queued_bytes, stats.open),
        (0, 0, 0),
        "{stats:?}"
    );
    stats
}

#[test]
fn rule_9_what_is_recorded_while_the_task_ends_is_lost_and_counted() {
    check(|| {
        let (recorder, writer) = apart(Recorder::builder(Takes::default()));
        let inner = recorder.0.0.clone();
        let recording = thread(move || {
            assert!(recorder.begin());
            recorder.record(long_draft(7));
        });
        drop(writer);
        recording.join().unwrap();
        assert_eq!(assert_conserved(&inner, 1).lost, 1);
    });
}

#[test]
fn rule_9_what_is_recorded_before_the_last_handle_goes_is_written() {
    check(|| {
        let sink = Takes::default();
        let (recorder, writer) = apart(Recorder::builder(sink.clone()));
        let inner = recorder.0.0.clone();
        let task = thread(|| block_on(writer.run()));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        record(&recorder);
        drop(recorder);
        recording.join().unwrap();
        task.join().unwrap();
        assert_eq!(assert_conserved(&inner, 2).written, 2);
        assert_eq!(sink.events(), 2);
    });
}

#[test]
fn rule_9_what_is_recorded_during_a_shutdown_is_written_or_lost() {
    check(|| {
        let sink = Takes::default();
        let (recorder, writer) = apart(Recorder::builder(sink.clone()));
        let inner = recorder.0.0.clone();
        let task = thread(|| block_on(writer.run()));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let report = block_on(recorder.shutdown(Duration::from_secs(1)));
        recording.join().unwrap();
        task.join().unwrap();
        let stats = assert_conserved(&inner, 1);
        assert_eq!(
            (report.written, sink.events()),
            (stats.written, stats.written)
        );
        assert!(report.lost <= stats.lost);
    });
}

#[test]
fn no_wake_up_is_lost_for_the_first_event() {
    check(|| {
        let (recorder, _writer) = apart(Recorder::builder(Takes::default()));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let queue = queue(&recorder);
        block_on(queue.wait(EMPTY, None, || !queue.drafts.is_empty()));
        assert_eq!(queue.drafts.len(), 1);
        recording.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_for_a_batch() {
    check(|| {
        let (recorder, writer) = apart(Recorder::builder(Takes::default()).batch_size(2));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let another = recorder.clone();
        let recording_too = thread(move || record(&another));
        let queue = queue(&recorder);
        block_on(queue.wait(FILLING, None, || writer.is_due(queue)));
        assert_eq!(queue.drafts.len(), 2);
        recording.join().unwrap();
        recording_too.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_for_half_of_the_capacity() {
    check(|| {
        let (recorder, _writer) = apart(Recorder::builder(Takes::default()).capacity(4));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let another = recorder.clone();
        let recording_too = thread(move || record(&another));
        let queue = queue(&recorder);
        block_on(queue.wait(HALF, None, || recorder.0.0.is_crowded(queue)));
        recording.join().unwrap();
        recording_too.join().unwrap();
    });
}

/// By nothing but the event: nobody asks for it, and the task is never told to end.
#[test]
fn an_event_is_written_by_itself() {
    check(|| {
        let sink = Takes::default();
        let (recorder, writer) = apart(Recorder::builder(sink.clone()).batch_size(1));
        let task = thread(|| block_on(writer.run()));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let counters = &recorder.0.0.counters;
        block_on(queue(&recorder).until(|| counters.settled() >= 1));
        assert_eq!(sink.events(), 1);
        recording.join().unwrap();
        drop(recorder);
        task.join().unwrap();
    });
}

#[test]
fn a_flush_answers_once_all_is_written_that_was_recorded_before() {
    check(|| {
        let sink = Takes::default();
        let (recorder, writer) = apart(Recorder::builder(sink.clone()));
        let task = thread(|| block_on(writer.run()));
        let done = Arc::new(AtomicBool::new(false));
        let (other, flag) = (recorder.clone(), done.clone());
        let recording = thread(move || {
            record(&other);
            flag.store(true, SeqCst);
        });
        let recorded = u64::from(done.load(SeqCst));
        block_on(recorder.flush());
        assert!(sink.events() >= recorded);
        recording.join().unwrap();
        block_on(recorder.flush());
        assert_eq!(sink.events(), 1);
        drop(recorder);
        task.join().unwrap();
    });
}

/// Requests that end at the very same moment may both find the last place.
#[test]
fn no_more_events_wait_than_there_is_room_and_threads() {
    check(|| {
        let (recorder, _writer) = apart(Recorder::builder(Takes::default()).capacity(1));
        let threads = [(); 2].map(|()| {
            let recorder = recorder.clone();
            thread(move || {
                record(&recorder);
                record(&recorder);
            })
        });
        record(&recorder);
        for thread in threads {
            thread.join().unwrap();
        }
        let stats = recorder.stats();
        assert_eq!(
            (stats.accepted, stats.queued),
            (5, stats.accepted - stats.lost)
        );
        assert!((1..=3).contains(&stats.queued), "{stats:?}");
    });
}

#[cfg(keytally_shuttle)]
mod timed;
