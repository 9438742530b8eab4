//! Events in rows, the compact form in which the recorder collects and batches them.

use std::ops::{Deref, Range};
use std::sync::Arc;

use jiff::Timestamp;

use super::event::{UNMATCHED, UsageEvent};
use super::outcome::{Cause, Outcome, RejectionReason};
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
    rejection_reason: Option<RejectionReason>,
    billable: bool,
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
        // Paths and request ids cannot contain U+0000: `Uri` and `HeaderValue` reject it.
        let resource_id = event.resource_id.take().map(without_nul);
        let ids = [event.request_id.as_deref(), resource_id.as_deref()];
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

    /// Appends the events in a range of other rows, normalized.
    pub(crate) fn append(&mut self, pending: &PendingRows, range: Range<usize>) {
        let (Some(first), Some(last)) = (
            pending.rows.get(range.start),
            pending.rows.get(range.end.wrapping_sub(1)),
        ) else {
            return;
        };
        let (start, texts_at) = (first.texts_at, self.texts.len());
        let texts = start..last.texts_at + last.text_bytes();
        self.texts.extend_from_slice(&pending.texts[texts]);
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
            fields: EventFields {
                billable: row.fields.outcome.is_billable(),
                ..row.fields.normalized()
            },
            key: moved(row.key, first_key, keys_at),
            endpoint: moved(row.endpoint, first_endpoint, endpoints_at),
            texts_at: row.texts_at - start + texts_at,
            ..*row
        }));
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
            billable: event.billable,
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
                fields.billable = outcome.is_billable();
            }
        }
    }

    /// Sets which events are billable, instead of those with a billable outcome. Rejected requests are not.
    pub(crate) fn set_billable(&mut self, billable: impl Fn(Outcome, Option<Cause>) -> bool) {
        for Row { fields, .. } in &mut self.rows {
            fields.billable =
                fields.rejection_reason.is_none() && billable(fields.outcome, fields.cause);
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
            rejection_reason: fields.rejection_reason,
            billable: fields.billable,
        }
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
            billable: fields.billable,
            cost: fields.cost,
            latency_us: fields.latency_us,
            request_bytes: fields.request_bytes,
            response_bytes: fields.response_bytes,
            client_ip: fields.client_ip,
        }
    }
}

/// The shared text of [`UNMATCHED`].
fn unmatched() -> Arc<str> {
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
mod tests;
