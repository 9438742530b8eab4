//! What the recorder tells `tracing`, where that feature is on.
#![cfg_attr(not(feature = "tracing"), expect(unused_variables))]

use uuid::Uuid;

#[cfg(feature = "tracing")]
use crate::log_throttle::LogThrottle;
use crate::usage::sink::SinkError;
use crate::usage::spool::SpoolError;

/// Events that found no room: the first is told at once, then their number at most once a second.
#[derive(Debug, Default)]
pub(super) struct Drops {
    #[cfg(feature = "tracing")]
    untold: LogThrottle,
}

impl Drops {
    pub(super) fn one(&self) {
        #[cfg(feature = "tracing")]
        if let Some(events) = self.untold.record() {
            tracing::warn!(
                events,
                "usage events lost: the recorder is full or shut down"
            );
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
