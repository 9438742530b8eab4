//! The layer before a real gRPC server, asked over real sockets by tonic's own client.

use crate::postings;
use crate::secrets;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use http_body_util::BodyExt;
use jiff::Timestamp;
use keytally::backend::MemoryBackend;
use keytally::key::{
    AddressList, Issued, Issuer, KeyAdmin, KeyRecord, KeyStore, NewKey, StoreError,
};
use keytally::limit::RateLimit;
use keytally::usage::{
    Cause, LogFilter, LogQuery, Method, Outcome, Recorder, RejectionReason, Status as Answered,
    SummaryQuery, SummarySpec, UNMATCHED, UsageEvent, UsageRange, UsageReader,
};
use keytally::{
    ApiKeyLayer, Caller, Clock, KeyId, RequestParts, RequireScope, StoreFailure, Unverified,
    async_trait,
};
use postings::{GetRequest, ListRequest, PostingsClient, PostingsServer, WatchRequest};
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::service::{LayerExt, Routes};
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use tower::ServiceExt;
use tower::util::MapRequestLayer;

const GET: &str = "/postings.v1.Postings/Get";
const LIST: &str = "/postings.v1.Postings/List";
const WATCH: &str = "/postings.v1.Postings/Watch";

/// Keys, the usage of them, and what leads from one to the other.
struct Api {
    backend: MemoryBackend,
    recorder: Recorder,
}

impl Api {
    fn new() -> Self {
        let backend = MemoryBackend::new();
        let recorder = Recorder::new(backend.clone());
        Self { backend, recorder }
    }

    fn layer(&self) -> ApiKeyLayer {
        ApiKeyLayer::new(self.backend.clone()).recorder(self.recorder.clone())
    }

    async fn issue(&self, new: NewKey) -> Issued {
        let issuer = Issuer::new("acme_test").unwrap();
        issuer.issue(&self.backend, new).await.unwrap()
    }

    /// A key without limits, its secret only.
    async fn key(&self) -> String {
        let issued = self.issue(NewKey::new("any")).await;
        issued.secret.expose().to_owned()
    }

    /// Waits until no request is open and every event is written.
    async fn settle(&self) {
        let settled = async {
            while self.recorder.stats().open > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.recorder.flush().await;
        };
        let settled = tokio::time::timeout(Duration::from_secs(20), settled).await;
        settled.expect("a request stays open");
    }

    /// All events there are once nothing is open.
    async fn events(&self) -> Vec<UsageEvent> {
        self.settle().await;
        let query = LogQuery::new(LogFilter::new()).limit(LogQuery::MAX_LIMIT);
        self.backend.requests(&query).await.unwrap().items
    }

    /// The one event there is.
    async fn event(&self) -> UsageEvent {
        let mut events = self.events().await;
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}

/// A free port's listener, and a channel to whoever will serve it.
fn socket() -> (TcpIncoming, Channel) {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = incoming.local_addr().unwrap();
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    (incoming, endpoint.connect_lazy())
}

/// Serves the postings behind the layer.
fn serve(layer: ApiKeyLayer) -> (PostingsClient, Channel) {
    let (incoming, channel) = socket();
    let server = Server::builder().layer(layer).add_service(PostingsServer);
    tokio::spawn(server.serve_with_incoming(incoming));
    (PostingsClient::new(channel.clone()), channel)
}

fn with<T>(secret: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {secret}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// A call by hand, for paths and content types that no generated client has. The answer's body is
/// read to its end; its trailers count as headers.
async fn raw(channel: &Channel, request: http::request::Builder) -> http::Response<Vec<u8>> {
    let request = request.body(Body::empty()).unwrap();
    let response = channel.clone().oneshot(request).await.unwrap();
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    if let Some(trailers) = body.trailers() {
        parts.headers.extend(trailers.clone());
    }
    http::Response::from_parts(parts, body.to_bytes().into())
}

fn call(path: &str, secret: &str) -> http::request::Builder {
    http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("x-api-key", secret)
}

fn peer(head: RequestParts<'_>) -> Option<std::net::IpAddr> {
    let connection = head.extensions().get::<TcpConnectInfo>()?;
    Some(connection.remote_addr()?.ip())
}

/// What a client sees of an answer, but for what is different each time.
fn seen(status: &Status) -> (Code, String, Vec<u8>, HeaderMap) {
    let mut headers = status.metadata().clone().into_headers();
    assert!(headers.remove("x-request-id").is_some());
    headers.remove("date");
    let message = status.message().to_owned();
    (status.code(), message, status.details().to_vec(), headers)
}

#[tokio::test]
async fn rule_9_a_unary_call_is_one_event() {
    let api = Api::new();
    let issued = api.issue(NewKey::new("Zapier").owner("customer-17")).await;
    let layer = api
        .layer()
        .peer_address(peer)
        .resource_id(|_| Some("7".into()));
    let (mut client, _) = serve(layer);

    let request = with(issued.secret.expose(), GetRequest { id: 7 });
    let posting = client.get(request).await.unwrap().into_inner();
    assert_eq!(posting.title, "Posting 7 for Zapier");

    let event = api.event().await;
    assert_eq!(event.key, Some(issued.key.id));
    assert_eq!(event.owner.as_deref(), Some("customer-17"));
    assert_eq!(event.method, Method::Post);
    assert_eq!((&*event.endpoint, &*event.path), (GET, GET));
    assert_eq!(event.resource_id.as_deref(), Some("7"));
    assert_eq!(event.status, Answered::Grpc(0));
    assert_eq!((event.outcome, event.cause), (Outcome::Completed, None));
    assert_eq!((event.rejection_reason, event.cost), (None, 1));
    assert_eq!(event.client_ip, Some([127, 0, 0, 1].into()));
    // A message has a prefix of five bytes.
    let length = 5 + prost::Message::encoded_len(&posting) as u64;
    assert_eq!(event.response_bytes, length);
}

#[tokio::test]
async fn rule_1_the_service_never_sees_the_secret() {
    let api = Api::new();
    let secret = api.key().await;
    let (incoming, channel) = socket();
    let look = MapRequestLayer::new(|request: http::Request<Body>| {
        for value in request.headers().values() {
            assert!(!String::from_utf8_lossy(value.as_bytes()).contains("acme_test_"));
        }
        assert!(request.extensions().get::<Caller>().is_some());
        request
    });
    let server = Server::builder()
        .layer(api.layer())
        .layer(look)
        .add_service(PostingsServer);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = PostingsClient::new(channel);
    client
        .get(with(&secret, GetRequest { id: 1 }))
        .await
        .unwrap();
    let mut request = Request::new(GetRequest { id: 1 });
    let metadata = request.metadata_mut();
    metadata.insert("x-api-key", secret.parse().unwrap());
    client.get(request).await.unwrap();
}

#[tokio::test]
async fn rule_2_all_that_does_not_let_in_looks_the_same() {
    let api = Api::new();
    let (mut client, _) = serve(api.layer());
    let secret = async |new| {
        let issued = api.issue(new).await;
        (issued.key.id, issued.secret.expose().to_owned())
    };
    let (_, expired) = secret(NewKey::new("expired").expires_at(Timestamp::UNIX_EPOCH)).await;
    let (revoked_id, revoked) = secret(NewKey::new("revoked")).await;
    let (disabled_id, disabled) = secret(NewKey::new("disabled")).await;
    // It worked, and is in the cache.
    client
        .get(with(&revoked, GetRequest { id: 1 }))
        .await
        .unwrap();
    api.backend.revoke(revoked_id).await.unwrap();
    api.backend.disable(disabled_id).await.unwrap();
    let unknown = Api::new().key().await;
    let wrong = secrets::with_a_wrong_secret(&disabled);

    let missing = client.get(GetRequest { id: 1 }).await.unwrap_err();
    assert_eq!(missing.code(), Code::Unauthenticated);
    for secret in [
        "",
        "nonsense",
        &unknown[1..],
        &unknown,
        &wrong,
        &revoked,
        &disabled,
        &expired,
    ] {
        let get = client.get(with(secret, GetRequest { id: 1 })).await;
        assert_eq!(seen(&get.unwrap_err()), seen(&missing), "{secret}");
        let list = client.list(with(secret, ListRequest { count: 1 })).await;
        assert_eq!(seen(&list.unwrap_err()), seen(&missing), "{secret}");
    }

    // Who is known has events, who is not is counted.
    let mut events = HashMap::new();
    for event in api.events().await {
        *events
            .entry((event.rejection_reason, event.status))
            .or_insert(0) += 1;
    }
    let code = Answered::Grpc(Code::Unauthenticated as u8);
    let expected = [
        ((None, Answered::Grpc(0)), 1),
        ((Some(RejectionReason::Revoked), code), 2),
        ((Some(RejectionReason::Disabled), code), 2),
        ((Some(RejectionReason::Expired), code), 2),
    ];
    assert_eq!(events, HashMap::from(expected));
    let stats = api.recorder.stats();
    // `Bearer` alone presents no key.
    assert_eq!(stats.refused_for(RejectionReason::Missing), 3);
    assert_eq!(stats.refused_for(RejectionReason::Malformed), 4);
    assert_eq!(stats.refused_for(RejectionReason::Unknown), 2);
    assert_eq!(stats.refused_for(RejectionReason::WrongSecret), 2);
}

#[tokio::test]
async fn rule_8_a_limited_call_is_resource_exhausted_and_the_wait_suffices() {
    let api = Api::new();
    let clock = Clock::manual(Timestamp::now());
    let limit = RateLimit::per_hour(7).with_burst(1).with_name("burst");
    let issued = api.issue(NewKey::new("limited").limit(limit)).await;
    let secret = issued.secret.expose();
    let (mut client, _) = serve(api.layer().clock(clock.clone()));

    for _ in 0..3 {
        let answer = client
            .get(with(secret, GetRequest { id: 1 }))
            .await
            .unwrap();
        let standing = answer.metadata().get("ratelimit").unwrap();
        assert_eq!(standing, "\"burst\";r=0;t=515");
        let policy = answer.metadata().get("ratelimit-policy").unwrap();
        assert_eq!(policy, "\"burst\";q=7;w=3600");

        let unary = client.get(with(secret, GetRequest { id: 1 })).await;
        let stream = client.list(with(secret, ListRequest { count: 1 })).await;
        let watch = client.watch(with(secret, WatchRequest {})).await;
        for status in [unary.err(), stream.err(), watch.err()] {
            let status = status.unwrap();
            assert_eq!(status.code(), Code::ResourceExhausted);
            let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
            assert_eq!(pushback, "-1", "nobody sits out so long a wait");
            assert_eq!(status.metadata().get("retry-after").unwrap(), "515");
            assert!(!status.details().is_empty());
        }
        // An hour's seventh part is 514.28… seconds.
        clock.advance(Duration::from_secs(514));
        let early = client
            .get(with(secret, GetRequest { id: 1 }))
            .await
            .unwrap_err();
        let pushback = early.metadata().get("grpc-retry-pushback-ms").unwrap();
        assert_eq!(pushback, "1000");
        clock.advance(Duration::from_secs(1));
    }

    let events = api.events().await;
    assert_eq!(events.len(), 3 * 5);
    let limited = events.iter().filter(|event| {
        event.outcome == Outcome::RateLimited
            && event.rejection_reason == Some(RejectionReason::RateLimited)
            && event.status == Answered::Grpc(Code::ResourceExhausted as u8)
            && (event.cause, event.cost) == (None, 0)
    });
    assert_eq!(limited.count(), 3 * 4);
}

/// A client in Python that retries on `RESOURCE_EXHAUSTED` and has a deadline of 8 s.
#[tokio::test]
#[ignore = "needs KEYTALLY_PYTHON, a Python with grpcio; scripts/test installs one"]
async fn a_client_that_retries_is_not_held_beyond_its_deadline() {
    let python = std::env::var("KEYTALLY_PYTHON").unwrap();
    for (limit, calls, expected) in [
        // The wait is beyond the deadline: the second call is refused once and not tried again.
        (RateLimit::per_hour(1), 2, "RESOURCE_EXHAUSTED"),
        // Waits to sit out: all calls succeed.
        (RateLimit::per_second(2).with_burst(1), 4, "OK"),
    ] {
        let api = Api::new();
        let issued = api.issue(NewKey::new("limited").limit(limit)).await;
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = incoming.local_addr().unwrap().to_string();
        let mut server = Server::builder().layer(api.layer());
        let server = server.add_service(PostingsServer);
        tokio::spawn(server.serve_with_incoming(incoming));
        let mut client = std::process::Command::new(&python);
        let calls_text = calls.to_string();
        let secret = issued.secret.expose();
        client.args([
            "tests/support/grpcio_client.py",
            &address,
            secret,
            GET,
            &calls_text,
        ]);
        let output = tokio::task::spawn_blocking(move || client.output());
        let output = output.await.unwrap().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let (code, millis) = told
            .trim()
            .split_once(' ')
            .unwrap_or_else(|| panic!("{errors}"));
        println!("{code} after {millis} ms");
        assert_eq!(code, expected);
        let events = api.events().await;
        let limited = |event: &&UsageEvent| event.outcome == Outcome::RateLimited;
        let refused = events.iter().filter(limited).count();
        match code {
            "OK" => assert!(refused > 0 && events.len() - refused == calls, "{events:?}"),
            _ => assert_eq!((refused, events.len()), (1, 2)),
        }
    }
}

#[tokio::test]
async fn a_call_that_costs_more_than_there_ever_is_must_not_be_tried_again() {
    let api = Api::new();
    let new = NewKey::new("small").limit(RateLimit::per_second(2));
    let issued = api.issue(new).await;
    let (mut client, _) = serve(api.layer().cost(|_| 3));
    let request = with(issued.secret.expose(), GetRequest { id: 1 });
    let status = client.get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, "-1");
    assert_eq!(api.event().await.outcome, Outcome::RateLimited);
}

#[tokio::test]
async fn a_missing_scope_is_permission_denied() {
    let api = Api::new();
    let reader = api.issue(NewKey::new("r").scope("postings:read")).await;
    let other = api.issue(NewKey::new("o").scope("postings:write")).await;
    let (incoming, channel) = socket();
    let server = Server::builder()
        .layer(api.layer())
        .add_service(RequireScope::new("postings:read").named_layer(PostingsServer));
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = PostingsClient::new(channel);

    let request = with(reader.secret.expose(), ListRequest { count: 2 });
    let list = client.list(request).await.unwrap().into_inner();
    assert_eq!(
        list.filter(Result::is_ok).collect::<Vec<_>>().await.len(),
        2
    );
    assert_eq!(api.event().await.status, Answered::Grpc(0));

    let request = with(other.secret.expose(), GetRequest { id: 1 });
    let status = client.get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        status.message(),
        "this API key lacks a scope that is required"
    );
    let events = api.events().await;
    let refused = events.iter().find(|event| event.key == Some(other.key.id));
    let refused = refused.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(refused.status, Answered::Grpc(7));
    assert_eq!(refused.rejection_reason, Some(RejectionReason::Scope));
    assert_eq!(
        (refused.outcome, refused.cause),
        (Outcome::Failed, Some(Cause::Refused))
    );
}

#[tokio::test]
async fn an_address_that_is_not_on_the_list_is_permission_denied() {
    let api = Api::new();
    let from = |network: &str| {
        let addresses = AddressList::parse([network]).unwrap();
        api.issue(NewKey::new("bound").addresses(addresses))
    };
    let here = from("127.0.0.0/8").await;
    let there = from("203.0.113.0/24").await;
    let (mut client, _) = serve(api.layer().peer_address(peer));
    let request = with(here.secret.expose(), GetRequest { id: 1 });
    client.get(request).await.unwrap();
    let request = with(there.secret.expose(), GetRequest { id: 1 });
    let status = client.get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    // Nobody tells the layer where the request is from: a list then lets nobody in.
    let (mut client, _) = serve(api.layer());
    let request = with(here.secret.expose(), GetRequest { id: 1 });
    let status = client.get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let events = api.events().await;
    let refused = events.iter().filter(|event| {
        event.status == Answered::Grpc(Code::PermissionDenied as u8)
            && event.rejection_reason == Some(RejectionReason::Address)
            && event.cause == Some(Cause::Refused)
    });
    assert_eq!((events.len(), refused.count()), (3, 2));
}

struct Down;

#[async_trait]
impl KeyStore for Down {
    async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("no route to 10.1.2.3"))
    }
}

#[tokio::test]
async fn rule_5_a_store_that_fails_is_unavailable() {
    let api = Api::new();
    let secret = api.key().await;
    let layer = ApiKeyLayer::new(Down).recorder(api.recorder.clone());
    let (mut client, _) = serve(layer.clone());
    let status = client.get(with(&secret, GetRequest { id: 1 })).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    // Rule 14: not a word of the store's own.
    assert!(!format!("{status:?}").contains("10.1.2.3"));
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, "1000");
    assert_eq!(
        api.recorder
            .stats()
            .refused_for(RejectionReason::StoreUnavailable),
        1
    );
    assert!(api.events().await.is_empty());

    // Unless it was told to let them pass.
    let (incoming, channel) = socket();
    let look = MapRequestLayer::new(|request: http::Request<Body>| {
        assert!(request.extensions().get::<Unverified>().is_some());
        request
    });
    let server = Server::builder()
        .layer(layer.on_store_failure(StoreFailure::Pass))
        .layer(look)
        .add_service(PostingsServer);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = PostingsClient::new(channel);
    client
        .get(with(&secret, GetRequest { id: 1 }))
        .await
        .unwrap();
    let event = api.event().await;
    assert_eq!((event.key, event.status), (None, Answered::Grpc(0)));
}

#[tokio::test]
async fn rule_9_a_stream_is_recorded_once_at_its_end_with_the_status_of_its_trailers() {
    let api = Api::new();
    let secret = api.key().await;
    let (mut client, _) = serve(api.layer());
    for (count, items, code, outcome) in [
        (0, 0, 0, (Outcome::Completed, None)),
        (3, 3, 0, (Outcome::Completed, None)),
        (13, 2, 13, (Outcome::Failed, Some(Cause::ServerError))),
    ] {
        let list = client.list(with(&secret, ListRequest { count })).await;
        let list: Vec<_> = list.unwrap().into_inner().collect().await;
        let error = list.last().and_then(|last| last.as_ref().err());
        assert_eq!(list.iter().filter(|item| item.is_ok()).count(), items);
        assert_eq!(error.map_or(0, |status| status.code() as u8), code);

        let mut events = api.events().await;
        // The newest first.
        let event = events.swap_remove(0);
        assert_eq!(
            (&*event.endpoint, event.status),
            (LIST, Answered::Grpc(code))
        );
        assert_eq!((event.outcome, event.cause), outcome);
        assert!(event.response_bytes >= items as u64 * 10);
    }
    assert_eq!(api.events().await.len(), 3);
}

#[tokio::test]
async fn rule_9_a_stream_that_the_client_drops_is_one_cancelled_event() {
    let api = Api::new();
    let secret = api.key().await;
    let (mut client, _) = serve(api.layer());
    let watch = client.watch(with(&secret, WatchRequest {})).await;
    let mut watch = watch.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().id, 1);
    drop(watch);
    let event = api.event().await;
    assert_eq!(event.status, Answered::Grpc(Code::Cancelled as u8));
    assert_eq!(
        (event.outcome, event.cause),
        (Outcome::Failed, Some(Cause::Cancelled))
    );
    // Nobody has seen this method end well, but it has answered.
    assert_eq!(&*event.endpoint, WATCH);
    assert!(event.response_bytes > 0);
}

#[tokio::test]
async fn a_stream_ends_as_unauthenticated_when_its_key_is_revoked() {
    let api = Api::new();
    let issued = api.issue(NewKey::new("watching")).await;
    let secret = issued.secret.expose();
    let every = Duration::from_millis(50);
    let (mut client, _) = serve(api.layer().end_streams_on_revocation(every));
    let watch = client.watch(with(secret, WatchRequest {})).await;
    let mut watch = watch.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().id, 1);
    assert_eq!(watch.message().await.unwrap().unwrap().id, 2);
    api.backend.revoke(issued.key.id).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), watch.message());
    let status = ended.await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let event = api.event().await;
    assert_eq!(event.status, Answered::Grpc(Code::Unauthenticated as u8));
    assert_eq!(event.rejection_reason, Some(RejectionReason::Revoked));
    assert_eq!(
        (event.outcome, event.cause),
        (Outcome::Failed, Some(Cause::Refused))
    );
    assert_eq!(&*event.endpoint, WATCH);
}

#[tokio::test]
async fn rule_9_an_open_stream_is_shown_and_recorded_as_cancelled_at_shutdown() {
    let api = Api::new();
    let secret = api.key().await;
    let (mut client, _) = serve(api.layer());
    let mut streams = Vec::new();
    for open in 1..=3 {
        let watch = client.watch(with(&secret, WatchRequest {})).await;
        let mut watch = watch.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().id, 1);
        assert_eq!(watch.message().await.unwrap().unwrap().id, 2);
        streams.push(watch);
        assert_eq!(api.recorder.stats().open, open);
    }
    client
        .get(with(&secret, GetRequest { id: 1 }))
        .await
        .unwrap();
    api.recorder.flush().await;
    let stats = api.recorder.stats();
    assert_eq!((stats.open, stats.written), (3, 1));

    let report = api.recorder.shutdown(Duration::from_secs(20)).await;
    assert_eq!((report.written, report.lost), (4, 0));
    let events = api.events().await;
    let cancelled = events.iter().filter(|event| {
        event.status == Answered::Grpc(Code::Cancelled as u8)
            && event.cause == Some(Cause::Cancelled)
            && &*event.endpoint == WATCH
    });
    assert_eq!((events.len(), cancelled.count()), (4, 3));

    // Their true end comes later and counts no more.
    drop(streams);
    let answer = client.get(with(&secret, GetRequest { id: 1 })).await;
    answer.unwrap();
    api.settle().await;
    let stats = api.recorder.stats();
    assert_eq!((stats.accepted, stats.written, stats.lost), (5, 4, 1));
}

#[tokio::test]
async fn a_code_that_names_the_clients_fault_is_a_client_error() {
    let api = Api::new();
    let secret = api.key().await;
    let (mut client, _) = serve(api.layer());
    let status = client.get(with(&secret, GetRequest { id: 0 })).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "no posting 0");
    let event = api.event().await;
    assert_eq!((&*event.endpoint, event.status), (GET, Answered::Grpc(5)));
    assert_eq!(
        (event.outcome, event.cause),
        (Outcome::Failed, Some(Cause::ClientError))
    );
}

#[tokio::test]
async fn rule_12_a_made_up_method_names_no_endpoint() {
    let api = Api::new();
    let issued = api.issue(NewKey::new("r").scope("postings:read")).await;
    let other = api.issue(NewKey::new("o")).await;
    let secret = issued.secret.expose();
    let (incoming, channel) = socket();
    let server = Server::builder()
        .layer(api.layer())
        .add_service(RequireScope::new("postings:read").named_layer(PostingsServer));
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = PostingsClient::new(channel.clone());

    for n in 0..20 {
        for path in [
            format!("/postings.v1.Postings/Made{n}"),
            format!("/made.up.v{n}.Service/Get"),
        ] {
            let response = raw(&channel, call(&path, secret)).await;
            assert_eq!(response.headers()["grpc-status"], "12", "{path}");
        }
        // A refusal says nothing about whether there is such a method.
        let path = format!("/postings.v1.Postings/Made{n}");
        let response = raw(&channel, call(&path, other.secret.expose())).await;
        assert_eq!(response.headers()["grpc-status"], "7");
    }
    client
        .get(with(secret, GetRequest { id: 1 }))
        .await
        .unwrap();
    // There is such a method, as the service has shown.
    let response = raw(&channel, call(GET, other.secret.expose())).await;
    assert_eq!(response.headers()["grpc-status"], "7");

    let events = api.events().await;
    assert_eq!(events.len(), 62);
    let refused = &events[0];
    assert_eq!(
        (&*refused.endpoint, refused.status),
        (GET, Answered::Grpc(7))
    );
    for event in events.into_iter().skip(1) {
        match event.status {
            Answered::Grpc(12) => {
                assert_eq!(
                    (&*event.endpoint, event.cause),
                    (UNMATCHED, Some(Cause::ServerError))
                );
            }
            Answered::Grpc(7) => assert_eq!(&*event.endpoint, UNMATCHED),
            _ => assert_eq!(&*event.endpoint, GET),
        }
    }
}

#[tokio::test]
async fn the_request_id_is_echoed_and_found_in_the_log() {
    let api = Api::new();
    let secret = api.key().await;
    let (mut client, _) = serve(api.layer());
    let sent = |id: &str, message| {
        let mut request = with(&secret, message);
        let id = id.parse().unwrap();
        request.metadata_mut().insert("x-request-id", id);
        request
    };
    let found = async |id: &str| {
        let filter = LogFilter::new().request_id(id);
        api.settle().await;
        let page = api.backend.requests(&LogQuery::new(filter)).await.unwrap();
        assert_eq!(page.items.len(), 1, "{id}");
        page.items[0].clone()
    };

    let answer = client
        .get(sent("trace-1/a", GetRequest { id: 1 }))
        .await
        .unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "trace-1/a");
    let event = found("trace-1/a").await;
    assert_eq!(event.request_id.as_deref(), Some("trace-1/a"));
    assert_eq!(found(&event.id.to_string()).await, event);

    // With an error in the head too.
    let status = client
        .get(sent("trace-2", GetRequest { id: 0 }))
        .await
        .unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "trace-2");
    assert_eq!(found("trace-2").await.status, Answered::Grpc(5));

    // One that no log should hold is not taken, and without one there is the event's own.
    for request in [
        with(&secret, GetRequest { id: 1 }),
        sent("a b", GetRequest { id: 1 }),
    ] {
        let answer = client.get(request).await.unwrap();
        let id = answer.metadata().get("x-request-id").unwrap();
        let event = found(id.to_str().unwrap()).await;
        assert_eq!(id.to_str().unwrap(), event.id.to_string());
        assert_eq!(event.request_id, None);
    }
}

#[tokio::test]
async fn rule_9_two_layers_with_one_recorder_count_a_call_once() {
    let api = Api::new();
    let secret = api.key().await;
    let (incoming, channel) = socket();
    let limit = RateLimit::per_hour(2).with_name("inner");
    let inner = api.layer().default_limits([limit]).unwrap();
    let server = Server::builder()
        .layer(api.layer())
        .layer(inner)
        .add_service(PostingsServer);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = PostingsClient::new(channel);

    let answer = client.get(with(&secret, GetRequest { id: 1 })).await;
    let answer = answer.unwrap();
    let event = api.event().await;
    assert_eq!((&*event.endpoint, event.status), (GET, Answered::Grpc(0)));
    let id = answer.metadata().get("x-request-id").unwrap();
    assert_eq!(id.to_str().unwrap(), event.id.to_string());
    let list = client.list(with(&secret, ListRequest { count: 13 })).await;
    let list: Vec<_> = list.unwrap().into_inner().collect().await;
    assert_eq!(list.len(), 3);
    assert_eq!(api.events().await.len(), 2);

    // What the inner one refuses is one event too.
    let status = client.get(with(&secret, GetRequest { id: 1 })).await;
    assert_eq!(status.unwrap_err().code(), Code::ResourceExhausted);
    let events = api.events().await;
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].outcome, Outcome::RateLimited);
    assert_eq!(
        events[0].rejection_reason,
        Some(RejectionReason::RateLimited)
    );
    assert_eq!(events[0].status, Answered::Grpc(8));
    let stats = api.recorder.stats();
    assert_eq!((stats.accepted, stats.open), (3, 0));
}

#[tokio::test]
async fn refusals_of_grpc_web_are_valid_answers() {
    let api = Api::new();
    let limit = RateLimit::per_hour(1).with_name("burst");
    let issued = api.issue(NewKey::new("web").limit(limit)).await;
    let (mut client, channel) = serve(api.layer());
    let secret = issued.secret.expose();
    client
        .get(with(secret, GetRequest { id: 1 }))
        .await
        .unwrap();

    for content_type in ["application/grpc-web+proto", "application/grpc-web-text"] {
        for (secret, code, pushback) in [("nonsense", "16", false), (secret, "8", true)] {
            let request = http::Request::post(GET)
                .header("content-type", content_type)
                .header("x-api-key", secret);
            let response = raw(&channel, request).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], content_type);
            assert_eq!(response.headers()["grpc-status"], code);
            assert!(response.headers().contains_key("grpc-message"));
            let told = response.headers().contains_key("grpc-retry-pushback-ms");
            assert_eq!(told, pushback);
            assert!(response.body().is_empty());
        }
    }
    let events = api.events().await;
    assert_eq!(events.len(), 3);
    for event in &events[..2] {
        assert_eq!(
            (event.status, event.outcome),
            (Answered::Grpc(8), Outcome::RateLimited)
        );
    }
}

/// A call is a POST; what else claims gRPC's content type is answered and counted as plain HTTP.
#[tokio::test]
async fn a_get_is_no_call_whatever_it_claims() {
    let api = Api::new();
    let limit = RateLimit::per_hour(1).with_name("burst");
    let issued = api.issue(NewKey::new("get").limit(limit)).await;
    let (mut client, channel) = serve(api.layer());
    let secret = issued.secret.expose();
    client
        .get(with(secret, GetRequest { id: 1 }))
        .await
        .unwrap();
    let request = http::Request::get(GET)
        .header("content-type", "application/grpc")
        .header("x-api-key", secret);
    let response = raw(&channel, request).await;
    assert_eq!(response.status(), 429);
    assert!(!response.headers().contains_key("grpc-status"));
    let events = api.events().await;
    assert_eq!(events[0].status, Answered::Http(429));
}

#[tokio::test]
async fn the_same_layer_serves_tonic_within_axum() {
    let api = Api::new();
    let secret = api.key().await;
    let router = Routes::new(PostingsServer)
        .into_axum_router()
        .route("/hello/{name}", axum::routing::get(async || "hello"))
        .route("/app/{*page}", axum::routing::any(async || "a page"))
        .layer(api.layer());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut client = PostingsClient::new(channel.clone());

    client
        .get(with(&secret, GetRequest { id: 1 }))
        .await
        .unwrap();
    let event = api.event().await;
    assert_eq!((&*event.endpoint, event.status), (GET, Answered::Grpc(0)));

    let request = http::Request::get("/hello/you").header("x-api-key", &secret);
    let response = raw(&channel, request).await;
    assert_eq!(response.body(), b"hello");
    let events = api.events().await;
    assert_eq!((events.len(), events[0].status), (2, Answered::Http(200)));
    let endpoint = if cfg!(feature = "axum") {
        "/hello/{name}"
    } else {
        UNMATCHED
    };
    assert_eq!(&*events[0].endpoint, endpoint);

    // The answer decides how a call is accounted for, not what the client says of it.
    for (request, endpoint) in [
        (call("/app/made-up", &secret), "/app/{*page}"),
        (call("/hello/you", &secret).method("GET"), endpoint),
    ] {
        let response = raw(&channel, request).await;
        assert_eq!(response.status(), 200);
        let event = api.events().await.remove(0);
        let expected = if cfg!(feature = "axum") {
            endpoint
        } else {
            UNMATCHED
        };
        assert_eq!(
            (&*event.endpoint, event.status),
            (expected, Answered::Http(200))
        );
        assert_eq!((event.outcome, event.cause), (Outcome::Completed, None));
    }
    let response = raw(&channel, call("/postings.v1.Postings/Made", &secret)).await;
    assert_eq!(response.headers()["grpc-status"], "12");
    let event = api.events().await.remove(0);
    let template = if cfg!(feature = "axum") {
        "/postings.v1.Postings/{*rest}"
    } else {
        UNMATCHED
    };
    assert_eq!(
        (&*event.endpoint, event.status),
        (template, Answered::Grpc(12))
    );
}

/// tonic looks at neither method nor content type, and answers in gRPC whatever they are.
#[tokio::test]
async fn an_answer_in_grpc_is_accounted_as_one_whatever_the_request_was() {
    let api = Api::new();
    let secret = api.key().await;
    let (_, channel) = serve(api.layer());
    for (method, content_type) in [
        ("POST", Some("application/json")),
        ("POST", None),
        ("PUT", Some("application/grpc")),
        ("OPTIONS", Some("text/plain")),
        ("GET", None),
    ] {
        for (id, code) in [(1, Code::Ok), (0, Code::NotFound)] {
            let mut request = http::Request::builder()
                .method(method)
                .uri(GET)
                .header("x-api-key", &secret);
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            let message = prost::Message::encode_to_vec(&GetRequest { id });
            let prefix = [0, 0, 0, 0, message.len() as u8];
            let body = Body::new(http_body_util::Full::from([&prefix[..], &message].concat()));
            let response = channel.clone().oneshot(request.body(body).unwrap()).await;
            response.unwrap().into_body().collect().await.unwrap();
            let event = api.events().await.remove(0);
            assert_eq!(
                (&*event.endpoint, event.status),
                (GET, Answered::Grpc(code as u8)),
                "{method} {content_type:?}"
            );
        }
    }
}

const TASKS: usize = 16;
const CALLS: usize = 125;

/// The kinds of key in the mix: which key a call comes with decides as much as its method.
struct Secrets {
    free: String,
    limited: String,
    unscoped: String,
    revoked: String,
}

/// One call of the mix, to its end; its code as the client sees it.
async fn one_of_the_mix(n: usize, channel: &Channel, secrets: &Secrets) -> (Code, bool) {
    let mut client = PostingsClient::new(channel.clone());
    let code = |answer: Result<(), Status>| answer.err().map_or(Code::Ok, |status| status.code());
    let get = GetRequest { id: n as u64 % 3 };
    let answer = match n % 10 {
        0 | 1 => client.get(with(&secrets.free, get)).await.map(drop),
        2 | 3 => client.get(with(&secrets.limited, get)).await.map(drop),
        4 => client.get(with(&secrets.unscoped, get)).await.map(drop),
        5 => client.get(with(&secrets.revoked, get)).await.map(drop),
        6 => return (code(client.get(get).await.map(drop)), false),
        7 => {
            let count = [3, 13, 100][n % 3];
            let list = client
                .list(with(&secrets.free, ListRequest { count }))
                .await;
            let list: Vec<_> = list.unwrap().into_inner().collect().await;
            list.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
        }
        8 => {
            let watch = client.watch(with(&secrets.free, WatchRequest {})).await;
            watch.unwrap().into_inner().message().await.unwrap();
            return (Code::Cancelled, true);
        }
        _ => {
            let path = format!("/postings.v1.Postings/Made{n}");
            let response = raw(channel, call(&path, &secrets.free)).await;
            Err(Status::from_header_map(response.headers()).unwrap())
        }
    };
    (code(answer), true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_9_the_clients_tally_is_the_summary() {
    let api = Api::new();
    let issue = async |new: NewKey| {
        let issued = api.issue(new).await;
        (issued.key.id, issued.secret.expose().to_owned())
    };
    let scoped = |name| NewKey::new(name).scope("postings:read");
    let limit = RateLimit::per_hour(50);
    let (_, free) = issue(scoped("free")).await;
    let (limited_id, limited) = issue(scoped("limited").limit(limit)).await;
    let (_, unscoped) = issue(NewKey::new("unscoped")).await;
    let (revoked_id, revoked) = issue(scoped("revoked")).await;
    api.backend.revoke(revoked_id).await.unwrap();
    let secrets = Secrets {
        free,
        limited,
        unscoped,
        revoked,
    };
    let secrets: &'static Secrets = Box::leak(Box::new(secrets));

    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder()
        .layer(api.layer())
        .add_service(RequireScope::new("postings:read").named_layer(PostingsServer));
    tokio::spawn(server.serve_with_incoming(incoming));

    let tasks = (0..TASKS).map(|task| {
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect_lazy();
        tokio::spawn(async move {
            let mut tally = HashMap::<_, u64>::new();
            for n in 0..CALLS {
                let answer = one_of_the_mix(task * CALLS + n, &channel, secrets).await;
                *tally.entry(answer).or_default() += 1;
            }
            tally
        })
    });
    let mut events = BTreeMap::<Answered, u64>::new();
    let mut strangers = 0;
    for task in tasks.collect::<Vec<_>>() {
        for ((code, known), count) in task.await.unwrap() {
            if known {
                *events.entry(Answered::Grpc(code as u8)).or_default() += count;
            } else {
                assert_eq!(code, Code::Unauthenticated);
                strangers += count;
            }
        }
    }
    assert_eq!(
        strangers + events.values().sum::<u64>(),
        (TASKS * CALLS) as u64
    );
    assert_eq!(events.len(), 8, "every kind occurs: {events:?}");

    api.settle().await;
    let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new().by_key());
    let summary = api.backend.summary(&query).await.unwrap();
    let counted = summary.by_status.iter();
    let mut counted: BTreeMap<_, _> = counted.map(|(k, v)| (*k, v.total())).collect();
    // Beyond the limit on events of rejected keys, their refusals are counted only.
    let unrecorded = api.recorder.stats().refused_for(RejectionReason::Revoked);
    assert_eq!(counted[&Answered::Grpc(16)], 10);
    *counted.get_mut(&Answered::Grpc(16)).unwrap() += unrecorded;
    assert_eq!(counted, events);
    let by_key = summary.by_key.unwrap();
    assert_eq!(
        by_key[&Some(limited_id)].rate_limited(),
        events[&Answered::Grpc(8)]
    );
    assert_eq!(by_key[&Some(revoked_id)].failed_by(Cause::Refused), 10);
    let endpoints: Vec<_> = summary.by_endpoint.keys().map(|name| &**name).collect();
    assert_eq!(endpoints, [UNMATCHED, GET, LIST, WATCH]);

    let stats = api.recorder.stats();
    assert_eq!(stats.refused_for(RejectionReason::Missing), strangers);
    assert_eq!((stats.open, stats.queued, stats.lost), (0, 0, 0));
    assert_eq!(stats.accepted + unrecorded, events.values().sum::<u64>());
    assert_eq!(stats.written, stats.accepted);
}
