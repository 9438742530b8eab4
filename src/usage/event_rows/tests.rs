use super::*;
use crate::usage::recorder::tests::pending;
use crate::usage::{Batch, saturating};

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
    (event.status, event.cost) = (Status::Http(599), u32::MAX);
    event
}

#[test]
fn batches_are_normalized() {
    let created = Batch::new(vec![not_normalized()]);
    let mut json = serde_json::to_value(&created).unwrap();
    json["events"][0]["path"] = "/\0".into();
    json["events"][0]["request_bytes"] = u64::MAX.into();
    let deserialized: Batch = serde_json::from_value(json).unwrap();
    assert_eq!(deserialized, created);

    let event = &created.events()[0];
    assert_eq!(event.time.to_string(), "2026-11-01T10:00:00.123456Z");
    assert_eq!(event.owner.as_deref(), Some("\u{fffd}"));
    assert_eq!(&*event.endpoint, "/a\u{fffd}/\u{fffd}b");
    assert_eq!(&*event.path, "/\u{fffd}");
    assert_eq!(event.request_id.as_deref(), Some("é\u{fffd}"));
    assert_eq!(event.resource_id.as_deref(), Some("\u{fffd}\u{fffd}"));
    let numbers = [event.latency_us, event.request_bytes, event.response_bytes];
    assert_eq!(numbers, [saturating::MAX; 3]);
    assert_eq!((event.status, event.cost), (Status::Http(599), u32::MAX));
}

#[test]
fn times_are_clamped_to_the_years_1_to_9999() {
    let at = |time| {
        let mut event = UsageEvent::new(time);
        event.time = time;
        Batch::new(vec![event]).events()[0].time
    };
    assert_eq!(at(Timestamp::MIN).to_string(), "0001-01-01T00:00:00Z");
    assert_eq!(at(Timestamp::MAX).to_string(), "9999-12-30T22:00:00Z");
}

#[derive(Debug)]
struct Owned(KeyId, &'static str);

impl Attribution for Owned {
    fn key(&self) -> KeyId {
        self.0
    }

    fn owner(&self) -> Option<Arc<str>> {
        Some(self.1.into())
    }
}

fn of_key(number: u128, owner: &'static str) -> Option<Arc<dyn Attribution>> {
    Some(Arc::new(Owned(KeyId::from_number(number), owner)))
}

/// Events with and without each field, taken from two threads in parts.
#[test]
fn pending_events_are_appended_in_any_parts() {
    let first = of_key(1, "acme");
    let route: Arc<str> = "/v1/{id}".into();
    let mut events = Vec::new();
    for (attribution, endpoint, resource_id) in [
        (&None, None, None),
        (&first, Some(&route), Some("r\0")),
        (&first, Some(&route), Some("")),
        (&None, Some(&route), None),
        (&of_key(2, "ac\0me"), None, Some("r4")),
        (&first, Some(&"/\0".into()), None),
    ] {
        let number = events.len();
        let mut event = pending();
        event.attribution.clone_from(attribution);
        event.endpoint = endpoint.cloned();
        event.resource_id = resource_id.map(Into::into);
        event.request_id = (number % 2 == 1).then(|| format!("request-{number}").into());
        event.path = format!("/v1/{number}").as_bytes().into();
        event.fields.latency_us = if number == 5 { u64::MAX } else { number as u64 };
        events.push(event);
    }
    let mut lane = PendingRows::default();
    events.iter_mut().for_each(|event| lane.push(event));
    let mut whole = EventRows::default();
    whole.append(&lane, 0..6);
    let built = whole.to_events();
    assert_eq!(built[5].latency_us, saturating::MAX);
    let paths: Vec<_> = built.iter().map(|event| &*event.path).collect();
    assert_eq!(
        paths,
        ["/v1/0", "/v1/1", "/v1/2", "/v1/3", "/v1/4", "/v1/5"]
    );
    let text = |text: fn(&UsageEvent) -> Option<&str>| -> Vec<_> {
        built
            .iter()
            .map(|event| text(event).unwrap_or("-"))
            .collect()
    };
    let request_ids = ["-", "request-1", "-", "request-3", "-", "request-5"];
    assert_eq!(text(|event| event.request_id.as_deref()), request_ids);
    let resources = ["-", "r\u{fffd}", "", "-", "r4", "-"];
    assert_eq!(text(|event| event.resource_id.as_deref()), resources);
    let owners = ["-", "acme", "acme", "-", "ac\u{fffd}me", "acme"];
    assert_eq!(text(|event| event.owner.as_deref()), owners);
    let endpoints = [
        UNMATCHED,
        "/v1/{id}",
        "/v1/{id}",
        "/v1/{id}",
        UNMATCHED,
        "/\u{fffd}",
    ];
    assert_eq!(text(|event| Some(&event.endpoint)), endpoints);

    for cut in 0..=6 {
        let mut parts = EventRows::default();
        parts.append(&lane, 0..cut);
        parts.append(&lane, cut..6);
        assert_eq!(parts.to_events(), built, "{cut}");
        // Each part has only the entries of its rows.
        let mut part = EventRows::default();
        part.append(&lane, cut..6);
        assert_eq!(part.to_events(), built[cut..], "{cut}");
        assert!(part.keys.len().max(part.endpoints.len()) <= 6 - cut);
    }
    let copied: EventRows = built.iter().cloned().collect();
    assert_eq!(copied.to_events(), built);
    lane.clear(0);
    assert!(lane.is_empty());
}

#[test]
fn owner_without_a_key_is_kept() {
    let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
    event.owner = Some("acme".into());
    assert_eq!(Batch::new(vec![event.clone()]).events(), [event]);
}

#[test]
fn a_row_fits_into_event_bytes() {
    let entries = size_of::<Arc<dyn Attribution>>() + size_of::<Arc<str>>();
    let all = size_of::<Row>() + entries + USUAL_TEXT_BYTES;
    assert!(
        all as u64 <= crate::usage::pending_event::EVENT_BYTES,
        "{all}"
    );
}
