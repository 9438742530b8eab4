//! The compact event of an open request.
//!
//! The request path moves little data and allocates nothing for it. The recorder converts it into a [`UsageEvent`]
//! in the background.

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

/// The key and owner that an event is attributed to.
pub(crate) trait Attribution: fmt::Debug + Send + Sync {
    fn key(&self) -> KeyId;
    fn owner(&self) -> Option<Arc<str>>;
}

/// The memory of a queued event with strings of typical length, in bytes.
pub(crate) const EVENT_BYTES: u64 = 256;

/// The combined length of an event's strings that [`EVENT_BYTES`] includes.
const USUAL_TEXT_BYTES: usize = 64;

/// The bytes of a path. Most paths are short enough to be stored inline.
pub(crate) type Path = SmallVec<[u8; 64]>;

#[derive(Debug)]
pub(crate) struct PendingEvent {
    pub(crate) id: Uuid,
    pub(crate) attribution: Option<Arc<dyn Attribution>>,
    pub(crate) path: Path,
    /// The request id, if it is not the event id.
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
    /// Whether the key was rejected; such events are queued in extra capacity.
    pub(crate) is_rejected: bool,
}

impl PendingEvent {
    pub(crate) fn path(&self) -> &str {
        std::str::from_utf8(&self.path).unwrap_or_default()
    }

    /// The memory beyond [`EVENT_BYTES`]; 0 for strings of typical length. Also 0 for events of rejected keys,
    /// which are bounded by their number alone.
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
            key: self.attribution.as_ref().map(|it| it.key()),
            owner: self.attribution.as_ref().and_then(|it| it.owner()),
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
    fn a_pending_event_fits_into_event_bytes() {
        assert!(size_of::<PendingEvent>() as u64 <= EVENT_BYTES);
    }

    #[test]
    fn extra_bytes_count_all_strings() {
        let text = |length| Some("x".repeat(length).into());
        let event = PendingEvent {
            path: Path::from_vec(vec![b'x'; 80]),
            request_id: text(40),
            resource_id: text(30),
            ..crate::usage::recorder::tests::pending()
        };
        assert_eq!(event.extra_bytes(), 80 + 40 + 30 - 64);
        let rejected = PendingEvent {
            is_rejected: true,
            ..event
        };
        assert_eq!(rejected.extra_bytes(), 0);
    }
}
