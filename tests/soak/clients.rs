//! Clients, which remember every request and its outcome.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use keytally::key::KeyAdmin;
use keytally::usage::RejectionReason;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

use crate::clock::SteppedClock;
use crate::keys::{Closed, Keys, Kind};
use crate::status::{STALE, TTL};

/// A sent request. Its request id is the client's number and its index in the client's list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    /// The index of the key.
    pub(crate) key: u32,
    pub(crate) method: u8,
    pub(crate) end: End,
}

/// The outcome of a request, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A response with this status; with the rejection reason if a known key was rejected.
    Event(u16, Option<RejectionReason>),
    /// Rejected without a known key: counted, without an event.
    Counted(RejectionReason),
    /// The client disconnected in the middle of a 200 response.
    Cut,
    /// The connection ended before a response; recorded if the request arrived.
    Unknown,
}

pub(crate) const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];

/// State shared by all clients of a run.
pub(crate) struct Crowd<B> {
    pub(crate) address: SocketAddr,
    pub(crate) keys: Keys<B>,
    pub(crate) clock: SteppedClock,
    pub(crate) stop: AtomicBool,
    pub(crate) sent: AtomicU64,
    /// Connections that broke unexpectedly.
    pub(crate) broken: AtomicU64,
    /// Requests with a malformed key.
    pub(crate) malformed: AtomicU64,
    pub(crate) longest_us: AtomicU64,
}

/// A client.
pub(crate) struct Client<B> {
    pub(crate) number: usize,
    crowd: Arc<Crowd<B>>,
    random: fastrand::Rng,
    pub(crate) sent: Vec<Sent>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// The intervals, in requests, at which a client abandons a response, disconnects at once, and sends a malformed key.
const ABANDON_EVERY: usize = 101;
const DISCONNECT_EVERY: usize = 211;
const MALFORMED_EVERY: usize = 53;

impl<B: KeyAdmin> Client<B> {
    pub(crate) fn new(number: usize, crowd: Arc<Crowd<B>>) -> Self {
        Self {
            number,
            crowd,
            random: fastrand::Rng::with_seed(number as u64),
            sent: Vec::new(),
            connection: None,
        }
    }

    /// Every fourth client uses the router that does not serve stale keys.
    fn is_strict(&self) -> bool {
        self.number.is_multiple_of(4)
    }

    /// Sends requests at this pace until the run stops.
    pub(crate) async fn run(mut self, pace: Duration) -> Self {
        let mut pace = tokio::time::interval(pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for turn in self.number.. {
            pace.tick().await;
            if self.crowd.stop.load(Ordering::Relaxed) {
                break;
            }
            self.crowd.sent.fetch_add(1, Ordering::Relaxed);
            if turn.is_multiple_of(ABANDON_EVERY) {
                self.abandon_response().await;
            } else if turn.is_multiple_of(DISCONNECT_EVERY) {
                self.disconnect().await;
            } else if turn.is_multiple_of(MALFORMED_EVERY) {
                self.send_malformed_key().await;
            } else {
                self.send_request().await;
            }
        }
        self.connection = None;
        self
    }

    fn path(&self, rest: &str) -> String {
        let router = if self.is_strict() { "strict" } else { "stale" };
        format!("/{router}/v1/{rest}")
    }

    /// The id of the next request.
    fn next_id(&self) -> String {
        format!("{}-{}", self.number, self.sent.len())
    }

    fn request(&self, method: &Method, path: &str, secret: &str) -> Request<Empty<Bytes>> {
        let request = Request::builder().method(method).uri(path);
        request
            .header("host", "soak")
            .header("authorization", format!("Bearer {secret}"))
            .header("x-request-id", self.next_id())
            .body(Empty::new())
            .unwrap()
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> Option<Response<Incoming>> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(self.crowd.address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
            let (sender, connection) = handshake.await.ok()?;
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        let connection = self.connection.as_mut()?;
        let start = Instant::now();
        connection.ready().await.ok()?;
        let response = connection.send_request(request).await.ok()?;
        let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.crowd.longest_us.fetch_max(took, Ordering::Relaxed);
        Some(response)
    }

    fn remember(&mut self, key: u32, method: usize, end: End) {
        let method = method as u8;
        self.sent.push(Sent { key, method, end });
    }

    async fn send_request(&mut self) {
        let number = self.crowd.keys.some(&mut self.random);
        let subject = self.crowd.keys.get(number);
        let method = self.random.usize(..METHODS.len());
        let posting = self.random.u8(..);
        let path = self.path(&format!("postings/{posting}"));
        let request = self.request(&METHODS[method], &path, &subject.secret);
        let (closed, settled) = (subject.closed(), self.crowd.clock.settled());
        let sent_at = Instant::now();
        let end = match self.send(request).await {
            Some(response) => {
                let end = end_of(&response);
                // Read completely, so that the connection can be reused.
                if response.into_body().collect().await.is_ok() {
                    end
                } else {
                    self.break_off()
                }
            }
            None => self.break_off(),
        };
        self.remember(number, method, end);
        if subject.closed() == closed
            && let Some(closed) = closed
            && sent_at > self.bound_of(closed)
        {
            assert!(
                may_be_invalid(end),
                "an invalidated key was admitted: {end:?}"
            );
        }
        let is_valid = match subject.kind {
            Kind::Mortal => !subject.may_end.load(Ordering::SeqCst),
            Kind::Timed => settled.is_some_and(|(offset, _)| offset <= 0),
            Kind::Steady | Kind::Limited => true,
        };
        let clock_unchanged = self.crowd.clock.settled() == settled;
        if is_valid && clock_unchanged {
            let expected = !may_be_invalid(end)
                || matches!(
                    end,
                    End::Counted(RejectionReason::StoreUnavailable) | End::Unknown
                );
            assert!(
                expected,
                "a valid key was rejected: {end:?}, {:?}",
                subject.kind
            );
        }
        if subject.kind == Kind::Timed
            && clock_unchanged
            && settled.is_some_and(|(offset, _)| offset > 0)
        {
            assert!(may_be_invalid(end), "an expired key was admitted: {end:?}");
        }
    }

    /// The time from which an invalidated key must be rejected.
    fn bound_of(&self, closed: Closed) -> Instant {
        closed.at
            + match (closed.here, self.is_strict()) {
                (true, _) => Duration::ZERO,
                (false, true) => TTL,
                (false, false) => TTL + STALE,
            }
    }

    fn break_off(&mut self) -> End {
        self.connection = None;
        self.crowd.broken.fetch_add(1, Ordering::Relaxed);
        End::Unknown
    }

    /// Reads the first chunk of an endless response and disconnects.
    async fn abandon_response(&mut self) {
        let steady = self.crowd.keys.steady();
        let subject = self.crowd.keys.get(steady);
        let request = self.request(&Method::GET, &self.path("endless"), &subject.secret);
        let end = match self.send(request).await {
            Some(response) => match end_of(&response) {
                End::Event(200, None) => match response.into_body().frame().await {
                    Some(Ok(_)) => End::Cut,
                    _ => self.break_off(),
                },
                end => {
                    let _ = response.into_body().collect().await;
                    end
                }
            },
            None => self.break_off(),
        };
        // Closes the connection.
        self.connection = None;
        self.remember(steady, 0, end);
    }

    /// Sends a request and disconnects without waiting for the response.
    async fn disconnect(&mut self) {
        let steady = self.crowd.keys.steady();
        let subject = self.crowd.keys.get(steady);
        let (path, id) = (self.path("postings/1"), self.next_id());
        if let Ok(mut stream) = TcpStream::connect(self.crowd.address).await {
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {}\r\nx-request-id: {id}\r\n\r\n",
                subject.secret
            );
            let _ = stream.write_all(request.as_bytes()).await;
        }
        self.remember(steady, 0, End::Unknown);
    }

    async fn send_malformed_key(&mut self) {
        let request = self.request(&Method::GET, &self.path("postings/1"), "soak_nonsense");
        match self.send(request).await {
            Some(response) => {
                assert_eq!(end_of(&response), End::Counted(RejectionReason::Malformed));
                let _ = response.into_body().collect().await;
                self.crowd.malformed.fetch_add(1, Ordering::Relaxed);
            }
            None => drop(self.break_off()),
        }
    }
}

/// Whether the outcome is consistent with an invalidated key.
fn may_be_invalid(end: End) -> bool {
    match end {
        End::Event(_, rejection) => {
            matches!(
                rejection,
                Some(
                    RejectionReason::Revoked | RejectionReason::Disabled | RejectionReason::Expired
                )
            )
        }
        End::Counted(reason) => matches!(
            reason,
            RejectionReason::Unknown | RejectionReason::StoreUnavailable
        ),
        // The outcome is unknown.
        End::Cut | End::Unknown => true,
    }
}

fn end_of<T>(response: &Response<T>) -> End {
    let reason = response.headers().get("x-rejection");
    let reason = reason.map(|reason| {
        let reason = serde_json::Value::from(reason.to_str().unwrap());
        serde_json::from_value(reason).unwrap()
    });
    match reason {
        Some(reason) if !response.headers().contains_key("x-event") => End::Counted(reason),
        reason => End::Event(response.status().as_u16(), reason),
    }
}
