//! What the recorder tells `tracing`, where that feature is on.
#![cfg_attr(not(feature = "tracing"), expect(unused_variables))]

#[cfg(feature = "tracing")]
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};
#[cfg(feature = "tracing")]
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::usage::sink::SinkError;
use crate::usage::spool::SpoolError;

/// Events that found no room: the first is told at once, then their number at most once a second.
#[derive(Debug, Default)]
pub(super) struct Drops {
    #[cfg(feature = "tracing")]
    untold: AtomicU64,
    #[cfg(feature = "tracing")]
    told: Mutex<Option<Instant>>,
}

impl Drops {
    pub(super) fn one(&self) {
        #[cfg(feature = "tracing")]
        {
            self.untold.fetch_add(1, Relaxed);
            // Nobody waits here: whoever holds it tells of this one too, or the next one will.
            let Ok(mut told) = self.told.try_lock() else {
                return;
            };
            if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                *told = Some(Instant::now());
                drop(told);
                let events = self.untold.swap(0, Relaxed);
                tracing::warn!(
                    events,
                    "usage events lost: the recorder is full or shut down"
                );
            }
        }
    }
}

pub(super) fn given_up(events: u64) {
    #[cfg(feature = "tracing")]
    tracing::error!(events, "usage events lost: the recorder has ended");
}

pub(super) fn rejected(error: &SinkError, events: usize) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        events,
        error = error as &dyn std::error::Error,
        "usage events lost"
    );
}

pub(super) fn retry(error: &SinkError, events: usize) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        events,
        error = error as &dyn std::error::Error,
        "usage write failed, trying again"
    );
}

pub(super) fn spooling() {
    #[cfg(feature = "tracing")]
    tracing::warn!("usage events go to the spool");
}

pub(super) fn drained(events: u64) {
    #[cfg(feature = "tracing")]
    tracing::info!(events, "the usage spool is empty again");
}

pub(super) fn spool_failed(error: &SpoolError) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        error = error as &dyn std::error::Error,
        "usage spool failed, trying again later"
    );
}

pub(super) fn unreadable(batch: Uuid, events: u64) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        events,
        %batch,
        "usage events lost: the spool cannot read them back"
    );
}
