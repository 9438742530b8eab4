//! A request at the gate: what is read of it once and then asked for in several places, and the
//! note that is taken of it.

use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use uuid::Uuid;

use super::answer::{self, Additions, Stretch, Text};
use super::caller::Caller;
use super::endpoint::Endpoint;
use super::gate::Gate;
use super::head::RequestHead;
use super::meter::{Call, Meter, Running, call_of};
use super::terms::Terms;
use crate::clock::Now;
use crate::id::KeyId;
use crate::key::CachedKey;
use crate::limit::Decision;
use crate::usage::{Attribution, Draft, Method, Outcome, Status, event_id};

#[derive(Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) head: RequestHead<'a>,
    pub(super) began: Now,
    pub(super) call: Call,
    /// Who is calling, where an outer layer knows already.
    pub(super) outer: Option<&'a Caller>,
}

/// What is noted about a request.
pub(super) struct Note {
    pub(super) draft: Draft,
    pub(super) additions: Additions,
    /// Whether the endpoint of a gRPC call still has to be proven.
    pub(super) unproven: bool,
}

impl Attribution for CachedKey {
    fn key(&self) -> KeyId {
        self.key.id
    }

    fn owner(&self) -> Option<Arc<str>> {
        self.key.owner.clone()
    }
}

impl<'a> Visit<'a> {
    #[inline]
    pub(super) fn new(head: RequestHead<'a>, began: Now) -> Self {
        Self {
            head,
            began,
            call: call_of(head.method(), head.headers()),
            outer: head.extensions().get(),
        }
    }

    /// The id that the request has on the wire, or puts `own` there.
    #[inline]
    fn wire_id(&self, own: Uuid, text: &mut Text) -> (Additions, Option<Stretch>) {
        if let Some(sent) = self.sent_id() {
            let stretch = text.push(sent.as_bytes());
            return (Additions::sent(sent.clone()), Some(stretch));
        }
        let id = self.outer.map_or(own, Caller::event_id);
        let stretch = text.push_id(id);
        (Additions::minted(stretch), (id != own).then_some(stretch))
    }

    fn sent_id(&self) -> Option<&'a HeaderValue> {
        answer::sane_request_id(self.head.headers())
    }

    /// What the answer of an unaccounted request is given: its id.
    pub(super) fn unnoted(&self) -> (Additions, bytes::Bytes) {
        let mut text = Text::new();
        let (additions, _) = self.wire_id(event_id(self.began.micros()), &mut text);
        (additions, text.into_bytes())
    }

    /// Takes a note of the request, with where the limits stand for its answer.
    #[inline]
    pub(super) fn note(
        &self,
        gate: &Gate,
        attribution: Option<Arc<CachedKey>>,
        limited: Option<(&Terms, &Decision)>,
    ) -> Note {
        let head = self.head;
        let id = event_id(self.began.micros());
        let mut text = Text::new();
        let path = text.push(clipped(head.uri().path()).as_bytes());
        let (mut additions, request_id) = self.wire_id(id, &mut text);
        if let Some((terms, decision)) = limited
            && let Some(headers) = &terms.headers
        {
            additions.add_limits(gate.header_style, headers, decision, &mut text);
        }
        let (endpoint, unproven) = match gate.endpoints.of(head, self.call != Call::Http) {
            Endpoint::Named(name) => (Some(name), false),
            Endpoint::Unproven => (None, true),
            Endpoint::Unmatched => (None, false),
        };
        let draft = Draft {
            id,
            attribution: attribution.map(|entry| entry as Arc<dyn Attribution>),
            text: text.into_bytes(),
            path_len: path.len(),
            request_id_len: request_id.map_or(0, Stretch::len),
            endpoint,
            resource_id: gate
                .resource_id
                .as_ref()
                .and_then(|of| Some(clipped(&of(head)?).into())),
            client_address: gate.client_address.of(head),
            time: self.began.micros(),
            latency_us: 0,
            request_bytes: announced_length(head.headers()),
            response_bytes: 0,
            cost: 0,
            status: Status::None,
            method: Method::from(head.method()),
            outcome: Outcome::Failed,
            cause: None,
            refusal: None,
        };
        Note {
            draft,
            additions,
            unproven,
        }
    }

    /// Follows the request from here.
    #[inline]
    pub(super) fn meter(&self, gate: &Arc<Gate>, draft: Draft, unproven: bool) -> Meter {
        Meter::of(Running {
            gate: gate.clone(),
            draft,
            began: self.began,
            call: self.call,
            unproven,
            bodyless: false,
            expected: None,
        })
    }
}

/// At most a kilobyte of what a client sent.
#[inline]
fn clipped(text: &str) -> &str {
    const MOST: usize = 1_024;
    &text[..text.floor_char_boundary(MOST)]
}

#[inline]
fn announced_length(headers: &HeaderMap) -> u64 {
    headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}
