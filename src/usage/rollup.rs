//! Events added up.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::UsageEvent;
use super::granularity::Granularity;
use super::latency::LatencyHistogram;
use super::outcome::{Cause, Outcome};
use super::saturating::{self, add};
use super::wire::{Method, Status};
use crate::id::KeyId;

/// The events of one key, owner, bucket of time, method, endpoint, status, outcome and cause, added
/// up.
///
/// RollupStore of the same group merge by addition, in any order, and sums stop at 2⁶³ − 1, the largest
/// number that every database holds, instead of overflowing. To make one by hand, start from
/// [`Rollup::of`] and set its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rollup {
    /// The key that asked; `None` for anonymous requests.
    pub key: Option<KeyId>,
    /// Where the bucket starts: a multiple of its width in UTC.
    pub start: Timestamp,
    /// How wide the bucket is.
    pub granularity: Granularity,
    /// The key's owner at the time.
    pub owner: Option<Arc<str>>,
    /// The requests' method.
    pub method: Method,
    /// The route's template.
    pub endpoint: Arc<str>,
    /// How they were answered.
    pub status: Status,
    /// What came of them.
    pub outcome: Outcome,
    /// Why they failed, if they did.
    pub cause: Option<Cause>,
    /// How many requests.
    pub count: u64,
    /// What they cost of the key's limits.
    pub cost: u64,
    /// Bytes of their requests' bodies.
    pub request_bytes: u64,
    /// Bytes of their responses' bodies.
    pub response_bytes: u64,
    /// How long they took.
    pub latency: LatencyHistogram,
}

impl Rollup {
    /// One event as a rollup of the width.
    pub fn of(event: &UsageEvent, width: Granularity) -> Self {
        let mut rollup = Self {
            key: event.key,
            start: width.floor(event.time),
            granularity: width,
            owner: event.owner.clone(),
            method: event.method,
            endpoint: event.endpoint.clone(),
            status: event.status,
            outcome: event.outcome,
            cause: event.cause,
            count: 0,
            cost: 0,
            request_bytes: 0,
            response_bytes: 0,
            latency: LatencyHistogram::new(),
        };
        rollup.add(event);
        rollup
    }

    /// Counts an event of the same group.
    pub(crate) fn add(&mut self, event: &UsageEvent) {
        add(&mut self.count, 1);
        add(&mut self.cost, event.cost.into());
        add(&mut self.request_bytes, event.request_bytes);
        add(&mut self.response_bytes, event.response_bytes);
        self.latency.record(event.latency_us);
    }

    /// Adds a rollup of the same group.
    pub(crate) fn merge(&mut self, other: &Self) {
        add(&mut self.count, other.count);
        add(&mut self.cost, other.cost);
        add(&mut self.request_bytes, other.request_bytes);
        add(&mut self.response_bytes, other.response_bytes);
        self.latency.merge(&other.latency);
    }

    /// With no sum beyond where sums stop, which one that was made by hand may have.
    pub(super) fn bounded(self) -> Self {
        Self {
            count: self.count.min(saturating::MOST),
            cost: self.cost.min(saturating::MOST),
            request_bytes: self.request_bytes.min(saturating::MOST),
            response_bytes: self.response_bytes.min(saturating::MOST),
            ..self
        }
    }
}
