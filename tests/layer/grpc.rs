//! The layer in front of a tonic server, called by tonic's client over sockets.

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
    Actor, AddressList, Issued, Issuer, KeyAdmin, KeyRecord, KeyStore, NewKey, StoreError,
};
use keytally::limit::RateLimit;
use keytally::usage::{
    Cause, LogFilter, LogQuery, Method, Outcome, Recorder, RejectionReason, Status as Answered,
    SummaryQuery, SummarySpec, UNMATCHED, UsageEvent, UsageRange, UsageReader,
};
use keytally::{
    ApiKeyLayer, Caller, Clock, KeyId, PageRequest, RequestParts, RequireScope, RouteCost,
    StoreFailure, Unverified, async_trait,
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

/// A backend with keys and their usage, and the recorder that writes to it.
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
        issuer
            .issue(&self.backend, new, Actor::SYSTEM)
            .await
            .unwrap()
    }

    /// The secret of a new key without limits.
    async fn key(&self) -> String {
        let issued = self.issue(NewKey::new("any")).await;
        issued.secret.expose().to_owned()
    }

    /// Waits until no request is open and every event is written.
    async fn settle(&self) {
        let settled = async {
            while self.recorder.stats().in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.recorder.flush().await;
        };
        let settled = tokio::time::timeout(Duration::from_secs(20), settled).await;
        settled.expect("a request is still open");
    }

    /// All events, newest first, once no request is open.
    async fn events(&self) -> Vec<UsageEvent> {
        self.settle().await;
        let query = LogQuery::new(LogFilter::new()).limit(PageRequest::MAX_LIMIT);
        self.backend.requests(&query).await.unwrap().items
    }

    /// The only event.
    async fn event(&self) -> UsageEvent {
        let mut events = self.events().await;
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}

/// A listener on a free port, and a client channel to it.
fn socket() -> (TcpIncoming, Channel) {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = incoming.local_addr().unwrap();
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    (incoming, endpoint.connect_lazy())
}

/// Serves the postings service behind the layer.
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

/// Sends a raw request, for paths and content types that the generated client does not support. Reads the whole
/// body and merges its trailers into the headers.
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

/// What a client sees of an error status, without headers that differ between responses.
fn visible_parts(status: &Status) -> (Code, String, Vec<u8>, HeaderMap) {
    let mut headers = status.metadata().clone().into_headers();
    assert!(headers.remove("x-request-id").is_some());
    headers.remove("date");
    let message = status.message().to_owned();
    (status.code(), message, status.details().to_vec(), headers)
}

mod complete_accounting {
    use super::*;

    #[tokio::test]
    async fn unary_call_is_recorded_as_one_event() {
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
        // A gRPC message has a five-byte prefix.
        let length = 5 + prost::Message::encoded_len(&posting) as u64;
        assert_eq!(event.response_bytes, length);
    }

    #[tokio::test]
    async fn stream_is_recorded_once_with_the_status_of_its_trailers() {
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
    async fn stream_dropped_by_the_client_is_one_cancelled_event() {
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
        // The method never completed, but its response had started.
        assert_eq!(&*event.endpoint, WATCH);
        assert!(event.response_bytes > 0);
    }

    #[tokio::test]
    async fn open_streams_are_counted_and_recorded_as_cancelled_at_shutdown() {
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
            assert_eq!(api.recorder.stats().in_flight, open);
        }
        client
            .get(with(&secret, GetRequest { id: 1 }))
            .await
            .unwrap();
        api.recorder.flush().await;
        let stats = api.recorder.stats();
        assert_eq!((stats.in_flight, stats.written), (3, 1));

        let report = api.recorder.shutdown(Duration::from_secs(20)).await;
        assert_eq!((report.written, report.lost), (4, 0));
        let events = api.events().await;
        let cancelled = events.iter().filter(|event| {
            event.status == Answered::Grpc(Code::Cancelled as u8)
                && event.cause == Some(Cause::Cancelled)
                && &*event.endpoint == WATCH
        });
        assert_eq!((events.len(), cancelled.count()), (4, 3));

        // The streams end after the shutdown and are not counted again.
        drop(streams);
        let response = client.get(with(&secret, GetRequest { id: 1 })).await;
        response.unwrap();
        api.settle().await;
        let stats = api.recorder.stats();
        assert_eq!((stats.accepted, stats.written, stats.lost), (5, 4, 1));
    }

    #[tokio::test]
    async fn nested_layers_with_one_recorder_record_a_call_once() {
        let api = Api::new();
        let secret = api.key().await;
        let (incoming, channel) = socket();
        let limit = RateLimit::per_hour(2).with_name("inner");
        let inner = api.layer().default_limits([limit]);
        let server = Server::builder()
            .layer(api.layer())
            .layer(inner)
            .add_service(PostingsServer);
        tokio::spawn(server.serve_with_incoming(incoming));
        let mut client = PostingsClient::new(channel);

        let response = client.get(with(&secret, GetRequest { id: 1 })).await;
        let response = response.unwrap();
        let event = api.event().await;
        assert_eq!((&*event.endpoint, event.status), (GET, Answered::Grpc(0)));
        let id = response.metadata().get("x-request-id").unwrap();
        assert_eq!(id.to_str().unwrap(), event.id.to_string());
        let list = client.list(with(&secret, ListRequest { count: 13 })).await;
        let list: Vec<_> = list.unwrap().into_inner().collect().await;
        assert_eq!(list.len(), 3);
        assert_eq!(api.events().await.len(), 2);

        // A rejection by the inner layer is one event too.
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
        assert_eq!((stats.accepted, stats.in_flight), (3, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn client_tallies_match_the_summary() {
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
        api.backend.revoke(revoked_id, Actor::SYSTEM).await.unwrap();
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
                    let response = mixed_call(task * CALLS + n, &channel, secrets).await;
                    *tally.entry(response).or_default() += 1;
                }
                tally
            })
        });
        let mut events = BTreeMap::<Answered, u64>::new();
        let mut missing = 0;
        for task in tasks.collect::<Vec<_>>() {
            for ((code, recorded), count) in task.await.unwrap() {
                if recorded {
                    *events.entry(Answered::Grpc(code as u8)).or_default() += count;
                } else {
                    assert_eq!(code, Code::Unauthenticated);
                    missing += count;
                }
            }
        }
        assert_eq!(
            missing + events.values().sum::<u64>(),
            (TASKS * CALLS) as u64
        );
        assert_eq!(events.len(), 8, "not every status occurs: {events:?}");

        api.settle().await;
        let query = SummaryQuery::new(UsageRange::new(), SummarySpec::new().by_key());
        let summary = api.backend.summary(&query).await.unwrap();
        let counted = summary.by_status.iter();
        let mut counted: BTreeMap<_, _> = counted.map(|(k, v)| (*k, v.total())).collect();
        // Beyond the limit on events of rejected keys, rejections are only counted.
        let unrecorded = api.recorder.stats().rejected_for(RejectionReason::Revoked);
        assert_eq!(counted[&Answered::Grpc(16)], 10);
        *counted.get_mut(&Answered::Grpc(16)).unwrap() += unrecorded;
        assert_eq!(counted, events);
        let by_key = summary.by_key.unwrap();
        assert_eq!(
            by_key[&Some(limited_id)].rate_limited(),
            events[&Answered::Grpc(8)]
        );
        assert_eq!(by_key[&Some(revoked_id)].failed_by(Cause::Rejected), 10);
        let endpoints: Vec<_> = summary.by_endpoint.keys().map(|name| &**name).collect();
        assert_eq!(endpoints, [UNMATCHED, GET, LIST, WATCH]);

        let stats = api.recorder.stats();
        assert_eq!(stats.rejected_for(RejectionReason::Missing), missing);
        assert_eq!((stats.in_flight, stats.queued, stats.lost), (0, 0, 0));
        assert_eq!(stats.accepted + unrecorded, events.values().sum::<u64>());
        assert_eq!(stats.written, stats.accepted);
    }
}

mod secret_confidentiality {
    use super::*;

    #[tokio::test]
    async fn inner_service_never_sees_the_secret() {
        let api = Api::new();
        let secret = api.key().await;
        let (incoming, channel) = socket();
        let inspect = MapRequestLayer::new(|request: http::Request<Body>| {
            for value in request.headers().values() {
                assert!(!String::from_utf8_lossy(value.as_bytes()).contains("acme_test_"));
            }
            assert!(request.extensions().get::<Caller>().is_some());
            request
        });
        let server = Server::builder()
            .layer(api.layer())
            .layer(inspect)
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
}

mod indistinguishable_rejections {
    use super::*;

    #[tokio::test]
    async fn rejected_credentials_are_indistinguishable() {
        let api = Api::new();
        let (mut client, _) = serve(api.layer());
        let secret = async |new| {
            let issued = api.issue(new).await;
            (issued.key.id, issued.secret.expose().to_owned())
        };
        let (_, expired) = secret(NewKey::new("expired").expires_at(Timestamp::UNIX_EPOCH)).await;
        let (revoked_id, revoked) = secret(NewKey::new("revoked")).await;
        let (disabled_id, disabled) = secret(NewKey::new("disabled")).await;
        // It is valid at first, and cached.
        client
            .get(with(&revoked, GetRequest { id: 1 }))
            .await
            .unwrap();
        api.backend.revoke(revoked_id, Actor::SYSTEM).await.unwrap();
        api.backend
            .disable(disabled_id, Actor::SYSTEM)
            .await
            .unwrap();
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
            assert_eq!(
                visible_parts(&get.unwrap_err()),
                visible_parts(&missing),
                "{secret}"
            );
            let list = client.list(with(secret, ListRequest { count: 1 })).await;
            assert_eq!(
                visible_parts(&list.unwrap_err()),
                visible_parts(&missing),
                "{secret}"
            );
        }

        // Rejections of known keys are events; all others are only counted.
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
        // `Bearer` alone is no credential.
        assert_eq!(stats.rejected_for(RejectionReason::Missing), 3);
        assert_eq!(stats.rejected_for(RejectionReason::Malformed), 4);
        assert_eq!(stats.rejected_for(RejectionReason::Unknown), 2);
        assert_eq!(stats.rejected_for(RejectionReason::WrongSecret), 2);
    }
}

mod sufficient_retry_after {
    use super::*;

    #[tokio::test]
    async fn rate_limited_call_is_resource_exhausted_and_its_retry_hint_is_sufficient() {
        let api = Api::new();
        let clock = Clock::manual(Timestamp::now());
        let limit = RateLimit::per_hour(7).with_burst(1).with_name("burst");
        let issued = api.issue(NewKey::new("limited").limit(limit)).await;
        let secret = issued.secret.expose();
        let (mut client, _) = serve(api.layer().clock(clock.clone()));

        for _ in 0..3 {
            let response = client
                .get(with(secret, GetRequest { id: 1 }))
                .await
                .unwrap();
            let rate_limit = response.metadata().get("ratelimit").unwrap();
            assert_eq!(rate_limit, "\"burst\";r=0;t=515");
            let policy = response.metadata().get("ratelimit-policy").unwrap();
            assert_eq!(policy, "\"burst\";q=7;w=3600");

            let unary = client.get(with(secret, GetRequest { id: 1 })).await;
            let stream = client.list(with(secret, ListRequest { count: 1 })).await;
            let watch = client.watch(with(secret, WatchRequest {})).await;
            for status in [unary.err(), stream.err(), watch.err()] {
                let status = status.unwrap();
                assert_eq!(status.code(), Code::ResourceExhausted);
                let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
                assert_eq!(pushback, "-1", "the wait is too long for a retry");
                assert_eq!(status.metadata().get("retry-after").unwrap(), "515");
                assert!(!status.details().is_empty());
            }
            // A seventh of an hour is 514.28… seconds.
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
}

/// A Python client that retries on `RESOURCE_EXHAUSTED`, with a deadline of 8 s.
#[tokio::test]
#[ignore = "needs KEYTALLY_PYTHON, a Python with grpcio; scripts/test installs one"]
async fn retrying_client_is_not_delayed_beyond_its_deadline() {
    let python = std::env::var("KEYTALLY_PYTHON").unwrap();
    for (limit, calls, expected) in [
        // The wait exceeds the deadline: the second call is rejected once and not retried.
        (RateLimit::per_hour(1), 2, "RESOURCE_EXHAUSTED"),
        // The waits are short: all calls succeed after retries.
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
        let stdout = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let (code, millis) = stdout
            .trim()
            .split_once(' ')
            .unwrap_or_else(|| panic!("{errors}"));
        assert_eq!(code, expected, "after {millis} ms");
        let events = api.events().await;
        let limited = |event: &&UsageEvent| event.outcome == Outcome::RateLimited;
        let rejected = events.iter().filter(limited).count();
        match code {
            "OK" => assert!(
                rejected > 0 && events.len() - rejected == calls,
                "{events:?}"
            ),
            _ => assert_eq!((rejected, events.len()), (1, 2)),
        }
    }
}

#[tokio::test]
async fn call_costing_more_than_the_burst_is_not_retryable() {
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
async fn missing_scope_is_permission_denied() {
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
    assert_eq!(status.message(), "this API key lacks a required scope");
    let events = api.events().await;
    let rejected = events.iter().find(|event| event.key == Some(other.key.id));
    let rejected = rejected.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(rejected.status, Answered::Grpc(7));
    assert_eq!(rejected.rejection_reason, Some(RejectionReason::Scope));
    assert_eq!(
        (rejected.outcome, rejected.cause),
        (Outcome::Failed, Some(Cause::Rejected))
    );
}

#[tokio::test]
async fn client_ip_outside_the_address_list_is_permission_denied() {
    let api = Api::new();
    let from = |network: &str| {
        let addresses = AddressList::parse([network]).unwrap();
        api.issue(NewKey::new("bound").addresses(addresses))
    };
    let allowed = from("127.0.0.0/8").await;
    let disallowed = from("203.0.113.0/24").await;
    let (mut client, _) = serve(api.layer().peer_address(peer));
    let request = with(allowed.secret.expose(), GetRequest { id: 1 });
    client.get(request).await.unwrap();
    let request = with(disallowed.secret.expose(), GetRequest { id: 1 });
    let status = client.get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    // Without a peer address, a key with an address list is rejected.
    let (mut client, _) = serve(api.layer());
    let request = with(allowed.secret.expose(), GetRequest { id: 1 });
    let status = client.get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let events = api.events().await;
    let rejected = events.iter().filter(|event| {
        event.status == Answered::Grpc(Code::PermissionDenied as u8)
            && event.rejection_reason == Some(RejectionReason::ClientIp)
            && event.cause == Some(Cause::Rejected)
    });
    assert_eq!((events.len(), rejected.count()), (3, 2));
}

struct FailingStore;

#[async_trait]
impl KeyStore for FailingStore {
    async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("no route to 10.1.2.3"))
    }
}

mod fail_closed {
    use super::*;

    #[tokio::test]
    async fn store_failure_is_unavailable() {
        let api = Api::new();
        let secret = api.key().await;
        let layer = ApiKeyLayer::new(FailingStore).recorder(api.recorder.clone());
        let (mut client, _) = serve(layer.clone());
        let status = client.get(with(&secret, GetRequest { id: 1 })).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        // Invariant 14: the store's error text is not exposed.
        assert!(!format!("{status:?}").contains("10.1.2.3"));
        let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
        assert_eq!(pushback, "1000");
        assert_eq!(
            api.recorder
                .stats()
                .rejected_for(RejectionReason::StoreUnavailable),
            1
        );
        assert!(api.events().await.is_empty());

        // `StoreFailure::Admit` admits them as unverified.
        let (incoming, channel) = socket();
        let inspect = MapRequestLayer::new(|request: http::Request<Body>| {
            assert!(request.extensions().get::<Unverified>().is_some());
            request
        });
        let server = Server::builder()
            .layer(layer.on_store_failure(StoreFailure::Admit))
            .layer(inspect)
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
}

#[tokio::test]
async fn stream_ends_as_unauthenticated_when_its_key_is_revoked() {
    let api = Api::new();
    let issued = api.issue(NewKey::new("watching")).await;
    let secret = issued.secret.expose();
    let every = Duration::from_millis(50);
    let (mut client, _) = serve(api.layer().end_streams_on_revocation(every));
    let watch = client.watch(with(secret, WatchRequest {})).await;
    let mut watch = watch.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().id, 1);
    assert_eq!(watch.message().await.unwrap().unwrap().id, 2);
    api.backend
        .revoke(issued.key.id, Actor::SYSTEM)
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), watch.message());
    let status = ended.await.expect("the stream ends").unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let event = api.event().await;
    assert_eq!(event.status, Answered::Grpc(Code::Unauthenticated as u8));
    assert_eq!(event.rejection_reason, Some(RejectionReason::Revoked));
    assert_eq!(
        (event.outcome, event.cause),
        (Outcome::Failed, Some(Cause::Rejected))
    );
    assert_eq!(&*event.endpoint, WATCH);
}

#[tokio::test]
async fn not_found_is_recorded_as_a_client_error() {
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

mod bounded_cardinality {
    use super::*;

    #[tokio::test]
    async fn costs_are_charged_by_path() {
        let api = Api::new();
        let limit = RateLimit::per_hour(7);
        let key = api.issue(NewKey::new("k").limit(limit)).await;
        let costs = RouteCost::by_path([(WATCH, 5), ("/open.v1.Service/*", 0)]).unwrap();
        let (incoming, channel) = socket();
        let mut server = Server::builder().layer(api.layer()).layer(costs);
        let server = server.add_service(PostingsServer);
        tokio::spawn(server.serve_with_incoming(incoming));
        for (path, is_limited) in [
            (WATCH, false),
            ("/open.v1.Service/Get", false),
            (WATCH, true),
            (GET, false),
            (GET, false),
            (GET, true),
        ] {
            let response = raw(&channel, call(path, key.secret.expose())).await;
            let status = response.headers().get("grpc-status");
            assert_eq!(status.is_some_and(|it| it == "8"), is_limited, "{path}");
        }
    }

    #[tokio::test]
    async fn scopes_are_required_by_path() {
        let api = Api::new();
        let reader = api.issue(NewKey::new("r").scope("postings:read")).await;
        let all = api.issue(NewKey::new("a").scope("postings:*")).await;
        let none = api.issue(NewKey::new("n").scope("postings")).await;
        let scopes = || {
            let scopes = RequireScope::by_path([
                (WATCH, "postings:watch"),
                ("/postings.v1.Postings/*", "postings:read"),
            ]);
            let scopes = scopes.unwrap().without_scope("/open.v1.Service/*");
            scopes.unwrap()
        };
        let (incoming, channel) = socket();
        let mut server = Server::builder().layer(api.layer()).layer(scopes());
        let server = server.add_service(PostingsServer);
        tokio::spawn(server.serve_with_incoming(incoming));
        let plain = api.issue(NewKey::new("p")).await;
        for (key, path, is_admitted) in [
            (&reader, GET, true),
            (&reader, WATCH, false),
            (&all, GET, true),
            (&all, WATCH, true),
            (&none, GET, false),
            (&none, WATCH, false),
            (&plain, "/open.v1.Service/Get", true),
            (&all, "/other.v1.Service/Get", false),
            (&all, "/postings.v1.Postings/W%61tch", false),
            (&all, "/postings.v1.Postings/Watch/", false),
            (&all, "/postings.v1.Postings//Get", false),
            (&all, "/postings.v1.Postings/../x", false),
            (&all, "/postings.v1.Postings/Get;x", false),
            (&all, "/postings.v1.Postings/", false),
        ] {
            let response = raw(&channel, call(path, key.secret.expose())).await;
            // The service fails without a message.
            let status = response.headers().get("grpc-status");
            let is_rejected = status.is_some_and(|status| status == "7");
            assert_eq!(!is_rejected, is_admitted, "{path}");
        }
        // Without the layer for keys.
        let (incoming, channel) = socket();
        let server = Server::builder()
            .layer(scopes())
            .add_service(PostingsServer);
        tokio::spawn(server.serve_with_incoming(incoming));
        let response = raw(&channel, call(GET, all.secret.expose())).await;
        let headers = response.headers();
        assert_eq!(headers["grpc-status"], "13");
        assert_eq!(headers["grpc-message"], "the server is misconfigured");
    }

    #[tokio::test]
    async fn unknown_methods_add_no_endpoints() {
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
            // Rejections do not reveal whether the method exists.
            let path = format!("/postings.v1.Postings/Made{n}");
            let response = raw(&channel, call(&path, other.secret.expose())).await;
            assert_eq!(response.headers()["grpc-status"], "7");
        }
        client
            .get(with(secret, GetRequest { id: 1 }))
            .await
            .unwrap();
        // The method is known once the service has handled it.
        let response = raw(&channel, call(GET, other.secret.expose())).await;
        assert_eq!(response.headers()["grpc-status"], "7");

        let events = api.events().await;
        assert_eq!(events.len(), 62);
        let rejected = &events[0];
        assert_eq!(
            (&*rejected.endpoint, rejected.status),
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
}

#[tokio::test]
async fn request_id_is_echoed_and_searchable_in_the_request_log() {
    let api = Api::new();
    let secret = api.key().await;
    let (mut client, _) = serve(api.layer());
    let with_id = |id: &str, message| {
        let mut request = with(&secret, message);
        let id = id.parse().unwrap();
        request.metadata_mut().insert("x-request-id", id);
        request
    };
    let event_by_id = async |id: &str| {
        let filter = LogFilter::new().request_id(id);
        api.settle().await;
        let page = api.backend.requests(&LogQuery::new(filter)).await.unwrap();
        assert_eq!(page.items.len(), 1, "{id}");
        page.items[0].clone()
    };

    let response = client
        .get(with_id("trace-1/a", GetRequest { id: 1 }))
        .await
        .unwrap();
    assert_eq!(
        response.metadata().get("x-request-id").unwrap(),
        "trace-1/a"
    );
    let event = event_by_id("trace-1/a").await;
    assert_eq!(event.request_id.as_deref(), Some("trace-1/a"));
    assert_eq!(event_by_id(&event.id.to_string()).await, event);

    // Also on an error status.
    let status = client
        .get(with_id("trace-2", GetRequest { id: 0 }))
        .await
        .unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "trace-2");
    assert_eq!(event_by_id("trace-2").await.status, Answered::Grpc(5));

    // Without a valid request id, the event's own id is used.
    for request in [
        with(&secret, GetRequest { id: 1 }),
        with_id("a b", GetRequest { id: 1 }),
    ] {
        let response = client.get(request).await.unwrap();
        let id = response.metadata().get("x-request-id").unwrap();
        let event = event_by_id(id.to_str().unwrap()).await;
        assert_eq!(id.to_str().unwrap(), event.id.to_string());
        assert_eq!(event.request_id, None);
    }
}

#[tokio::test]
async fn grpc_web_rejections_are_valid_responses() {
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
            let has_pushback = response.headers().contains_key("grpc-retry-pushback-ms");
            assert_eq!(has_pushback, pushback);
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

/// gRPC calls are POST requests; others with gRPC's content type are handled and recorded as plain HTTP.
#[tokio::test]
async fn get_with_a_grpc_content_type_is_treated_as_http() {
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
async fn one_layer_serves_tonic_inside_axum() {
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

    // The response, not the request, decides whether a call is recorded as gRPC.
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

/// tonic checks neither method nor content type and always responds in gRPC.
#[tokio::test]
async fn grpc_response_is_recorded_as_grpc_whatever_the_method_and_content_type() {
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

/// The secrets used by the mix of calls.
struct Secrets {
    free: String,
    limited: String,
    unscoped: String,
    revoked: String,
}

/// Makes the `n`th call of the mix; returns its code and whether it is recorded as an event.
async fn mixed_call(n: usize, channel: &Channel, secrets: &Secrets) -> (Code, bool) {
    let mut client = PostingsClient::new(channel.clone());
    let code =
        |response: Result<(), Status>| response.err().map_or(Code::Ok, |status| status.code());
    let get = GetRequest { id: n as u64 % 3 };
    let response = match n % 10 {
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
    (code(response), true)
}
