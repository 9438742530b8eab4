//! [`RequestTracker`]: tracks a request to completion and passes exactly one event to the recorder.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::config::Config;
use super::cost::{Cost, FinalCost};
use super::grpc::{self, Protocol};
use super::recorder_permit::RecorderPermit;
use super::rejection::Rejection;
use super::request_context::RequestContext;
use super::response_headers::{ResponseHeaders, WireId};
use super::revocation::Watch;
use crate::clock::Now;
use crate::key::CachedKey;
use crate::limit::{AttachedLimits, Decision};
use crate::usage::{
    Abandon, Attribution, Cause, Method, Outcome, PendingEvent, Recorder, RegistrationId,
    RejectionReason, Status,
};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The complete response was passed to the server.
    Completed,
    /// The service or its body returned an error.
    Failed,
    /// The service or its body panicked.
    Panicked,
    /// The client disconnected, or the process shut down.
    Disconnected,
    /// The key was rejected while the body was streaming.
    Rejected,
}

/// Tracks a request in progress, from the response future to the end of the response body.
///
/// It is registered with the recorder as soon as the request has to wait for something, so that a shutdown can end
/// it.
#[derive(Debug, Default)]
pub(crate) struct RequestTracker(State);

#[derive(Debug, Default)]
enum State {
    /// Not recorded, or already recorded.
    #[default]
    Over,
    /// Not registered.
    Own(Box<Tracked>),
    /// Registered with the recorder.
    Shared(Arc<Registered>),
}

/// The state of a request in progress. Filled in place and reused by the thread on which the request ends.
#[derive(Debug)]
struct Tracked {
    /// `None` while it is not in use.
    config: Option<Arc<Config>>,
    /// The event, without its key.
    event: PendingEvent,
    entry: Option<Arc<CachedKey>>,
    /// The decision about the limits of the key.
    decision: Decision,
    began: Now,
    /// The protocol of the response, once there is one.
    protocol: Option<Protocol>,
    /// Whether a gRPC response makes the path the [endpoint](super::endpoint::Endpoint::is_open).
    is_open: bool,
    /// Whether the response is complete without its body being read.
    has_no_body: bool,
    /// The remaining length of the response body in bytes, if known.
    expected: Option<u64>,
    /// Set when a nested layer records the request instead.
    superseded: Option<Arc<AtomicBool>>,
    final_cost: FinalCost,
}

/// The number of unused states that a thread keeps, of about 500 bytes each.
const SPARE: usize = 32;

thread_local! {
    #[expect(clippy::vec_box, reason = "states are moved in and out by pointer")]
    static UNUSED: RefCell<Vec<Box<Tracked>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Registered {
    tracked: Mutex<Option<Box<Tracked>>>,
    place: OnceLock<RegistrationId>,
}

impl Registered {
    fn lock(&self) -> MutexGuard<'_, Option<Box<Tracked>>> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deregisters the request, unless a shutdown has ended it.
    fn take(&self) -> Option<Box<Tracked>> {
        let tracked = self.lock().take()?;
        if let (Some(place), Some(config)) = (self.place.get(), &tracked.config) {
            config.recorder.in_flight().leave(*place);
        }
        Some(tracked)
    }
}

impl Abandon for Registered {
    fn abandon(&self) {
        let tracked = self.lock().take();
        if let Some(tracked) = tracked {
            tracked.end(End::Disconnected);
        }
    }
}

impl RequestTracker {
    /// Starts tracking a request.
    #[inline]
    pub(super) fn of(
        config: &Arc<Config>,
        context: &RequestContext<'_>,
        key: Option<&Arc<CachedKey>>,
        cost: u32,
        decision: &Decision,
    ) -> Self {
        let mut tracked = Tracked::take();
        tracked.is_open = context.begin_event(config, &mut tracked.event);
        tracked.event.fields.cost = cost;
        tracked.final_cost.renew();
        tracked.entry = key.cloned();
        tracked.decision = *decision;
        tracked.began = context.began;
        tracked.config = Some(config.clone());
        Self(State::Own(tracked))
    }

    /// The cost of the event, and the one that replaces it.
    #[inline]
    pub(super) fn costs(&mut self) -> Option<(u32, FinalCost)> {
        let mut costs = None;
        self.with(|tracked| {
            costs = Some((tracked.event.fields.cost, tracked.final_cost.clone()));
        });
        costs
    }

    /// Records the request only if this flag is not set when it ends.
    pub(super) fn supersede_by(&mut self, superseded: Arc<AtomicBool>) {
        self.with(|tracked| tracked.superseded = Some(superseded));
    }

    /// A tracker for a request that is not recorded.
    pub(crate) fn disabled() -> Self {
        Self(State::Over)
    }

    /// Stops tracking without recording, and returns the permit.
    pub(super) fn cancel(mut self) -> RecorderPermit<Recorder> {
        let tracked = match std::mem::take(&mut self.0) {
            State::Over => None,
            State::Own(tracked) => Some(tracked),
            State::Shared(registered) => registered.take(),
        };
        let config = tracked.and_then(|mut tracked| {
            let config = tracked.config.take();
            tracked.give_back();
            config
        });
        config.map_or_else(RecorderPermit::none, |config| {
            RecorderPermit::with(config.recorder.clone())
        })
    }

    /// Registers the request with the recorder, because it has to wait.
    #[inline]
    pub(crate) fn pending(&mut self) {
        if matches!(self.0, State::Own(_)) {
            self.register();
        }
    }

    #[cold]
    fn register(&mut self) {
        let State::Own(tracked) = std::mem::take(&mut self.0) else {
            return;
        };
        let config = tracked.config.clone();
        let registered = Arc::new(Registered {
            tracked: Mutex::new(Some(tracked)),
            place: OnceLock::new(),
        });
        if let Some(config) = config {
            let weak = Arc::downgrade(&registered);
            let place = config.recorder.in_flight().enter(weak);
            let _ = registered.place.set(place);
        }
        self.0 = State::Shared(registered);
    }

    #[inline]
    fn with(&mut self, update: impl FnOnce(&mut Tracked)) {
        match &mut self.0 {
            State::Over => {}
            State::Own(tracked) => update(tracked),
            State::Shared(registered) => {
                if let Some(tracked) = &mut *registered.lock() {
                    update(tracked);
                }
            }
        }
    }

    /// Records the head of the response and adds the headers to it. Ends the request if there is no body to wait for.
    #[inline]
    pub(super) fn on_response(&mut self, response: &mut Parts, body: &impl Body) {
        self.with(|tracked| {
            tracked.answered(response, body);
            if let Some(added) = tracked.headers() {
                added.apply(&mut response.headers);
            }
        });
        if body.is_end_stream() {
            self.finish(End::Completed);
        }
    }

    /// Returns the watch that checks the key while the body is streaming, if enabled.
    #[inline]
    pub(super) fn stream_watch(&mut self) -> Option<Box<Watch>> {
        let mut watch = None;
        self.with(|tracked| {
            if let (Some(config), Some(key)) = (&tracked.config, &tracked.entry)
                && let Some(every) = config.stream_checks
            {
                watch = Watch::new(config.clone(), key.clone(), every).map(Box::new);
            }
        });
        watch
    }

    /// Ends a stream whose key was rejected. Returns the trailers if it is gRPC.
    #[cold]
    pub(super) fn reject(&mut self, reason: RejectionReason) -> Option<HeaderMap> {
        let mut trailers = None;
        self.with(|tracked| {
            tracked.event.fields.rejection_reason = Some(reason);
            if tracked.protocol == Some(Protocol::Grpc) {
                tracked.event.fields.status = Status::Grpc(grpc::UNAUTHENTICATED);
                trailers = Some(grpc::rejected());
            }
        });
        self.finish(End::Rejected);
        trailers
    }

    /// Records the rejection of a request that was admitted before. The response is complete.
    pub(super) fn reject_admitted(
        mut self,
        reason: RejectionReason,
        response: &mut Response<Bytes>,
    ) {
        self.with(|tracked| {
            ResponseHeaders::request_id(tracked.wire_id()).apply(response.headers_mut());
            let protocol = Protocol::of_response(response.headers());
            tracked.protocol = Some(protocol);
            tracked.event.fields.status = protocol.status_of(response.status(), response.headers());
            tracked.event.fields.rejection_reason = Some(reason);
            tracked.event.fields.response_bytes = response.body().len() as u64;
        });
        self.finish(End::Completed);
    }

    /// Records a data frame passed to the server.
    #[inline]
    pub(crate) fn on_data(&mut self, bytes: usize) {
        let mut more = false;
        self.with(|tracked| {
            let bytes = bytes as u64;
            tracked.expected = tracked.expected.map(|left| left.saturating_sub(bytes));
            // Without a known length, assume more data after the second frame.
            more = match tracked.expected {
                Some(left) => left > 0,
                None => tracked.event.fields.response_bytes > 0,
            };
            tracked.event.fields.response_bytes += bytes;
        });
        if more {
            // A slow client may delay the rest.
            self.pending();
        }
    }

    /// Records trailers passed to the server.
    pub(crate) fn on_trailers(&mut self, trailers: &HeaderMap) {
        self.with(|tracked| {
            if tracked.protocol == Some(Protocol::Grpc)
                && let Some(code) = grpc::status(trailers)
            {
                tracked.event.fields.status = Status::Grpc(code);
            }
        });
    }

    /// Ends the request and records its event.
    #[inline]
    pub(crate) fn finish(&mut self, end: End) {
        match std::mem::take(&mut self.0) {
            State::Over => {}
            State::Own(tracked) => tracked.end(end),
            State::Shared(registered) => {
                if let Some(tracked) = registered.take() {
                    tracked.end(end);
                }
            }
        }
    }
}

/// Ends the tracker when the service or its body panics. If the panic is caught further out, the future is dropped
/// only afterwards, when the panic can no longer be detected.
pub(super) struct PanicGuard<'a>(Option<&'a mut RequestTracker>);

impl<'a> PanicGuard<'a> {
    #[inline]
    pub(super) fn new(tracker: Option<&'a mut RequestTracker>) -> Self {
        Self(tracker)
    }

    /// Returns the tracker, because nothing has panicked.
    #[inline]
    pub(super) fn disarm(mut self) -> Option<&'a mut RequestTracker> {
        let tracker = self.0.take();
        // Unlike a drop, this is free.
        std::mem::forget(self);
        tracker
    }
}

impl Drop for PanicGuard<'_> {
    #[cold]
    fn drop(&mut self) {
        if let Some(tracker) = &mut self.0 {
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

/// Calls the function with an event in reused memory.
pub(super) fn with_event<T>(record: impl FnOnce(&mut PendingEvent) -> T) -> T {
    let mut unused = Tracked::take();
    let result = record(&mut unused.event);
    unused.give_back();
    result
}

impl Tracked {
    /// An unused state of this thread, or a new one.
    #[inline]
    fn take() -> Box<Self> {
        let unused = UNUSED.try_with(|unused| unused.borrow_mut().pop());
        unused.ok().flatten().unwrap_or_else(Self::new)
    }

    #[cold]
    fn new() -> Box<Self> {
        Box::new(Self {
            config: None,
            event: PendingEvent::empty(),
            entry: None,
            decision: Decision::default(),
            began: Now::ORIGIN,
            protocol: None,
            is_open: false,
            has_no_body: false,
            expected: None,
            superseded: None,
            final_cost: FinalCost::new(),
        })
    }

    /// Releases all references and keeps the memory for a later request of this thread.
    #[inline]
    fn give_back(mut self: Box<Self>) {
        // Before borrowing: the last reference to a layer drops hooks of the application.
        self.event.clear();
        (self.entry, self.config, self.superseded) = (None, None, None);
        (self.protocol, self.expected, self.has_no_body) = (None, None, false);
        let _ = UNUSED.try_with(|unused| {
            let mut unused = unused.borrow_mut();
            if unused.len() < SPARE {
                unused.push(self);
            }
        });
    }

    fn wire_id(&self) -> WireId<'_> {
        match &self.event.request_id {
            Some(id) => WireId::Client(id),
            None => WireId::Generated(self.event.fields.id),
        }
    }

    /// The headers to add to the response.
    #[inline]
    fn headers(&self) -> Option<ResponseHeaders<'_>> {
        let config = self.config.as_ref()?;
        let attached = self.entry.as_ref();
        let attached = attached.and_then(|it| AttachedLimits::get(&it.limits, config.limits_id()));
        let limited = attached.and_then(|attached| attached.reported(&self.decision));
        Some(config.admitted_headers(self.wire_id(), self.event.fields.method, limited))
    }

    #[inline]
    fn answered(&mut self, response: &Parts, body: &impl Body) {
        let code = response.status;
        let head = self.event.fields.method == Method::Head;
        self.has_no_body = head
            || code.is_informational()
            || code == StatusCode::NO_CONTENT
            || code == StatusCode::NOT_MODIFIED;
        // Servers stop polling the body after `Content-Length` bytes.
        self.expected = body.size_hint().exact().or_else(|| {
            let announced = response.headers.get(CONTENT_LENGTH)?;
            announced.to_str().ok()?.parse().ok()
        });
        let protocol = Protocol::of_response(&response.headers);
        self.protocol = Some(protocol);
        self.event.fields.status = protocol.status_of(code, &response.headers);
        if protocol != Protocol::Http && self.event.fields.status == Status::Http(200) {
            // Only an implemented method starts a response without a status.
            if let Some(config) = self.config.clone() {
                self.name_by_path(&config);
            }
        }
        if let Some(&cost) = response.extensions.get::<Cost>() {
            self.final_cost.set(cost);
        }
        if let Some(config) = &self.config
            && let Some(revised) = self.final_cost.revised(config.limits_id())
        {
            self.decision = revised;
        }
        if let Some(rejection) = response.extensions.get::<Rejection>() {
            self.event.fields.rejection_reason = Some(rejection.reason);
        }
    }

    /// Completes the event and records it.
    #[inline]
    fn end(mut self: Box<Self>, end: End) {
        let event = &mut self.event.fields;
        if let Some(Cost(cost)) = self.final_cost.get() {
            event.cost = cost;
        }
        // A response without a body, or whose full length was passed on, is complete even if its body was not
        // polled to the end: hyper stops polling then, and some bodies are never read.
        let is_complete = end == End::Completed
            || (end == End::Disconnected && (self.has_no_body || self.expected == Some(0)));
        if end == End::Panicked && event.status == Status::None {
            // The status sent by a layer that catches the panic. If none does, the connection is closed.
            event.status = Status::Http(500);
        }
        if self.protocol == Some(Protocol::Grpc) && matches!(event.status, Status::Http(200)) {
            // No gRPC status: unknown at the end of the stream, cancelled before.
            event.status = Status::Grpc(if is_complete {
                grpc::UNKNOWN
            } else {
                grpc::CANCELLED
            });
        }
        // A gRPC call ends with its status, even if the stream is interrupted afterwards.
        let has_outcome = event.status != Status::None
            && (is_complete
                || matches!(event.status, Status::Grpc(code) if code != grpc::CANCELLED));
        (event.outcome, event.cause) = match (has_outcome, end) {
            (true, _) | (_, End::Rejected) => match event.rejection_reason {
                Some(reason) => Outcome::of_rejection(reason),
                None => Outcome::of(event.status),
            },
            (false, End::Failed | End::Panicked) => (Outcome::Failed, Some(Cause::ServerError)),
            (false, _) => (Outcome::Failed, Some(Cause::Cancelled)),
        };
        let Some(config) = self.config.take() else {
            return;
        };
        if event.rejection_reason.is_none() && proves(event.status) {
            self.name_by_path(&config);
        } else if self.is_open && self.protocol != Some(Protocol::Http) {
            // The method is unproven, or there is no response.
            if let Some(known) = config.endpoints.known(self.event.path()) {
                self.event.endpoint = Some(known);
            }
        }
        let is_superseded = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        if self.superseded.as_ref().is_some_and(is_superseded) {
            config.recorder.release();
        } else {
            self.event.fields.latency_us = config.clock.now().micros_since(self.began);
            self.event.attribution = self.entry.take().map(|entry| entry as Arc<dyn Attribution>);
            config.recorder.record(&mut self.event);
        }
        drop(config);
        self.give_back();
    }

    /// Uses the path as the endpoint, because the service has a gRPC method there.
    fn name_by_path(&mut self, config: &Config) {
        if std::mem::take(&mut self.is_open) {
            self.event.endpoint = Some(config.endpoints.intern(self.event.path()));
        }
    }
}

/// Whether the status proves that the service has the method. The other codes are also returned for arbitrary
/// paths, by fallbacks, interceptors and layers that limit, shed load or time out.
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
