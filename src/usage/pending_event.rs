//! An event while its request is under way: compact, so that the request path moves little and
//! allocates nothing for it. The recorder turns it into a [`UsageEvent`] in the background.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use smallvec::SmallVec;
use uuid::Uuid;

use super::event::{UNMATCHED, UsageEvent};
use super::outcome::{Cause, Outcome, RejectionReason};
use super::wire::{Method, Status};
use crate::id::KeyId;

/// Whom an event counts for.
pub(crate) trait Attribution: fmt::Debug + Send + Sync {
    fn key(&self) -> KeyId;
    fn owner(&self) -> Option<Arc<str>>;
}

/// What an event takes while it waits, with texts of the usual length.
pub(crate) const EVENT_BYTES: u64 = 256;

/// Texts of an event that [`EVENT_BYTES`] covers: as long as a request id.
const USUAL_TEXT_BYTES: usize = 64;

/// A path's bytes; most are short enough to need no memory of their own.
pub(crate) type Path = SmallVec<[u8; 64]>;

#[derive(Debug)]
pub(crate) struct PendingEvent {
    pub(crate) id: Uuid,
    pub(crate) attribution: Option<Arc<dyn Attribution>>,
    pub(crate) path: Path,
    /// The request id on the wire, where it is not the event's.
    pub(crate) request_id: Option<Box<str>>,
    pub(crate) endpoint: Option<Arc<str>>,
    pub(crate) resource_id: Option<Box<str>>,
    pub(crate) client_ip: Option<IpAddr>,
    /// Microseconds since the Unix epoch.
    pub(crate) time: i64,
    pub(crate) latency_us: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) cost: u32,
    pub(crate) status: Status,
    pub(crate) method: Method,
    pub(crate) outcome: Outcome,
    pub(crate) cause: Option<Cause>,
    pub(crate) rejection_reason: Option<RejectionReason>,
    /// The key was rejected: queued outside of the capacity.
    pub(crate) is_rejected: bool,
}

impl PendingEvent {
    pub(crate) fn path(&self) -> &str {
        std::str::from_utf8(&self.path).unwrap_or_default()
    }

    /// What it takes beyond [`EVENT_BYTES`]: nothing, with texts of the usual length. Few events of rejected keys
    /// wait at one time, so that they are bounded by their number alone.
    #[inline]
    pub(crate) fn extra_bytes(&self) -> u64 {
        if self.is_rejected {
            return 0;
        }
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let path = if self.path.spilled() {
            self.path.capacity()
        } else {
            0
        };
        let texts = path + length(&self.request_id) + length(&self.resource_id);
        texts.saturating_sub(USUAL_TEXT_BYTES) as u64
    }

    pub(crate) fn into_event(self, unmatched: &Arc<str>) -> UsageEvent {
        debug_assert_eq!(&**unmatched, UNMATCHED);
        UsageEvent {
            id: self.id,
            key: self.attribution.as_ref().map(|who| who.key()),
            owner: self.attribution.as_ref().and_then(|who| who.owner()),
            time: Timestamp::from_microsecond(self.time).unwrap_or(Timestamp::UNIX_EPOCH),
            method: self.method,
            path: self.path().into(),
            request_id: self.request_id,
            endpoint: self.endpoint.unwrap_or_else(|| unmatched.clone()),
            resource_id: self.resource_id,
            status: self.status,
            outcome: self.outcome,
            cause: self.cause,
            rejection_reason: self.rejection_reason,
            cost: self.cost,
            latency_us: self.latency_us,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            client_ip: self.client_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_takes_what_it_is_said_to_take() {
        assert!(size_of::<PendingEvent>() as u64 <= EVENT_BYTES);
    }

    #[test]
    fn all_texts_beyond_the_usual_are_told() {
        let text = |length| Some("x".repeat(length).into());
        let draft = PendingEvent {
            path: Path::from_vec(vec![b'x'; 80]),
            request_id: text(40),
            resource_id: text(30),
            ..crate::usage::recorder::tests::pending()
        };
        assert_eq!(draft.extra_bytes(), 80 + 40 + 30 - 64);
        let rejected = PendingEvent {
            is_rejected: true,
            ..draft
        };
        assert_eq!(rejected.extra_bytes(), 0);
    }
}
