//! A database and a spool with fault injection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use crate::usage::{Batch, SinkError, Spool, SpoolError, Spooled, UsageSink};

/// The behavior of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Works,
    Fails,
    /// Takes effect but returns an error.
    DoesAndFails,
    Hangs,
    Rejects,
}
use Mode::{DoesAndFails, Fails, Hangs, Rejects, Works};

/// A mode that can be changed while operations hang.
#[derive(Clone)]
pub(super) struct Switch(Arc<watch::Sender<Mode>>);

impl Switch {
    pub(super) fn new(mode: Mode) -> Self {
        Self(Arc::new(watch::Sender::new(mode)))
    }

    pub(super) fn set(&self, mode: Mode) {
        self.0.send_replace(mode);
    }

    pub(super) async fn mode(&self) -> Mode {
        let mut modes = self.0.subscribe();
        *modes.wait_for(|mode| *mode != Hangs).await.unwrap()
    }
}

/// A sink that counts each batch once and keeps the numbers of its events in order.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) switch: Switch,
    pub(super) batches: Arc<Mutex<HashMap<Uuid, u32>>>,
    pub(super) numbers: Arc<Mutex<Vec<u64>>>,
}

impl Database {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            switch: Switch::new(mode),
            batches: Arc::default(),
            numbers: Arc::default(),
        }
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.numbers.lock().unwrap().clone()
    }

    pub(super) fn keep(&self, batch: &Batch) {
        let mut batches = self.batches.lock().unwrap();
        let times = batches.entry(batch.id).or_default();
        *times += 1;
        if *times == 1 {
            let numbers = batch.events().iter().map(|event| event.latency_us);
            self.numbers.lock().unwrap().extend(numbers);
        }
    }
}

#[async_trait]
impl UsageSink for Database {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let mode = self.switch.mode().await;
        match mode {
            Fails => return Err(SinkError::unavailable("down")),
            Rejects => return Err(SinkError::rejected("invalid batch")),
            _ => self.keep(batch),
        }
        if mode == DoesAndFails {
            return Err(SinkError::unavailable("connection lost after the write"));
        }
        Ok(())
    }
}

/// An in-memory spool that outlives the recorder.
#[derive(Clone)]
pub(super) struct Shelf {
    pub(super) push: Switch,
    pub(super) next: Switch,
    pub(super) remove: Switch,
    pub(super) line: Arc<Mutex<VecDeque<Spooled>>>,
    pub(super) aside: Arc<Mutex<Vec<Uuid>>>,
    pub(super) pushes: Arc<Mutex<usize>>,
}

fn id_of(spooled: &Spooled) -> Uuid {
    match spooled {
        Spooled::Batch(batch) => batch.id,
        Spooled::Unreadable { id, .. } => *id,
    }
}

impl Shelf {
    pub(super) fn new() -> Self {
        Self {
            push: Switch::new(Works),
            next: Switch::new(Works),
            remove: Switch::new(Works),
            line: Arc::default(),
            aside: Arc::default(),
            pushes: Arc::default(),
        }
    }

    pub(super) fn events(&self) -> u64 {
        let batches = self.line.lock().unwrap();
        let events = batches.iter().map(|spooled| match spooled {
            Spooled::Batch(batch) => batch.len() as u64,
            Spooled::Unreadable { events, .. } => *events,
        });
        events.sum()
    }

    pub(super) fn pushes(&self) -> usize {
        *self.pushes.lock().unwrap()
    }

    pub(super) fn spoil(&self, index: usize) {
        let mut batches = self.line.lock().unwrap();
        let Spooled::Batch(batch) = &batches[index] else {
            panic!("the batch is already unreadable");
        };
        batches[index] = Spooled::Unreadable {
            id: batch.id,
            events: batch.len() as u64,
        };
    }

    /// Performs an operation according to the mode.
    pub(super) async fn with<T>(
        &self,
        switch: &Switch,
        act: impl FnOnce() -> T,
    ) -> Result<T, SpoolError> {
        match switch.mode().await {
            Fails => Err(SpoolError::new("broken")),
            DoesAndFails => {
                act();
                Err(SpoolError::new("connection lost after the write"))
            }
            _ => Ok(act()),
        }
    }
}

#[async_trait]
impl Spool for Shelf {
    async fn push(&self, batch: &Batch) -> Result<(), SpoolError> {
        self.with(&self.push, || {
            *self.pushes.lock().unwrap() += 1;
            let mut batches = self.line.lock().unwrap();
            if batches.iter().all(|it| id_of(it) != batch.id) {
                batches.push_back(Spooled::Batch(batch.clone()));
            }
        })
        .await
    }

    async fn next(&self, behind: Option<Uuid>) -> Result<Option<Spooled>, SpoolError> {
        let next = || {
            let batches = self.line.lock().unwrap();
            let index = batches.iter().position(|it| Some(id_of(it)) == behind);
            batches.get(index.map_or(0, |index| index + 1)).cloned()
        };
        self.with(&self.next, next).await
    }

    async fn remove(&self, id: Uuid) -> Result<(), SpoolError> {
        let remove = || self.line.lock().unwrap().retain(|it| id_of(it) != id);
        self.with(&self.remove, remove).await
    }

    async fn set_aside(&self, id: Uuid) -> Result<(), SpoolError> {
        self.remove(id).await?;
        self.aside.lock().unwrap().push(id);
        Ok(())
    }
}
