//! Rollups: events aggregated by group and time bucket.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::UsageEvent;
use super::granularity::Granularity;
use super::latency::LatencyHistogram;
use super::outcome::{Cause, Outcome, RejectionReason};
use super::saturating::{self, add};
use super::wire::{Method, Status};
use crate::id::KeyId;

/// The aggregated events of one key, owner, time bucket, method, endpoint, status, outcome, cause and rejection
/// reason, either billable or not.
///
/// Rollups of the same group merge by addition, in any order. Instead of overflowing, numbers saturate at 2⁶³ − 1,
/// the largest number that every database can store. To build one yourself, start from [`Rollup::of`] and set its
/// fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rollup {
    /// The key; `None` for anonymous requests.
    pub key: Option<KeyId>,
    /// The start of the time bucket, a multiple of its width in UTC.
    pub start: Timestamp,
    /// The width of the time bucket.
    pub granularity: Granularity,
    /// The key's owner at the time of the requests.
    pub owner: Option<Arc<str>>,
    /// The request method.
    pub method: Method,
    /// The endpoint, such as a route template.
    pub endpoint: Arc<str>,
    /// The response status.
    pub status: Status,
    /// The outcome of the requests.
    pub outcome: Outcome,
    /// The cause of the failure, if the requests failed.
    pub cause: Option<Cause>,
    /// The rejection reason, if the layer rejected the requests.
    pub rejection_reason: Option<RejectionReason>,
    /// Whether the requests are billable.
    pub billable: bool,
    /// The number of requests.
    pub count: u64,
    /// The total cost of the requests.
    pub cost: u64,
    /// The total size of the request bodies in bytes.
    pub request_bytes: u64,
    /// The total size of the response bodies in bytes.
    pub response_bytes: u64,
    /// The latencies of the requests.
    pub latency: LatencyHistogram,
}

impl Rollup {
    /// Creates a rollup of one event, for the UTC bucket of this width that contains it.
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
            rejection_reason: event.rejection_reason,
            billable: event.billable,
            count: 0,
            cost: 0,
            request_bytes: 0,
            response_bytes: 0,
            latency: LatencyHistogram::new(),
        };
        rollup.add_event(event);
        rollup
    }

    /// Adds an event of the same group.
    pub(crate) fn add_event(&mut self, event: &UsageEvent) {
        let bytes = [event.request_bytes, event.response_bytes];
        self.add(event.cost, bytes, event.latency_us);
    }

    /// Adds an event of the same group, with these sizes of its request and response.
    #[inline]
    pub(super) fn add(&mut self, cost: u32, [request, response]: [u64; 2], latency_us: u64) {
        add(&mut self.count, 1);
        add(&mut self.cost, cost.into());
        add(&mut self.request_bytes, request);
        add(&mut self.response_bytes, response);
        self.latency.record(latency_us);
    }

    /// Adds a rollup of the same group.
    pub(crate) fn merge(&mut self, other: &Self) {
        add(&mut self.count, other.count);
        add(&mut self.cost, other.cost);
        add(&mut self.request_bytes, other.request_bytes);
        add(&mut self.response_bytes, other.response_bytes);
        self.latency.merge(&other.latency);
    }

    /// Caps the numbers at the maximum, which a rollup built by a user may exceed.
    pub(super) fn bounded(self) -> Self {
        Self {
            count: self.count.min(saturating::MAX),
            cost: self.cost.min(saturating::MAX),
            request_bytes: self.request_bytes.min(saturating::MAX),
            response_bytes: self.response_bytes.min(saturating::MAX),
            ..self
        }
    }
}
