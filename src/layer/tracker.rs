//! Follows one request to its true end and hands exactly one event to the recorder.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::config::Config;
use super::grpc::{self, Protocol};
use super::recorder_permit::RecorderPermit;
use super::rejection::Rejection;
use super::request_context::RequestContext;
use super::response_headers::ResponseHeaders;
use super::revocation::Watch;
use crate::clock::Now;
use crate::key::CachedKey;
use crate::limit::{Decision, LimitHeaders};
use crate::usage::{
    Abandon, Cause, Method, Outcome, PendingEvent, Place, Recorder, RejectionReason, Status,
};

/// How a request came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer was handed on whole.
    Completed,
    /// The service or its body failed.
    Failed,
    /// The service or its body panicked.
    Panicked,
    /// Nobody waits for it any more.
    Disconnected,
    /// Its key was rejected while the body was under way.
    Refused,
}

/// The tracker of a request under way. As long as everything is ready at once it lives in the
/// response's future and body; once something has to be waited for, the recorder knows it too, so
/// that shutdown can end it.
#[derive(Debug, Default)]
pub(crate) struct RequestTracker(State);

#[derive(Debug, Default)]
enum State {
    /// Nothing to account for, or accounted for already.
    #[default]
    Over,
    /// Boxed, so that passing it on from future to body moves little.
    Own(Box<Tracked>),
    Shared(Arc<Registered>),
}

#[derive(Debug)]
struct Tracked {
    config: Arc<Config>,
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
    additions: ResponseHeaders,
    /// The key, if it is to be checked while the body is under way.
    checked: Option<Arc<CachedKey>>,
}

#[derive(Debug)]
struct Registered {
    running: Mutex<Option<Box<Tracked>>>,
    place: OnceLock<Place>,
}

impl Registered {
    fn lock(&self) -> MutexGuard<'_, Option<Box<Tracked>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the request off the recorder's register, unless shutdown has ended it.
    fn take(&self) -> Option<Box<Tracked>> {
        let running = self.lock().take()?;
        if let Some(place) = self.place.get() {
            running.config.recorder.open().leave(*place);
        }
        Some(running)
    }
}

impl Abandon for Registered {
    fn abandon(&self) {
        let running = self.lock().take();
        if let Some(running) = running {
            running.end(End::Disconnected);
        }
    }
}

impl RequestTracker {
    /// Follows a request from here.
    #[inline]
    pub(super) fn of(
        config: &Arc<Config>,
        context: &RequestContext<'_>,
        key: Option<&Arc<CachedKey>>,
        cost: u32,
        limited: Option<(&LimitHeaders, &Decision)>,
    ) -> Self {
        let (draft, is_open) = context.pending_event(config, key);
        Self(State::Own(Box::new(Tracked {
            config: config.clone(),
            draft: PendingEvent { cost, ..draft },
            began: context.began,
            protocol: None,
            is_open,
            bodyless: false,
            expected: None,
            superseded: None,
            additions: context.admitted(config, limited),
            checked: config.stream_checks.and_then(|_| key.cloned()),
        })))
    }

    /// Gives the answer its headers.
    #[inline]
    pub(super) fn add_headers(&mut self, headers: &mut HeaderMap) {
        self.with(|running| running.additions.apply(headers));
    }

    /// Accounts for the request only as long as this is not set.
    pub(super) fn supersede_by(&mut self, superseded: Arc<AtomicBool>) {
        self.with(|running| running.superseded = Some(superseded));
    }

    /// For a request that is not accounted for.
    pub(crate) fn disabled() -> Self {
        Self(State::Over)
    }

    /// Lets somebody else account for the request after all.
    pub(super) fn cancel(mut self) -> RecorderPermit<Recorder> {
        let running = match std::mem::take(&mut self.0) {
            State::Over => None,
            State::Own(running) => Some(running),
            State::Shared(registered) => registered.take(),
        };
        running.map_or_else(RecorderPermit::none, |running| {
            RecorderPermit::with(running.config.recorder.clone())
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
        let config = running.config.clone();
        let registered = Arc::new(Registered {
            running: Mutex::new(Some(running)),
            place: OnceLock::new(),
        });
        let weak = Arc::downgrade(&registered);
        let place = config.recorder.open().enter(weak);
        let _ = registered.place.set(place);
        self.0 = State::Shared(registered);
    }

    #[inline]
    fn with(&mut self, act: impl FnOnce(&mut Tracked)) {
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
    pub(crate) fn on_response<B: Body>(&mut self, response: &Response<B>) -> bool {
        let ended = response.body().is_end_stream();
        self.with(|running| running.answered(response));
        ended
    }

    /// Checks the key while the body is under way, where that is asked for.
    #[inline]
    pub(super) fn stream_watch(&mut self) -> Option<Box<Watch>> {
        let mut watch = None;
        self.with(|running| {
            if let (Some(key), Some(every)) = (running.checked.take(), running.config.stream_checks)
            {
                watch = Watch::new(running.config.clone(), key, every).map(Box::new);
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
        self.finish(End::Refused);
        trailers
    }

    /// The request is refused after it was admitted: the response is whole.
    pub(super) fn refuse(mut self, reason: RejectionReason, response: &mut Response<Bytes>) {
        self.with(|running| {
            running.additions.complete_rejection(response.headers_mut());
            let protocol = Protocol::of_response(response.headers());
            running.protocol = Some(protocol);
            running.draft.status = protocol.status_of(response);
            running.draft.rejection_reason = Some(reason);
            running.draft.response_bytes = response.body().len() as u64;
        });
        self.finish(End::Completed);
    }

    /// A piece of the body was handed on.
    #[inline]
    pub(crate) fn on_data(&mut self, bytes: usize) {
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
    pub(crate) fn on_trailers(&mut self, trailers: &HeaderMap) {
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
    pub(crate) fn finish(&mut self, end: End) {
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

/// Ends the tracker as failed when the service or its body panics: whoever catches that drops the
/// future only afterwards, when nobody can tell any more.
pub(super) struct PanicGuard<'a>(pub(super) Option<&'a mut RequestTracker>);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if let Some(tracker) = &mut self.0
            && std::thread::panicking()
        {
            tracker.finish(End::Panicked);
        }
    }
}

impl Drop for RequestTracker {
    fn drop(&mut self) {
        if !matches!(self.0, State::Over) {
            let failed = std::thread::panicking();
            self.finish(if failed {
                End::Panicked
            } else {
                End::Disconnected
            });
        }
    }
}

impl Tracked {
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
        let whole = end == End::Completed
            || (end == End::Disconnected && (self.bodyless || self.expected == Some(0)));
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
            let endpoints = &self.config.endpoints;
            self.draft.endpoint = endpoints.known(self.draft.path()).or(self.draft.endpoint);
        }
        let recorder = &self.config.recorder;
        let told_elsewhere = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        if self.superseded.as_ref().is_some_and(told_elsewhere) {
            return recorder.release();
        }
        self.draft.latency_us = self.config.clock.now().micros_since(self.began);
        recorder.record(self.draft);
    }

    /// The service has a gRPC method at the path.
    fn name_by_path(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.draft.endpoint = Some(self.config.endpoints.intern(self.draft.path()));
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
