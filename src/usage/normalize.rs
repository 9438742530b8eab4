//! Normalization of events, so that every database can store them.

use std::ops::Deref;

use super::event::UsageEvent;
use super::saturating;
use crate::page::whole_micros;

/// Normalizes events as documented at [`Batch`](super::Batch). Does not allocate for events that are already
/// normalized.
pub(super) fn normalize(events: &mut [UsageEvent]) {
    for event in events {
        event.time = whole_micros(event.time);
        for number in [
            &mut event.latency_us,
            &mut event.request_bytes,
            &mut event.response_bytes,
        ] {
            *number = (*number).min(saturating::MAX);
        }
        without_nul(&mut event.endpoint);
        without_nul(&mut event.path);
        event.owner.iter_mut().for_each(without_nul);
        event.request_id.iter_mut().for_each(without_nul);
        event.resource_id.iter_mut().for_each(without_nul);
    }
}

/// Replaces U+0000 with U+FFFD, since PostgreSQL cannot store U+0000 in text.
fn without_nul<T: Deref<Target = str> + From<String>>(text: &mut T) {
    if text.contains('\0') {
        *text = text.replace('\0', "\u{fffd}").into();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::usage::{Batch, Status};

    fn not_normalized() -> UsageEvent {
        let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
        event.time = "2026-11-01T10:00:00.123456789Z".parse().unwrap();
        event.owner = Some("\0".into());
        event.endpoint = "/a\0/\0b".into();
        event.path = "/\0".into();
        event.request_id = Some("é\0".into());
        event.resource_id = Some("\0\0".into());
        event.latency_us = u64::MAX;
        event.request_bytes = 1 << 63;
        event.response_bytes = (1 << 63) - 1;
        (event.status, event.cost) = (Status::Http(u16::MAX), u32::MAX);
        event
    }

    #[test]
    fn batches_are_normalized() {
        let shared: Arc<[UsageEvent]> = [not_normalized()].into();
        let created = Batch::new(shared.to_vec());
        let of_shared = Batch::of(shared.clone());
        let mut json = serde_json::to_value(&created).unwrap();
        json["events"][0]["path"] = "/\0".into();
        json["events"][0]["status"] = "500".into();
        json["events"][0]["request_bytes"] = u64::MAX.into();
        let mut deserialized: Batch = serde_json::from_value(json).unwrap();
        Arc::make_mut(&mut deserialized.events)[0].status = Status::Http(u16::MAX);
        assert_eq!(of_shared.events, created.events);
        assert_eq!(deserialized, created);

        let event = &created.events[0];
        assert_eq!(event.time.to_string(), "2026-11-01T10:00:00.123456Z");
        assert_eq!(event.owner.as_deref(), Some("\u{fffd}"));
        assert_eq!(&*event.endpoint, "/a\u{fffd}/\u{fffd}b");
        assert_eq!(&*event.path, "/\u{fffd}");
        assert_eq!(event.request_id.as_deref(), Some("é\u{fffd}"));
        assert_eq!(event.resource_id.as_deref(), Some("\u{fffd}\u{fffd}"));
        let numbers = [event.latency_us, event.request_bytes, event.response_bytes];
        assert_eq!(numbers, [saturating::MAX; 3]);
        assert_eq!(
            (event.status, event.cost),
            (Status::Http(u16::MAX), u32::MAX)
        );
        // Other holders of the shared events see them unchanged.
        assert_eq!(&*shared[0].path, "/\0");
    }

    #[test]
    fn times_are_clamped_to_the_years_1_to_9999() {
        let at = |time| {
            let mut event = UsageEvent::new(time);
            event.time = time;
            Batch::new(vec![event]).events[0].time
        };
        assert_eq!(at(Timestamp::MIN).to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(at(Timestamp::MAX).to_string(), "9999-12-30T22:00:00Z");
    }

    #[test]
    fn normalized_events_are_not_copied() {
        let mut event = UsageEvent::new(Timestamp::now());
        event.owner = Some("customer-17".into());
        event.request_id = Some("wire".into());
        event.resource_id = Some("r1".into());
        let addresses = |event: &UsageEvent| {
            let owned = [&event.request_id, &event.resource_id];
            (
                event.owner.as_ref().map(|text| text.as_ptr()),
                (event.endpoint.as_ptr(), event.path.as_ptr()),
                owned.map(|text| text.as_ref().map(|text| text.as_ptr())),
            )
        };
        let before = addresses(&event);
        let events: Arc<[UsageEvent]> = [event].into();
        let address = events.as_ptr();
        let batch = Batch::of(events);
        assert_eq!(batch.events.as_ptr(), address);
        assert_eq!(addresses(&batch.events[0]), before);
    }
}
