//! Model checks of shutdown and the spool, in which timeouts can elapse at any point.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::sync::atomic::AtomicBool;
use crate::sync::model::pass;
use crate::usage::{Spool, SpoolError, Spooled};

#[derive(Clone, Copy)]
enum Step {
    Fail,
    Reject,
    Hang,
    /// Writes the batch but returns an error.
    WriteAndFail,
}
use Step::{Fail, Hang, Reject, WriteAndFail};

/// A sink that performs one scripted step per write and then succeeds.
#[derive(Clone)]
struct Scripted {
    script: Arc<Mutex<VecDeque<Step>>>,
    batches: Arc<Mutex<HashMap<Uuid, u64>>>,
}

impl Scripted {
    fn with(script: &[Step]) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            batches: Arc::default(),
        }
    }
}

#[async_trait]
impl UsageSink for Scripted {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let step = self.script.lock().unwrap().pop_front();
        match step {
            Some(Fail) => return Err(SinkError::unavailable("down")),
            Some(Reject) => return Err(SinkError::rejected("invalid batch")),
            Some(Hang) => std::future::pending().await,
            Some(WriteAndFail) | None => {}
        }
        let events = batch.len() as u64;
        self.batches.lock().unwrap().insert(batch.id, events);
        match step {
            Some(_) => Err(SinkError::unavailable("connection lost after the write")),
            None => Ok(()),
        }
    }
}

/// A spool in memory.
#[derive(Clone, Default)]
struct MemorySpool(Arc<Mutex<VecDeque<Batch>>>);

#[async_trait]
impl Spool for MemorySpool {
    async fn push(&self, batch: &Batch) -> Result<(), SpoolError> {
        self.0.lock().unwrap().push_back(batch.clone());
        Ok(())
    }

    async fn next(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, SpoolError> {
        let batches = self.0.lock().unwrap();
        let after = behind.and_then(|id| batches.iter().position(|batch| batch.id == id));
        let next = batches.get(after.map_or(0, |index| index + 1));
        Ok(next.cloned().map(Spooled::Batch))
    }

    async fn remove(&self, id: Uuid) -> Result<(), SpoolError> {
        self.0.lock().unwrap().retain(|batch| batch.id != id);
        Ok(())
    }

    async fn set_aside(&self, id: Uuid) -> Result<(), SpoolError> {
        self.remove(id).await
    }
}

/// Runs two recording threads, a flush and a shutdown concurrently with the task.
fn shut_down(recorder: Recorder) -> (ShutdownReport, RecorderStats) {
    let inner = recorder.0.0.clone();
    let over = Arc::new(AtomicBool::new(false));
    let time = thread({
        let over = over.clone();
        move || {
            while !over.load(SeqCst) {
                pass(Duration::from_secs(1));
            }
        }
    });
    let recording = [(); 2].map(|()| {
        let recorder = recorder.clone();
        thread(move || record(&recorder))
    });
    let other = recorder.clone();
    let flushing = thread(move || block_on(other.flush()));
    let report = block_on(recorder.shutdown(Duration::from_secs(8)));
    for recording in recording {
        recording.join().unwrap();
    }
    flushing.join().unwrap();
    block_on(inner.queue.as_ref().unwrap().ended());
    over.store(true, SeqCst);
    time.join().unwrap();
    (report, assert_conserved(&inner, 2))
}

/// Sets timeouts of seconds, the resolution of modeled time.
fn seconds(builder: RecorderBuilder) -> RecorderBuilder {
    let second = Duration::from_secs(1);
    builder
        .batch_size(1)
        .batch_age(second)
        .write_timeout(2 * second)
        .backoff(second, second)
}

mod complete_accounting {
    use super::*;

    #[test]
    fn events_interrupted_by_shutdown_are_counted() {
        for script in [
            &[][..],
            &[Fail],
            &[Hang, Hang, Hang],
            &[Reject],
            &[WriteAndFail],
        ] {
            check(move || {
                let sink = Scripted::with(script);
                let recorder = seconds(Recorder::builder(sink.clone())).start();
                let (report, stats) = shut_down(recorder);
                assert!(report.written <= stats.written, "{report:?} {stats:?}");
                let written: u64 = sink.batches.lock().unwrap().values().sum();
                assert!(written >= stats.written, "{stats:?}");
            });
        }
    }

    #[test]
    fn events_that_are_not_lost_are_in_the_sink_or_the_spool() {
        for script in [
            &[][..],
            &[Fail, Fail],
            &[Hang, Hang, Hang],
            &[Reject],
            &[WriteAndFail],
        ] {
            check(move || {
                let (sink, spool) = (Scripted::with(script), MemorySpool::default());
                let builder = seconds(Recorder::builder(sink.clone())).spool(spool.clone());
                let (_, stats) = shut_down(builder.start());
                let mut kept = sink.batches.lock().unwrap().clone();
                for batch in &*spool.0.lock().unwrap() {
                    kept.insert(batch.id, batch.len() as u64);
                }
                let kept: u64 = kept.values().sum();
                assert!(kept >= stats.written + stats.spooled, "{stats:?}");
            });
        }
    }
}
