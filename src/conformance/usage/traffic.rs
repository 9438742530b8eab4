//! Random but reproducible events of all kinds.

use std::sync::Arc;

use fastrand::Rng;
use jiff::Timestamp;

use crate::conformance::fixture::{Fixture, id, micros, tricky_strings};
use crate::id::KeyId;
use crate::usage::{
    Cause, Method, OTHER_ENDPOINTS, Outcome, RejectionReason, Status, UNMATCHED, UsageEvent,
};

const HOUR: i64 = 3_600_000_000;

/// Generates the events of one run.
pub(in crate::conformance) struct Traffic {
    pub(super) rng: Rng,
    pub(super) keys: Vec<KeyId>,
    pub(super) owners: Vec<Arc<str>>,
    pub(super) endpoints: Vec<Arc<str>>,
    /// The full hour, two to three hours ago, at which the events start. They span two hours.
    pub(super) start: Timestamp,
    texts: Vec<String>,
    tag: KeyId,
    made: u32,
}

impl Traffic {
    pub(in crate::conformance) fn new(seed: u64) -> Self {
        let fixture = Fixture::new();
        let tag = fixture.tag;
        let hour = fixture.now.as_microsecond().div_euclid(HOUR) * HOUR;
        let endpoints = [
            format!("/{tag}/postings/{{id}}"),
            format!("/{tag}/'quoted' \"twice\" \\ %/_"),
            format!("/{tag}/وظائف"),
            format!("/{tag}.Postings/Watch"),
        ];
        Self {
            rng: Rng::with_seed(seed),
            keys: (0..3).map(|_| id()).collect(),
            owners: ["a", "A", "ü'\"\\%"]
                .map(|who| format!("{}-{who}", fixture.owner).into())
                .into(),
            endpoints: endpoints.map(Into::into).into(),
            start: micros(hour - 2 * HOUR),
            texts: tricky_strings(),
            tag,
            made: 0,
        }
    }

    pub(in crate::conformance) fn events(&mut self, count: usize) -> Vec<UsageEvent> {
        let mut events: Vec<UsageEvent> = Vec::with_capacity(count);
        for _ in 0..count {
            let reused = (!events.is_empty() && self.rng.u8(..4) == 0)
                .then(|| events[self.rng.usize(..events.len())].time);
            let time = reused.unwrap_or_else(|| self.time());
            events.push(self.event(time));
        }
        events
    }

    /// A time within the two hours of the run, sometimes the first or last microsecond of a minute.
    pub(super) fn time(&mut self) -> Timestamp {
        let start = self.start.as_microsecond();
        let time = start + self.rng.i64(0..2 * HOUR);
        let minute = time - time.rem_euclid(60_000_000);
        micros(match self.rng.u8(..8) {
            0 => minute,
            1 => (minute - 1).max(start),
            _ => time,
        })
    }

    /// An event at this time with random values in all fields.
    pub(super) fn event(&mut self, time: Timestamp) -> UsageEvent {
        self.made += 1;
        let mut event = UsageEvent::new(time);
        let rng = &mut self.rng;
        event.key = Some(self.keys[rng.usize(..self.keys.len())]);
        event.owner = maybe(rng, 7).then(|| self.owners[rng.usize(..self.owners.len())].clone());
        event.method = Method::ALL[rng.usize(..Method::ALL.len())];
        event.endpoint = match rng.u8(..8) {
            0 => UNMATCHED.into(),
            1 => OTHER_ENDPOINTS.into(),
            _ => self.endpoints[rng.usize(..self.endpoints.len())].clone(),
        };
        let text = &self.texts[rng.usize(..self.texts.len())];
        event.path = format!("/{text}").into();
        event.resource_id = maybe(rng, 5).then(|| format!("{}-{}", self.tag, rng.u8(..5)).into());
        // Some repeat: a client may send the same id any number of times.
        let number = rng.u32(self.made / 2..=self.made);
        event.request_id = maybe(rng, 5).then(|| format!("{}/{number}/{text}", self.tag).into());
        event.status = match rng.u8(..6) {
            0 => Status::None,
            1 => Status::Grpc(rng.u8(..17)),
            2 => Status::Http(rng.u16(100..600)),
            _ => Status::Http([200, 201, 404, 500][rng.usize(..4)]),
        };
        (event.outcome, event.cause, event.rejection_reason) = match rng.u8(..4) {
            0 => (
                Outcome::RateLimited,
                None,
                Some(RejectionReason::RateLimited),
            ),
            1 => {
                let cause = Cause::ALL[rng.usize(..Cause::ALL.len())];
                let reason = RejectionReason::ALL[rng.usize(..RejectionReason::ALL.len())];
                (
                    Outcome::Failed,
                    Some(cause),
                    (cause == Cause::Rejected).then_some(reason),
                )
            }
            2 => (Outcome::Failed, None, None),
            _ => (Outcome::Completed, None, None),
        };
        event.billable = rng.bool();
        event.cost = [0, 1, 5, u32::MAX][rng.usize(..4)];
        event.latency_us = amount(rng, 40);
        event.request_bytes = amount(rng, 45);
        event.response_bytes = amount(rng, 45);
        event.client_ip = match rng.u8(..3) {
            0 => None,
            1 => Some([203, 0, 113, rng.u8(..)].into()),
            _ => Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, rng.u16(..)].into()),
        };
        event
    }
}

/// A random number with fewer bits than this, often small and sometimes large.
fn amount(rng: &mut Rng, bits: u32) -> u64 {
    let bits = rng.u32(1..bits);
    rng.u64(..1 << bits)
}

/// True with a probability of `eighths` in eight.
fn maybe(rng: &mut Rng, eighths: u8) -> bool {
    rng.u8(..8) < eighths
}
