//! With time that passes at any moment: what a shutdown cuts off, and what the spool takes.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::sync::atomic::AtomicBool;
use crate::sync::model::pass;
use crate::usage::{Spool, SpoolError, Spooled};

#[derive(Clone, Copy)]
enum Turn {
    Fail,
    Reject,
    Hang,
    /// Writes, and says that it did not.
    WriteAndFail,
}
use Turn::{Fail, Hang, Reject, WriteAndFail};

/// A sink that does what it was told to, try after try, and then writes.
#[derive(Clone)]
struct Scripted {
    script: Arc<Mutex<VecDeque<Turn>>>,
    batches: Arc<Mutex<HashMap<Uuid, u64>>>,
}

impl Scripted {
    fn with(script: &[Turn]) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            batches: Arc::default(),
        }
    }
}

#[async_trait]
impl UsageSink for Scripted {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let turn = self.script.lock().unwrap().pop_front();
        match turn {
            Some(Fail) => return Err(SinkError::unavailable("down")),
            Some(Reject) => return Err(SinkError::rejected("nonsense")),
            Some(Hang) => std::future::pending().await,
            Some(WriteAndFail) | None => {}
        }
        let events = batch.events.len() as u64;
        self.batches.lock().unwrap().insert(batch.id, events);
        match turn {
            Some(_) => Err(SinkError::unavailable("the answer got lost")),
            None => Ok(()),
        }
    }
}

/// A spool in memory.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<VecDeque<Batch>>>);

#[async_trait]
impl Spool for Shelf {
    async fn push(&self, batch: &Batch) -> Result<(), SpoolError> {
        self.0.lock().unwrap().push_back(batch.clone());
        Ok(())
    }

    async fn next(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, SpoolError> {
        let line = self.0.lock().unwrap();
        let after = behind.and_then(|id| line.iter().position(|batch| batch.id == id));
        let next = line.get(after.map_or(0, |index| index + 1));
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

/// Two threads that record, one that asks for a flush, and a shutdown; the task is at any point of it.
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

fn seconds(builder: RecorderBuilder) -> RecorderBuilder {
    let second = Duration::from_secs(1);
    builder
        .batch_size(1)
        .batch_age(second)
        .write_timeout(2 * second)
        .backoff(second, second)
}

#[test]
fn rule_9_what_a_shutdown_cuts_off_is_counted() {
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
fn rule_9_what_is_not_lost_is_in_the_sink_or_in_the_spool() {
    for script in [
        &[][..],
        &[Fail, Fail],
        &[Hang, Hang, Hang],
        &[Reject],
        &[WriteAndFail],
    ] {
        check(move || {
            let (sink, shelf) = (Scripted::with(script), Shelf::default());
            let builder = seconds(Recorder::builder(sink.clone())).spool(shelf.clone());
            let (_, stats) = shut_down(builder.start());
            let mut kept = sink.batches.lock().unwrap().clone();
            for batch in &*shelf.0.lock().unwrap() {
                kept.insert(batch.id, batch.events.len() as u64);
            }
            let kept: u64 = kept.values().sum();
            assert!(kept >= stats.written + stats.spooled, "{stats:?}");
        });
    }
}
