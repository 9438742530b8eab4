//! Events in rows, the compact form in which the recorder collects and batches them.

use std::ops::{Deref, Range};
use std::sync::Arc;

use jiff::Timestamp;

use super::event::{UNMATCHED, UsageEvent};
use super::outcome::{Cause, Outcome};
use super::pending_event::{Attribution, EventFields, PendingEvent, USUAL_TEXT_BYTES};
use super::wire::{Method, Status};
use crate::id::KeyId;
use crate::page::whole_micros;

/// Events as rows of fixed size, with their texts in one buffer. Consecutive events of one key or endpoint share an
/// entry. `K` is the type of keys: [`Attributed`], or the attribution of events that are not yet in a batch.
#[derive(Debug, Clone)]
pub(crate) struct EventRows<K = Attributed> {
    rows: Vec<Row>,
    /// The path, request id and resource id of each row, in this order.
    texts: Vec<u8>,
    /// Numbered from 1: 0 is neither a key nor an owner.
    keys: Vec<K>,
    /// Numbered from 1: 0 is [`UNMATCHED`].
    endpoints: Vec<Arc<str>>,
}

/// The events of requests that ended on one thread.
pub(crate) type PendingRows = EventRows<Arc<dyn Attribution>>;

/// A key and its owner at the time of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributed {
    pub(crate) key: Option<KeyId>,
    pub(crate) owner: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    fields: EventFields,
    key: u32,
    endpoint: u32,
    texts_at: usize,
    path: u32,
    request_id: TextLen,
    resource_id: TextLen,
}

/// The length of an optional text in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TextLen(u32);

impl TextLen {
    const NONE: Self = Self(u32::MAX);

    fn get(self) -> Option<usize> {
        (self != Self::NONE).then_some(self.0 as usize)
    }

    fn bytes(self) -> usize {
        self.get().unwrap_or(0)
    }
}

/// One event of [`EventRows`].
#[derive(Clone, Copy)]
pub(crate) struct EventRef<'a> {
    all: &'a EventRows,
    row: &'a Row,
}

/// The fields by which events are grouped, except the time. Valid within one [`EventRows`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowGroup {
    key: u32,
    endpoint: u32,
    status: Status,
    method: Method,
    outcome: Outcome,
    cause: Option<Cause>,
}

impl<K> Default for EventRows<K> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            texts: Vec::new(),
            keys: Vec::new(),
            endpoints: Vec::new(),
        }
    }
}

impl<K> EventRows<K> {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The bytes of memory beyond [`EVENT_BYTES`](super::pending_event::EVENT_BYTES) for each row in the range, and
    /// the number of events of rejected keys.
    pub(crate) fn extra(&self, range: Range<usize>) -> (u64, u64) {
        let rows = self.rows.get(range).unwrap_or_default().iter();
        rows.fold((0, 0), |(bytes, rejected), row| {
            let rejected = rejected + u64::from(row.fields.is_rejected);
            (bytes + row.fields.extra_bytes(row.text_bytes()), rejected)
        })
    }

    /// Removes all events, and keeps the memory for this number of events with typical texts.
    pub(crate) fn clear(&mut self, kept: usize) {
        self.rows.clear();
        self.rows.shrink_to(kept);
        self.texts.clear();
        self.texts.shrink_to(USUAL_TEXT_BYTES * kept);
        self.keys.clear();
        self.keys.shrink_to(kept);
        self.endpoints.clear();
        self.endpoints.shrink_to(kept);
    }

    fn push_row(
        &mut self,
        fields: EventFields,
        key: u32,
        endpoint: u32,
        path: &[u8],
        [request_id, resource_id]: [Option<&str>; 2],
    ) {
        let texts_at = self.texts.len();
        self.texts.extend_from_slice(path);
        let mut push = |text: Option<&str>| match text {
            None => TextLen::NONE,
            Some(text) => {
                self.texts.extend_from_slice(text.as_bytes());
                TextLen(text.len() as u32)
            }
        };
        let (request_id, resource_id) = (push(request_id), push(resource_id));
        self.rows.push(Row {
            fields,
            key,
            endpoint,
            texts_at,
            path: path.len() as u32,
            request_id,
            resource_id,
        });
    }
}

/// The indices of the entries with these numbers, which increase from row to row except where they are 0.
fn numbers(mut of_rows: impl DoubleEndedIterator<Item = u32>) -> Range<usize> {
    let Some(first) = of_rows.find(|number| *number > 0) else {
        return 0..0;
    };
    let last = of_rows.rfind(|number| *number > 0).unwrap_or(first);
    first as usize - 1..last as usize
}

/// The number of the last entry, after pushing the new one unless it is the last already.
#[inline]
fn number_of<T>(entries: &mut Vec<T>, new: T, same: impl Fn(&T, &T) -> bool) -> u32 {
    if entries.last().is_none_or(|last| !same(last, &new)) {
        entries.push(new);
    }
    entries.len() as u32
}

impl PendingRows {
    /// Adds an event. Takes what can be moved out of it.
    #[inline]
    pub(crate) fn push(&mut self, event: &mut PendingEvent) {
        let key = event.attribution.take().map_or(0, |attribution| {
            number_of(&mut self.keys, attribution, Arc::ptr_eq)
        });
        let endpoint = event.endpoint.take().map_or(0, |endpoint| {
            number_of(&mut self.endpoints, endpoint, Arc::ptr_eq)
        });
        let ids = [event.request_id.as_deref(), event.resource_id.as_deref()];
        self.push_row(event.fields, key, endpoint, &event.path, ids);
    }
}

impl EventRows {
    pub(crate) fn with_capacity(events: usize) -> Self {
        Self {
            rows: Vec::with_capacity(events),
            ..Self::default()
        }
    }

    /// Appends the events in a range of other rows. Normalizes what a [`Batch`](super::Batch) normalizes.
    pub(crate) fn append(&mut self, pending: &PendingRows, range: Range<usize>) {
        let (Some(first), Some(last)) = (
            pending.rows.get(range.start),
            pending.rows.get(range.end.wrapping_sub(1)),
        ) else {
            return;
        };
        let start = first.texts_at;
        let texts = &pending.texts[start..last.texts_at + last.text_bytes()];
        let has_nul = texts.contains(&0);
        let (first, texts_at) = (self.rows.len(), self.texts.len());
        self.texts.extend_from_slice(texts);
        let rows = &pending.rows[range];
        let keys = numbers(rows.iter().map(|row| row.key));
        let (first_key, keys_at) = (keys.start as u32, self.keys.len() as u32);
        self.keys
            .extend(pending.keys[keys].iter().map(|key| Attributed {
                key: Some(key.key()),
                owner: key.owner().map(without_nul),
            }));
        let endpoints = numbers(rows.iter().map(|row| row.endpoint));
        let (first_endpoint, endpoints_at) = (endpoints.start as u32, self.endpoints.len() as u32);
        let named = pending.endpoints[endpoints].iter().cloned();
        self.endpoints.extend(named.map(without_nul));
        let moved = |number: u32, from: u32, to: u32| match number {
            0 => 0,
            number => number - from + to,
        };
        self.rows.extend(rows.iter().map(|row| Row {
            fields: row.fields.normalized(),
            key: moved(row.key, first_key, keys_at),
            endpoint: moved(row.endpoint, first_endpoint, endpoints_at),
            texts_at: row.texts_at - start + texts_at,
            ..*row
        }));
        if has_nul {
            self.normalize_texts(first);
        }
    }

    /// Replaces U+0000 in the texts of the rows from this index.
    #[cold]
    fn normalize_texts(&mut self, first: usize) {
        let events: Vec<_> = self.iter().skip(first).map(EventRef::to_event).collect();
        self.rows.truncate(first);
        events.iter().for_each(|event| self.push_event(event));
    }

    /// Adds an event, normalized.
    pub(crate) fn push_event(&mut self, event: &UsageEvent) {
        let key = match (event.key, event.owner.clone().map(without_nul)) {
            (None, None) => 0,
            (key, owner) => number_of(&mut self.keys, Attributed { key, owner }, PartialEq::eq),
        };
        let endpoint = match &event.endpoint {
            endpoint if **endpoint == *UNMATCHED => 0,
            endpoint => number_of(
                &mut self.endpoints,
                without_nul(endpoint.clone()),
                PartialEq::eq,
            ),
        };
        let text = |text: &Option<Box<str>>| text.clone().map(without_nul);
        let (request_id, resource_id) = (text(&event.request_id), text(&event.resource_id));
        let fields = EventFields {
            id: event.id,
            time: whole_micros(event.time).as_microsecond(),
            latency_us: event.latency_us,
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
            cost: event.cost,
            client_ip: event.client_ip,
            status: event.status,
            method: event.method,
            outcome: event.outcome,
            cause: event.cause,
            rejection_reason: event.rejection_reason,
            is_rejected: false,
        };
        let path = without_nul(event.path.clone());
        let ids = [request_id.as_deref(), resource_id.as_deref()];
        self.push_row(fields.normalized(), key, endpoint, path.as_bytes(), ids);
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = EventRef<'_>> {
        self.rows.iter().map(|row| EventRef { all: self, row })
    }

    pub(crate) fn to_events(&self) -> Vec<UsageEvent> {
        self.iter().map(EventRef::to_event).collect()
    }

    /// Replaces the outcome and cause of events that the layer has not rejected.
    pub(crate) fn classify(
        &mut self,
        classify: impl Fn(&UsageEvent) -> Option<(Outcome, Option<Cause>)>,
    ) {
        for index in 0..self.rows.len() {
            let event = EventRef {
                all: self,
                row: &self.rows[index],
            };
            if event.row.fields.rejection_reason.is_none()
                && let Some((outcome, cause)) = classify(&event.to_event())
            {
                let fields = &mut self.rows[index].fields;
                (fields.outcome, fields.cause) = (outcome, cause);
            }
        }
    }
}

impl FromIterator<UsageEvent> for EventRows {
    fn from_iter<I: IntoIterator<Item = UsageEvent>>(events: I) -> Self {
        let mut rows = Self::default();
        events.into_iter().for_each(|event| rows.push_event(&event));
        rows
    }
}

impl Row {
    fn text_bytes(&self) -> usize {
        self.path as usize + self.request_id.bytes() + self.resource_id.bytes()
    }
}

impl<'a> EventRef<'a> {
    pub(crate) fn fields(self) -> &'a EventFields {
        &self.row.fields
    }

    pub(crate) fn group(self) -> RowGroup {
        let fields = &self.row.fields;
        RowGroup {
            key: self.row.key,
            endpoint: self.row.endpoint,
            status: fields.status,
            method: fields.method,
            outcome: fields.outcome,
            cause: fields.cause,
        }
    }

    /// The number of the key, which consecutive events of one key share.
    pub(crate) fn key_number(self) -> u32 {
        self.row.key
    }

    pub(crate) fn attributed(self) -> Option<&'a Attributed> {
        self.all.keys.get((self.row.key as usize).checked_sub(1)?)
    }

    /// `None` for [`UNMATCHED`].
    pub(crate) fn endpoint(self) -> Option<&'a Arc<str>> {
        let index = (self.row.endpoint as usize).checked_sub(1)?;
        self.all.endpoints.get(index)
    }

    pub(crate) fn time(self) -> Timestamp {
        let time = Timestamp::from_microsecond(self.row.fields.time);
        time.unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The text of this length after this many bytes of the row's texts.
    fn text(self, skipped: usize, len: usize) -> &'a str {
        let start = self.row.texts_at + skipped;
        let bytes = self.all.texts.get(start..start + len);
        std::str::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    }

    fn path(self) -> &'a str {
        self.text(0, self.row.path as usize)
    }

    pub(super) fn request_id(self) -> Option<&'a str> {
        let len = self.row.request_id.get()?;
        Some(self.text(self.row.path as usize, len))
    }

    pub(super) fn resource_id(self) -> Option<&'a str> {
        let skipped = self.row.path as usize + self.row.request_id.bytes();
        Some(self.text(skipped, self.row.resource_id.get()?))
    }

    pub(crate) fn to_event(self) -> UsageEvent {
        let fields = &self.row.fields;
        let attributed = self.attributed();
        UsageEvent {
            id: fields.id,
            request_id: self.request_id().map(Into::into),
            key: attributed.and_then(|it| it.key),
            owner: attributed.and_then(|it| it.owner.clone()),
            time: self.time(),
            method: fields.method,
            endpoint: self.endpoint().cloned().unwrap_or_else(unmatched),
            path: self.path().into(),
            resource_id: self.resource_id().map(Into::into),
            status: fields.status,
            outcome: fields.outcome,
            cause: fields.cause,
            rejection_reason: fields.rejection_reason,
            cost: fields.cost,
            latency_us: fields.latency_us,
            request_bytes: fields.request_bytes,
            response_bytes: fields.response_bytes,
            client_ip: fields.client_ip,
        }
    }
}

/// The shared text of [`UNMATCHED`].
pub(crate) fn unmatched() -> Arc<str> {
    static SHARED: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| UNMATCHED.into());
    SHARED.clone()
}

/// Replaces U+0000 with U+FFFD, since PostgreSQL cannot store U+0000 in text. Does not allocate for other strings.
fn without_nul<T: Deref<Target = str> + From<String>>(text: T) -> T {
    if text.contains('\0') {
        return text.replace('\0', "\u{fffd}").into();
    }
    text
}

#[cfg(test)]
mod tests {
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
}
