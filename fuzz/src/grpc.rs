//! Response tracking, mainly for gRPC: frames and trailers are forwarded unchanged, wherever the body ends, and
//! exactly one event records the outcome.
//!
//! The input has the response's content type, the request, the response head, the number of polls after which the
//! client disconnects, and the frames. The content type of the request makes no difference.

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, ImportedKey, Issuer, NewKey};
use keytally::usage::{Cause, Outcome, Status};
use keytally::{ApiKeyLayer, ApiKeyService, BodyError, Clock};
use tokio::runtime::{Builder, Runtime};
use tower_layer::Layer;
use tower_service::Service;

use crate::credentials::SECRETS;
use crate::input::Input;
use crate::now::now;
use crate::record::Recorded;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const CANCELLED: u8 = 1;
const UNKNOWN: u8 = 2;
/// Content types and the kind of call they indicate: gRPC with trailers, gRPC-Web with the status in the body,
/// or none.
const KINDS: [(&str, Call); 10] = [
    ("application/grpc", Call::Trailers),
    ("application/grpc+proto", Call::Trailers),
    ("application/grpc;x=y", Call::Trailers),
    ("application/grpc-", Call::Trailers),
    ("application/grpc-web", Call::InBody),
    ("application/grpc-web-text+proto", Call::InBody),
    ("application/grpcx", Call::None),
    ("Application/json", Call::None),
    ("text/grpc", Call::None),
    ("", Call::None),
];
const CODES: [u16; 8] = [200, 201, 204, 304, 302, 404, 429, 503];

#[derive(Clone, Copy, PartialEq)]
enum Call {
    Trailers,
    InBody,
    None,
}

pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let (content_type, call) = input.pick(&KINDS);
    let method = input.pick(&[&Method::POST, &Method::GET, &Method::HEAD]);
    let flags = input.byte();
    let sent = SentRequest {
        method: method.clone(),
        content_type: KINDS[usize::from(flags >> 4) % KINDS.len()].0,
    };
    let head = Head::read(&mut input, flags, content_type, call);
    let stop = usize::from(input.byte());
    let body = Script::read(&mut input, flags);
    FIXTURE.with(|fixture| fixture.check(sent, head, stop, body));
}

struct SentRequest {
    method: Method,
    content_type: &'static str,
}

/// The head of a response, unless the service fails.
#[derive(Clone)]
struct Head {
    /// Empty for no content type.
    content_type: &'static str,
    call: Call,
    code: u16,
    status: Option<HeaderValue>,
    announces: bool,
    fails: bool,
}

impl Head {
    fn read(input: &mut Input<'_>, flags: u8, content_type: &'static str, call: Call) -> Self {
        let code = input.pick(&CODES);
        let status = (flags & 1 != 0).then(|| value(input)).flatten();
        Self {
            content_type,
            // Without a content type, a `grpc-status` header indicates gRPC.
            call: match (content_type, &status) {
                ("", Some(_)) => Call::Trailers,
                _ => call,
            },
            code,
            status,
            announces: flags & 2 != 0,
            fails: flags & 0xf0 == 0xf0,
        }
    }
}

fn value(input: &mut Input<'_>) -> Option<HeaderValue> {
    let length = usize::from(input.byte() % 8);
    HeaderValue::from_bytes(input.take(length)).ok()
}

/// A scripted body.
#[derive(Clone, Default)]
struct Script {
    steps: VecDeque<Step>,
    /// Bytes not yet returned.
    left: u64,
    tells_size: bool,
    tells_end: bool,
}

#[derive(Clone)]
enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Wait,
    Fail,
}

impl Script {
    fn read(input: &mut Input<'_>, flags: u8) -> Self {
        let mut steps = VecDeque::new();
        while !input.is_empty() && steps.len() < 16 {
            steps.push_back(match input.byte() % 6 {
                0 | 1 => {
                    let length = usize::from(input.byte() % 32);
                    Step::Data(Bytes::copy_from_slice(input.take(length)))
                }
                2 => Step::Trailers(value(input).map(|v| (GRPC_STATUS, v)).into_iter().collect()),
                3 => Step::Trailers(HeaderMap::new()),
                4 => Step::Wait,
                _ => Step::Fail,
            });
        }
        let data = steps.iter().map(|step| match step {
            Step::Data(data) => data.len() as u64,
            _ => 0,
        });
        Self {
            left: data.sum(),
            steps,
            tells_size: flags & 4 != 0,
            tells_end: flags & 8 != 0,
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(match self.steps.pop_front() {
            None => None,
            Some(Step::Data(data)) => {
                self.left -= data.len() as u64;
                Some(Ok(Frame::data(data)))
            }
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Step::Wait) => return Poll::Pending,
            Some(Step::Fail) => Some(Err("scripted failure")),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.tells_size {
            true => SizeHint::with_exact(self.left),
            false => SizeHint::default(),
        }
    }
}

/// Returns the response given in the request extensions.
#[derive(Clone)]
struct Inner;

impl Service<Request<String>> for Inner {
    type Response = Response<Script>;
    type Error = &'static str;
    type Future = Ready<Result<Self::Response, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<String>) -> Self::Future {
        let (head, body): (Head, Script) = request.extensions_mut().remove().unwrap();
        if head.fails {
            return ready(Err("scripted failure"));
        }
        let length = body.left;
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(head.code).unwrap();
        if !head.content_type.is_empty() {
            let content_type = HeaderValue::from_static(head.content_type);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        if let Some(status) = head.status {
            response.headers_mut().insert(GRPC_STATUS, status);
        }
        if head.announces {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        ready(Ok(response))
    }
}

struct Fixture {
    runtime: Runtime,
    recorded: Recorded,
    service: ApiKeyService<Inner>,
    bearer: HeaderValue,
}

thread_local! {
    static FIXTURE: LazyCell<Fixture> = const { LazyCell::new(Fixture::new) };
}

impl Fixture {
    fn new() -> Self {
        let recorded = Recorded::new();
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let backend = MemoryBackend::with_clock(Default::default(), clock.clone());
        let issuer = Issuer::new("acme_live").unwrap().clock(clock.clone());
        now(issuer.import(
            &backend,
            ImportedKey::from_secret(NewKey::new("a"), SECRETS[0]),
            Actor::SYSTEM,
        ))
        .unwrap();
        let layer = ApiKeyLayer::new(backend)
            .clock(clock)
            .recorder(recorded.recorder.clone());
        Self {
            runtime: Builder::new_current_thread().enable_time().build().unwrap(),
            recorded,
            service: layer.layer(Inner),
            bearer: HeaderValue::try_from(format!("Bearer {}", SECRETS[0])).unwrap(),
        }
    }

    fn check(&self, sent: SentRequest, head: Head, stop: usize, script: Script) {
        let mut request = Request::new(String::new());
        request
            .extensions_mut()
            .insert((head.clone(), script.clone()));
        request
            .headers_mut()
            .insert(AUTHORIZATION, self.bearer.clone());
        let content_type = HeaderValue::from_static(sent.content_type);
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        *request.method_mut() = sent.method.clone();
        let response = {
            let _inside = self.runtime.enter();
            now(self.service.clone().call(request))
        };
        let mut tracker = Tracker::of(&sent, &head, &script);
        match response {
            Ok(response) => {
                assert!(!head.fails);
                assert_eq!(response.status().as_u16(), head.code);
                assert_eq!(response.headers().get(GRPC_STATUS), head.status.as_ref());
                follow(response.into_body(), script, stop, &mut tracker);
            }
            Err(_) => {
                assert!(head.fails);
                tracker.end(End::Failed);
            }
        }
        let event = self.recorded.event();
        let (status, outcome, cause) = tracker.result();
        assert_eq!(
            (event.status, event.outcome, event.cause),
            (status, outcome, cause)
        );
        assert_eq!(event.response_bytes, tracker.bytes);
        assert_eq!((event.key.is_some(), event.rejection_reason), (true, None));
        assert_eq!(self.recorded.recorder.stats().in_flight, 0);
    }
}

/// Reads the body in step with the script until the client disconnects.
fn follow(
    body: impl Body<Data = Bytes, Error = BodyError<&'static str>>,
    script: Script,
    stop: usize,
    tracker: &mut Tracker,
) {
    let mut context = Context::from_waker(Waker::noop());
    let (mut body, mut script) = (std::pin::pin!(body), std::pin::pin!(script));
    if script.is_end_stream() {
        tracker.end(End::Whole);
    }
    for _ in 0..stop {
        assert_eq!(body.is_end_stream(), script.is_end_stream());
        assert_eq!(body.size_hint().exact(), script.size_hint().exact());
        let got = body.as_mut().poll_frame(&mut context);
        match (got, script.as_mut().poll_frame(&mut context)) {
            (Poll::Pending, Poll::Pending) => {}
            (Poll::Ready(None), Poll::Ready(None)) => return tracker.end(End::Whole),
            (Poll::Ready(Some(Err(got))), Poll::Ready(Some(Err(expected)))) => {
                assert_eq!(got, BodyError::Inner(expected));
                return tracker.end(End::Failed);
            }
            (Poll::Ready(Some(Ok(got))), Poll::Ready(Some(Ok(expected)))) => {
                assert_eq!(got.data_ref(), expected.data_ref());
                assert_eq!(got.trailers_ref(), expected.trailers_ref());
                tracker.frame(&expected);
                if script.is_end_stream() {
                    tracker.end(End::Whole);
                }
            }
            (got, expected) => panic!("expected {expected:?}, got {got:?}"),
        }
    }
    tracker.end(End::Left);
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Whole,
    Failed,
    Left,
}

/// Tracks a response as a client sees it.
struct Tracker {
    call: Call,
    status: Status,
    bytes: u64,
    /// Announced bytes not yet received, if a length was announced.
    missing: Option<u64>,
    bodyless: bool,
    end: Option<End>,
}

/// The status code as a client parses it. A value that is not a number is UNKNOWN.
fn code(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get(GRPC_STATUS)?.as_bytes();
    if !text.iter().all(|b| matches!(b, b' '..=b'~' | b'\t')) {
        return None;
    }
    let text = std::str::from_utf8(text).unwrap().trim_matches([' ', '\t']);
    let digits = text.strip_prefix('+').unwrap_or(text);
    let number = digits
        .chars()
        .try_fold(0_u32, |number, c| Some(number * 10 + c.to_digit(10)?));
    let fits = !digits.is_empty() && number.is_some_and(|number| number < 256);
    Some(if fits { number.unwrap() as u8 } else { UNKNOWN })
}

impl Tracker {
    fn of(sent: &SentRequest, head: &Head, script: &Script) -> Self {
        let headers = head
            .status
            .iter()
            .map(|value| (GRPC_STATUS, value.clone()))
            .collect();
        let status = match code(&headers).filter(|_| head.call != Call::None) {
            _ if head.fails => Status::None,
            Some(code) => Status::Grpc(code),
            None => Status::Http(head.code),
        };
        let known = script.tells_size || head.announces;
        Self {
            call: head.call,
            status,
            bytes: 0,
            missing: known.then_some(script.left),
            bodyless: sent.method == Method::HEAD || matches!(head.code, 204 | 304),
            end: None,
        }
    }

    fn frame(&mut self, frame: &Frame<Bytes>) {
        if self.end.is_some() {
            return;
        }
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            self.bytes += length;
            self.missing = self.missing.map(|missing| missing - length);
        }
        if let Some(code) = frame.trailers_ref().and_then(code)
            && self.call == Call::Trailers
        {
            self.status = Status::Grpc(code);
        }
    }

    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    fn result(&self) -> (Status, Outcome, Option<Cause>) {
        let end = self.end.expect("the response has ended");
        let nothing_missing = self.bodyless || self.missing == Some(0);
        let whole = end == End::Whole || (end == End::Left && nothing_missing);
        let status = match self.status {
            Status::Http(200) if self.call == Call::Trailers && whole => Status::Grpc(UNKNOWN),
            Status::Http(200) if self.call == Call::Trailers => Status::Grpc(CANCELLED),
            status => status,
        };
        let completed = (Outcome::Completed, None);
        let failed = |cause| (Outcome::Failed, Some(cause));
        let (outcome, cause) = match status {
            // A call with a status is complete.
            Status::Grpc(0) => completed,
            Status::Grpc(2 | 4 | 12..=15) => failed(Cause::ServerError),
            Status::Grpc(code) if code != CANCELLED || whole => failed(Cause::ClientError),
            _ if end == End::Failed => failed(Cause::ServerError),
            _ if !whole => failed(Cause::Cancelled),
            Status::Http(..400) => completed,
            Status::Http(400..500) => failed(Cause::ClientError),
            _ => failed(Cause::ServerError),
        };
        (status, outcome, cause)
    }
}
