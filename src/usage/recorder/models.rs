//! Model checks of the queue and the task under all thread interleavings.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use super::queue::{EMPTY, FILLING, HALF, Queue};
use super::tests::{long_pending, pending};
use super::writer::Writer;
use super::*;
use crate::sync::model::{block_on, check, thread};
use crate::usage::{Batch, SinkError};

/// A sink that accepts everything and counts the events.
#[derive(Clone, Default)]
struct Counting(Arc<std::sync::atomic::AtomicU64>);

#[async_trait]
impl UsageSink for Counting {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.0.fetch_add(batch.len() as u64, SeqCst);
        Ok(())
    }
}

impl Counting {
    fn events(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// A recorder and its writer, which is not running.
fn with_writer(builder: RecorderBuilder) -> (Recorder, Writer) {
    let inner = Arc::new(Inner::new(&builder));
    let writer = Writer::new(inner.clone(), builder);
    (Recorder(Arc::new(Handle(inner))), writer)
}

fn queue(recorder: &Recorder) -> &Queue {
    recorder.0.0.queue.as_ref().unwrap()
}

fn record(recorder: &Recorder) {
    assert!(recorder.reserve());
    recorder.record(&mut pending());
}

/// Asserts invariant 9 after the task has ended.
fn assert_conserved(inner: &Inner, accepted: u64) -> RecorderStats {
    let stats = inner.snapshot();
    assert_eq!(stats.accepted, accepted, "{stats:?}");
    assert_eq!(
        stats.written + stats.lost + stats.spooled,
        accepted,
        "{stats:?}"
    );
    assert_eq!(
        (stats.queued, stats.queued_bytes, stats.in_flight),
        (0, 0, 0),
        "{stats:?}"
    );
    stats
}

mod complete_accounting {
    use super::*;

    #[test]
    fn events_recorded_while_the_task_ends_count_as_lost() {
        check(|| {
            let (recorder, writer) = with_writer(Recorder::builder(Counting::default()));
            let inner = recorder.0.0.clone();
            let recording = thread(move || {
                assert!(recorder.reserve());
                recorder.record(&mut long_pending(7));
            });
            drop(writer);
            recording.join().unwrap();
            assert_eq!(assert_conserved(&inner, 1).lost, 1);
        });
    }

    #[test]
    fn events_recorded_before_the_last_handle_is_dropped_are_written() {
        check(|| {
            let sink = Counting::default();
            let (recorder, writer) = with_writer(Recorder::builder(sink.clone()));
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
    fn events_recorded_during_shutdown_are_written_or_lost() {
        check(|| {
            let sink = Counting::default();
            let (recorder, writer) = with_writer(Recorder::builder(sink.clone()));
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
}

#[test]
fn the_first_event_wakes_the_task() {
    check(|| {
        let (recorder, _writer) = with_writer(Recorder::builder(Counting::default()));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let queue = queue(&recorder);
        let lanes = &recorder.0.0.lanes;
        block_on(queue.wait(lanes, EMPTY, None, || !lanes.is_empty()));
        assert_eq!(lanes.len(), 1);
        recording.join().unwrap();
    });
}

#[test]
fn a_full_batch_wakes_the_task() {
    check(|| {
        let (recorder, writer) = with_writer(Recorder::builder(Counting::default()).batch_size(2));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let another = recorder.clone();
        let recording_too = thread(move || record(&another));
        let queue = queue(&recorder);
        let lanes = &recorder.0.0.lanes;
        block_on(queue.wait(lanes, FILLING, None, || writer.is_due(queue)));
        assert_eq!(lanes.len(), 2);
        recording.join().unwrap();
        recording_too.join().unwrap();
    });
}

#[test]
fn half_of_the_capacity_wakes_the_task() {
    check(|| {
        let (recorder, _writer) = with_writer(Recorder::builder(Counting::default()).capacity(4));
        let other = recorder.clone();
        let recording = thread(move || record(&other));
        let another = recorder.clone();
        let recording_too = thread(move || record(&another));
        let queue = queue(&recorder);
        let lanes = &recorder.0.0.lanes;
        block_on(queue.wait(lanes, HALF, None, || recorder.0.0.is_crowded(queue)));
        recording.join().unwrap();
        recording_too.join().unwrap();
    });
}

/// Without a flush or shutdown.
#[test]
fn recording_an_event_is_enough_to_write_it() {
    check(|| {
        let sink = Counting::default();
        let (recorder, writer) = with_writer(Recorder::builder(sink.clone()).batch_size(1));
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
fn flush_returns_after_all_earlier_events_are_written() {
    check(|| {
        let sink = Counting::default();
        let (recorder, writer) = with_writer(Recorder::builder(sink.clone()));
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

#[test]
fn the_capacity_is_not_exceeded() {
    check(|| {
        let (recorder, _writer) = with_writer(Recorder::builder(Counting::default()).capacity(1));
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
        assert_eq!(stats.queued, 1, "{stats:?}");
    });
}

#[cfg(keytally_shuttle)]
mod timed;
