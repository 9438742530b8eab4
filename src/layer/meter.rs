//! Follows one request to its true end and hands exactly one event to the recorder.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::answer::{Additions, LimitHeaders};
use super::gate::Gate;
use super::grpc::{self, Protocol};
use super::reject::Rejection;
use super::revocation::Watch;
use super::step::Begun;
use super::visit::Visit;
use crate::clock::Now;
use crate::key::CachedKey;
use crate::limit::Decision;
use crate::usage::{
    Abandon, Cause, Method, Outcome, PendingEvent, Place, Recorder, RejectionReason, Status,
};

/// How a request came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer was handed on whole.
    Whole,
    /// The service or its body failed.
    Failed,
    /// The service or its body panicked.
    Panicked,
    /// Nobody waits for it any more.
    Dropped,
    /// Its key was rejected while the body was under way.
    Refused,
}

/// The meter of a request under way. As long as everything is ready at once it lives in the
/// response's future and body; once something has to be waited for, the recorder knows it too, so
/// that shutdown can end it.
#[derive(Debug, Default)]
pub(crate) struct Meter(State);

#[derive(Debug, Default)]
enum State {
    /// Nothing to account for, or accounted for already.
    #[default]
    Over,
    /// Boxed, so that passing it on from future to body moves little.
    Own(Box<Running>),
    Shared(Arc<Registered>),
}

#[derive(Debug)]
struct Running {
    gate: Arc<Gate>,
    draft: PendingEvent,
    began: Now,
    /// The answer's, once there is one.
    protocol: Option<Protocol>,
    /// Whether a gRPC answer makes the path the [endpoint](super::endpoint::Endpoint::is_open).
    is_open: bool,
    /// Whether there is an answer whose body may stay unread without anything missing.
    bodyless: bool,
    /// Bytes that the answer's body is still to have, where that is known.
    expected: Option<u64>,
    /// Set once a layer further in accounts for the request instead.
    superseded: Option<Arc<AtomicBool>>,
    additions: Additions,
    /// The key, if it is to be checked while the body is under way.
    checked: Option<Arc<CachedKey>>,
}

#[derive(Debug)]
struct Registered {
    running: Mutex<Option<Box<Running>>>,
    place: OnceLock<Place>,
}

impl Registered {
    fn lock(&self) -> MutexGuard<'_, Option<Box<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the request off the recorder's register, unless shutdown has ended it.
    fn take(&self) -> Option<Box<Running>> {
        let running = self.lock().take()?;
        if let Some(place) = self.place.get() {
            running.gate.recorder.open().leave(*place);
        }
        Some(running)
    }
}

impl Abandon for Registered {
    fn abandon(&self) {
        let running = self.lock().take();
        if let Some(running) = running {
            running.end(End::Dropped);
        }
    }
}

impl Meter {
    /// Follows a request from here.
    #[inline]
    pub(super) fn of(
        gate: &Arc<Gate>,
        visit: &Visit<'_>,
        key: Option<&Arc<CachedKey>>,
        cost: u32,
        limited: Option<(&LimitHeaders, &Decision)>,
    ) -> Self {
        let (draft, is_open) = visit.draft(gate, key);
        Self(State::Own(Box::new(Running {
            gate: gate.clone(),
            draft: PendingEvent { cost, ..draft },
            began: visit.began,
            protocol: None,
            is_open,
            bodyless: false,
            expected: None,
            superseded: None,
            additions: visit.admitted(gate, limited),
            checked: gate.stream_checks.and_then(|_| key.cloned()),
        })))
    }

    /// Gives the answer its headers.
    #[inline]
    pub(super) fn add_headers(&mut self, headers: &mut HeaderMap) {
        self.with(|running| running.additions.apply(headers));
    }

    /// Accounts for the request only as long as this is not set.
    pub(super) fn give_way_to(&mut self, superseded: Arc<AtomicBool>) {
        self.with(|running| running.superseded = Some(superseded));
    }

    /// For a request that is not accounted for.
    pub(crate) fn off() -> Self {
        Self(State::Over)
    }

    /// Lets somebody else account for the request after all.
    pub(super) fn withdraw(mut self) -> Begun<Recorder> {
        let running = match std::mem::take(&mut self.0) {
            State::Over => None,
            State::Own(running) => Some(running),
            State::Shared(registered) => registered.take(),
        };
        running.map_or_else(Begun::nothing, |running| {
            Begun::with(running.gate.recorder.clone())
        })
    }

    /// Something has to be waited for: the recorder shall know of the request from now on.
    #[inline]
    pub(crate) fn pending(&mut self) {
        if matches!(self.0, State::Own(_)) {
            self.register();
        }
    }

    #[cold]
    fn register(&mut self) {
        let State::Own(running) = std::mem::take(&mut self.0) else {
            return;
        };
        let gate = running.gate.clone();
        let registered = Arc::new(Registered {
            running: Mutex::new(Some(running)),
            place: OnceLock::new(),
        });
        let weak = Arc::downgrade(&registered);
        let place = gate.recorder.open().enter(weak);
        let _ = registered.place.set(place);
        self.0 = State::Shared(registered);
    }

    #[inline]
    fn with(&mut self, act: impl FnOnce(&mut Running)) {
        match &mut self.0 {
            State::Over => {}
            State::Own(running) => act(running),
            State::Shared(registered) => {
                if let Some(running) = &mut *registered.lock() {
                    act(running);
                }
            }
        }
    }

    /// There is an answer; true if it has no body to wait for.
    #[inline]
    pub(crate) fn answered<B: Body>(&mut self, response: &Response<B>) -> bool {
        let ended = response.body().is_end_stream();
        self.with(|running| running.answered(response));
        ended
    }

    /// Checks the key while the body is under way, where that is asked for.
    #[inline]
    pub(super) fn watch(&mut self) -> Option<Box<Watch>> {
        let mut watch = None;
        self.with(|running| {
            if let (Some(key), Some(every)) = (running.checked.take(), running.gate.stream_checks) {
                watch = Watch::new(running.gate.clone(), key, every).map(Box::new);
            }
        });
        watch
    }

    /// The key was rejected while the body was under way: the trailers that end it over gRPC.
    #[cold]
    pub(super) fn reject(&mut self, reason: RejectionReason) -> Option<HeaderMap> {
        let mut trailers = None;
        self.with(|running| {
            running.draft.rejection_reason = Some(reason);
            if running.protocol == Some(Protocol::Grpc) {
                running.draft.status = Status::Grpc(grpc::UNAUTHENTICATED);
                trailers = Some(grpc::rejected());
            }
        });
        self.end(End::Refused);
        trailers
    }

    /// The request is refused after it was admitted: the response is whole.
    pub(super) fn refuse(mut self, reason: RejectionReason, response: &mut Response<Bytes>) {
        self.with(|running| {
            running.additions.complete_refusal(response.headers_mut());
            let protocol = Protocol::of_response(response.headers());
            running.protocol = Some(protocol);
            running.draft.status = protocol.status_of(response);
            running.draft.rejection_reason = Some(reason);
            running.draft.response_bytes = response.body().len() as u64;
        });
        self.end(End::Whole);
    }

    /// A piece of the body was handed on.
    #[inline]
    pub(crate) fn data(&mut self, bytes: usize) {
        let mut more = false;
        self.with(|running| {
            let bytes = bytes as u64;
            running.expected = running.expected.map(|left| left.saturating_sub(bytes));
            // Where nobody knows what is still to come, a second piece tells that there is much.
            more = match running.expected {
                Some(left) => left > 0,
                None => running.draft.response_bytes > 0,
            };
            running.draft.response_bytes += bytes;
        });
        if more {
            // A client that reads slowly may keep the rest waiting for long.
            self.pending();
        }
    }

    /// Trailers were handed on.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        self.with(|running| {
            if running.protocol == Some(Protocol::Grpc)
                && let Some(code) = grpc::status(trailers)
            {
                running.draft.status = Status::Grpc(code);
            }
        });
    }

    /// The request is over.
    #[inline]
    pub(crate) fn end(&mut self, end: End) {
        match std::mem::take(&mut self.0) {
            State::Over => {}
            State::Own(running) => running.end(end),
            State::Shared(registered) => {
                if let Some(running) = registered.take() {
                    running.end(end);
                }
            }
        }
    }
}

/// Ends the meter as failed when the service or its body panics: whoever catches that drops the
/// future only afterwards, when nobody can tell any more.
pub(super) struct Unwinding<'a>(pub(super) Option<&'a mut Meter>);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if let Some(meter) = &mut self.0
            && std::thread::panicking()
        {
            meter.end(End::Panicked);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if !matches!(self.0, State::Over) {
            let failed = std::thread::panicking();
            self.end(if failed { End::Panicked } else { End::Dropped });
        }
    }
}

impl Running {
    #[inline]
    fn answered<B: Body>(&mut self, response: &Response<B>) {
        let code = response.status();
        let head = self.draft.method == Method::Head;
        self.bodyless = head
            || code.is_informational()
            || code == StatusCode::NO_CONTENT
            || code == StatusCode::NOT_MODIFIED;
        // A server stops asking for more once what was announced is written.
        self.expected = response.body().size_hint().exact().or_else(|| {
            let announced = response.headers().get(CONTENT_LENGTH)?;
            announced.to_str().ok()?.parse().ok()
        });
        let protocol = Protocol::of_response(response.headers());
        self.protocol = Some(protocol);
        self.draft.status = protocol.status_of(response);
        if protocol != Protocol::Http && self.draft.status == Status::Http(200) {
            // Only a method begins to answer without knowing yet how it will end.
            self.name_by_path();
        }
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            self.draft.rejection_reason = Some(rejection.reason);
        }
    }

    /// Completes the event and records it.
    #[inline]
    fn end(mut self: Box<Self>, end: End) {
        let draft = &mut self.draft;
        // An answer that is whole as far as anyone can tell: its announced length was handed on, or
        // it never had a body. hyper stops asking then, and some bodies are never read.
        let whole = end == End::Whole
            || (end == End::Dropped && (self.bodyless || self.expected == Some(0)));
        if end == End::Panicked && draft.status == Status::None {
            // The response of whatever catches it outside; where nothing does, the connection ends without any.
            draft.status = Status::Http(500);
        }
        if self.protocol == Some(Protocol::Grpc) && matches!(draft.status, Status::Http(200)) {
            // No status came: unknown at the end of a stream, cancelled before.
            draft.status = Status::Grpc(if whole {
                grpc::UNKNOWN
            } else {
                grpc::CANCELLED
            });
        }
        // A gRPC call is over with its status, whatever becomes of the stream after it.
        let answered = draft.status != Status::None
            && (whole || matches!(draft.status, Status::Grpc(code) if code != grpc::CANCELLED));
        (draft.outcome, draft.cause) = match (answered, end) {
            (true, _) | (_, End::Refused) => match draft.rejection_reason {
                Some(reason) => Outcome::of_rejection(reason),
                None => Outcome::of(draft.status),
            },
            (false, End::Failed | End::Panicked) => (Outcome::Failed, Some(Cause::ServerError)),
            (false, _) => (Outcome::Failed, Some(Cause::Cancelled)),
        };
        if draft.rejection_reason.is_none() && proves(draft.status) {
            self.name_by_path();
        } else if self.is_open && self.protocol != Some(Protocol::Http) {
            // Unproven, or no response.
            let endpoints = &self.gate.endpoints;
            self.draft.endpoint = endpoints.known(self.draft.path()).or(self.draft.endpoint);
        }
        let recorder = &self.gate.recorder;
        let told_elsewhere = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        if self.superseded.as_ref().is_some_and(told_elsewhere) {
            return recorder.release();
        }
        self.draft.latency_us = self.gate.clock.now().micros_since(self.began);
        recorder.record(self.draft);
    }

    /// The service has a gRPC method at the path.
    fn name_by_path(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.draft.endpoint = Some(self.gate.endpoints.intern(self.draft.path()));
        }
    }
}

/// Whether only a service that has the method ends a call so. The other codes are given for any
/// path too: by fallbacks, interceptors and layers that limit, shed or time out.
fn proves(status: Status) -> bool {
    const ANYWHERE: [u8; 8] = [
        grpc::CANCELLED,
        grpc::UNKNOWN,
        grpc::DEADLINE_EXCEEDED,
        grpc::PERMISSION_DENIED,
        grpc::RESOURCE_EXHAUSTED,
        grpc::UNIMPLEMENTED,
        grpc::UNAVAILABLE,
        grpc::UNAUTHENTICATED,
    ];
    matches!(status, Status::Grpc(code) if !ANYWHERE.contains(&code))
}
