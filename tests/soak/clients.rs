//! Clients, and what they remember of what they asked for and how it was answered.

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
use crate::server::{STALE, TTL};

/// A request, by its place in its client's list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    /// The key's number.
    pub(crate) key: u32,
    pub(crate) method: u8,
    pub(crate) end: End,
}

/// What became of a request, as far as its client can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Answered with this status; the refusal if it was one of a known key.
    Event(u16, Option<RejectionReason>),
    /// Refused without a known key: counted, and no event.
    Counted(RejectionReason),
    /// Left by the client in the middle of an answer of 200.
    Cut,
    /// Its connection was gone before there was an answer: an event, if it arrived.
    Unknown,
}

pub(crate) const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];

/// What all clients of a run share.
pub(crate) struct Crowd<B> {
    pub(crate) address: SocketAddr,
    pub(crate) keys: Keys<B>,
    pub(crate) clock: SteppedClock,
    pub(crate) stop: AtomicBool,
    pub(crate) sent: AtomicU64,
    /// Connections that broke although nobody meant them to.
    pub(crate) broken: AtomicU64,
    /// Secrets of no form that a key has.
    pub(crate) malformed: AtomicU64,
    pub(crate) longest_us: AtomicU64,
}

/// One of them.
pub(crate) struct Client<B> {
    pub(crate) number: usize,
    crowd: Arc<Crowd<B>>,
    random: fastrand::Rng,
    pub(crate) sent: Vec<Sent>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// Every how many requests a client leaves in the middle of an answer, hangs up at once, and sends
/// what is no key.
const CUT: usize = 101;
const HANG_UP: usize = 211;
const MALFORMED: usize = 53;

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

    /// Every fourth client asks the router that does not outlive the database.
    fn is_strict(&self) -> bool {
        self.number.is_multiple_of(4)
    }

    /// Asks at this pace until all stop, and answers what it remembers.
    pub(crate) async fn run(mut self, pace: Duration) -> Self {
        let mut pace = tokio::time::interval(pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for turn in self.number.. {
            pace.tick().await;
            if self.crowd.stop.load(Ordering::Relaxed) {
                break;
            }
            self.crowd.sent.fetch_add(1, Ordering::Relaxed);
            if turn.is_multiple_of(CUT) {
                self.leave_half_way().await;
            } else if turn.is_multiple_of(HANG_UP) {
                self.hang_up().await;
            } else if turn.is_multiple_of(MALFORMED) {
                self.ask_with_nonsense().await;
            } else {
                self.ask().await;
            }
        }
        self.connection = None;
        self
    }

    fn path(&self, rest: &str) -> String {
        let router = if self.is_strict() { "strict" } else { "stale" };
        format!("/{router}/v1/{rest}")
    }

    /// The request id of the next one.
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
        let began = Instant::now();
        connection.ready().await.ok()?;
        let answer = connection.send_request(request).await.ok()?;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.crowd.longest_us.fetch_max(took, Ordering::Relaxed);
        Some(answer)
    }

    fn remember(&mut self, key: u32, method: usize, end: End) {
        let method = method as u8;
        self.sent.push(Sent { key, method, end });
    }

    async fn ask(&mut self) {
        let number = self.crowd.keys.some(&mut self.random);
        let subject = self.crowd.keys.get(number);
        let method = self.random.usize(..METHODS.len());
        let posting = self.random.u8(..);
        let path = self.path(&format!("postings/{posting}"));
        let request = self.request(&METHODS[method], &path, &subject.secret);
        let (closed, settled) = (subject.closed(), self.crowd.clock.settled());
        let asked = Instant::now();
        let end = match self.send(request).await {
            Some(answer) => {
                let end = end_of(&answer);
                // To its end, so that the connection can be used again.
                if answer.into_body().collect().await.is_ok() {
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
            && asked > self.bound_of(closed)
        {
            assert!(ends(end), "a key that has ended was let in: {end:?}");
        }
        let works = match subject.kind {
            Kind::Mortal => !subject.may_end.load(Ordering::SeqCst),
            Kind::Timed => settled.is_some_and(|(offset, _)| offset <= 0),
            Kind::Steady | Kind::Limited => true,
        };
        let still = self.crowd.clock.settled() == settled;
        if works && still {
            let fine = !ends(end)
                || matches!(
                    end,
                    End::Counted(RejectionReason::StoreUnavailable) | End::Unknown
                );
            assert!(
                fine,
                "a key that works was refused: {end:?}, {:?}",
                subject.kind
            );
        }
        if subject.kind == Kind::Timed && still && settled.is_some_and(|(offset, _)| offset > 0) {
            assert!(ends(end), "a key whose time is over was let in: {end:?}");
        }
    }

    /// From when on a key that has ended must not be let in.
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

    /// Reads the beginning of an answer that has no end.
    async fn leave_half_way(&mut self) {
        let steady = self.crowd.keys.steady();
        let subject = self.crowd.keys.get(steady);
        let request = self.request(&Method::GET, &self.path("endless"), &subject.secret);
        let end = match self.send(request).await {
            Some(answer) => match end_of(&answer) {
                End::Event(200, None) => match answer.into_body().frame().await {
                    Some(Ok(_)) => End::Cut,
                    _ => self.break_off(),
                },
                end => {
                    let _ = answer.into_body().collect().await;
                    end
                }
            },
            None => self.break_off(),
        };
        // Which ends it.
        self.connection = None;
        self.remember(steady, 0, end);
    }

    /// Sends a request and waits for nothing.
    async fn hang_up(&mut self) {
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

    async fn ask_with_nonsense(&mut self) {
        let request = self.request(&Method::GET, &self.path("postings/1"), "soak_nonsense");
        match self.send(request).await {
            Some(answer) => {
                assert_eq!(end_of(&answer), End::Counted(RejectionReason::Malformed));
                let _ = answer.into_body().collect().await;
                self.crowd.malformed.fetch_add(1, Ordering::Relaxed);
            }
            None => drop(self.break_off()),
        }
    }
}

/// Whether it was refused as one whose key does not work.
fn ends(end: End) -> bool {
    match end {
        End::Event(_, refusal) => {
            matches!(
                refusal,
                Some(
                    RejectionReason::Revoked | RejectionReason::Disabled | RejectionReason::Expired
                )
            )
        }
        End::Counted(reason) => matches!(
            reason,
            RejectionReason::Unknown | RejectionReason::StoreUnavailable
        ),
        // Nothing is known of it.
        End::Cut | End::Unknown => true,
    }
}

fn end_of<T>(answer: &Response<T>) -> End {
    let reason = answer.headers().get("x-refusal");
    let reason = reason.map(|reason| {
        let reason = serde_json::Value::from(reason.to_str().unwrap());
        serde_json::from_value(reason).unwrap()
    });
    match reason {
        Some(reason) if !answer.headers().contains_key("x-event") => End::Counted(reason),
        reason => End::Event(answer.status().as_u16(), reason),
    }
}
