//! The compact event of an open request.
//!
//! The request path moves little data and allocates nothing for it. The recorder collects it in
//! [rows](super::event_rows) when the request ends.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::outcome::{Cause, Outcome, RejectionReason};
use super::saturating;
use super::wire::{Method, Status};
use crate::id::KeyId;
use crate::page::MIN_TIME;

/// The key and owner that an event is attributed to.
pub(crate) trait Attribution: fmt::Debug + Send + Sync {
    fn key(&self) -> KeyId;
    fn owner(&self) -> Option<Arc<str>>;
}

/// The memory of a queued event with strings of typical length, in bytes.
pub(crate) const EVENT_BYTES: u64 = 256;

/// The combined length of an event's strings that [`EVENT_BYTES`] includes.
pub(crate) const USUAL_TEXT_BYTES: usize = 96;

/// The length of a path whose memory is kept for the next event.
const KEPT_PATH_BYTES: usize = 256;

/// The event of an open request.
#[derive(Debug)]
pub(crate) struct PendingEvent {
    pub(crate) fields: EventFields,
    pub(crate) attribution: Option<Arc<dyn Attribution>>,
    /// The path in UTF-8.
    pub(crate) path: Vec<u8>,
    /// The request id, if it is not the event id.
    pub(crate) request_id: Option<Box<str>>,
    pub(crate) endpoint: Option<Arc<str>>,
    pub(crate) resource_id: Option<Box<str>>,
}

/// The fields of an event that have a fixed size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventFields {
    pub(crate) id: Uuid,
    /// Microseconds since the Unix epoch.
    pub(crate) time: i64,
    pub(crate) latency_us: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) client_ip: Option<IpAddr>,
    pub(crate) cost: u32,
    pub(crate) status: Status,
    pub(crate) method: Method,
    pub(crate) outcome: Outcome,
    pub(crate) cause: Option<Cause>,
    pub(crate) rejection_reason: Option<RejectionReason>,
    /// Set when the recorder takes the event out of its queue: by default, whether the outcome is billable.
    pub(crate) billable: bool,
    /// Whether the key was rejected; such events are queued in extra capacity.
    pub(crate) is_rejected: bool,
}

impl PendingEvent {
    /// An event without any data.
    pub(crate) fn empty() -> Self {
        Self {
            fields: EventFields::EMPTY,
            attribution: None,
            path: Vec::new(),
            request_id: None,
            endpoint: None,
            resource_id: None,
        }
    }

    /// Releases what the event refers to and its long texts.
    pub(crate) fn clear(&mut self) {
        self.attribution = None;
        if self.path.capacity() > KEPT_PATH_BYTES {
            self.path = Vec::new();
        }
        self.request_id = None;
        self.endpoint = None;
        self.resource_id = None;
    }

    pub(crate) fn path(&self) -> &str {
        std::str::from_utf8(&self.path).unwrap_or_default()
    }

    /// See [`EventFields::extra_bytes`].
    #[inline]
    pub(crate) fn extra_bytes(&self) -> u64 {
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let texts = self.path.len() + length(&self.request_id) + length(&self.resource_id);
        self.fields.extra_bytes(texts)
    }
}

impl EventFields {
    pub(crate) const EMPTY: Self = Self {
        id: Uuid::nil(),
        time: 0,
        latency_us: 0,
        request_bytes: 0,
        response_bytes: 0,
        client_ip: None,
        cost: 0,
        status: Status::None,
        method: Method::Other,
        outcome: Outcome::Failed,
        cause: None,
        rejection_reason: None,
        billable: false,
        is_rejected: false,
    };

    /// The memory of an event with strings of this total length beyond [`EVENT_BYTES`]; 0 for strings of typical
    /// length. Also 0 for events of rejected keys, which are bounded by their number alone.
    #[inline]
    pub(crate) fn extra_bytes(&self, texts: usize) -> u64 {
        if self.is_rejected {
            return 0;
        }
        texts.saturating_sub(USUAL_TEXT_BYTES) as u64
    }

    /// With numbers that every database can store.
    #[inline]
    pub(crate) fn normalized(self) -> Self {
        Self {
            time: self.time.max(MIN_TIME.as_microsecond()),
            latency_us: self.latency_us.min(saturating::MAX),
            request_bytes: self.request_bytes.min(saturating::MAX),
            response_bytes: self.response_bytes.min(saturating::MAX),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_bytes_count_all_strings() {
        let text = |length| Some("x".repeat(length).into());
        let mut event = PendingEvent {
            path: vec![b'x'; 80],
            request_id: text(40),
            resource_id: text(30),
            ..crate::usage::recorder::tests::pending()
        };
        assert_eq!(event.extra_bytes(), 80 + 40 + 30 - 96);
        event.fields.is_rejected = true;
        assert_eq!(event.extra_bytes(), 0);
    }
}
