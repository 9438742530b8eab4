//! Requests with nothing but a bearer token are decided on a short way. It decides as the whole way does, which a
//! layer with a further credential source takes for every request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use keytally::backend::{MemoryBackend, MemoryConfig};
use keytally::key::{Actor, AddressList, Issuer, KeyAdmin, NewKey};
use keytally::limit::{LocalLimiter, RateLimit};
use keytally::usage::{RecordedQuery, Recorder, RecorderStats, UsageEvent, UsageReader};
use keytally::{ApiKeyLayer, Caller, Clock, CredentialSource, HeaderStyle, PeerAddress};
use proptest::prelude::*;
use proptest::sample::select;
use tower::{Layer, Service};

const HERE: [u8; 4] = [203, 0, 113, 7];
const ELSEWHERE: [u8; 4] = [198, 51, 100, 7];

/// What a request sends.
#[derive(Debug, Clone)]
struct Sent {
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    client: [u8; 4],
    /// The time since the previous request.
    pause: Duration,
}

/// Settings of the layer.
#[derive(Debug, Clone)]
struct Settings {
    style: HeaderStyle,
    exempt: bool,
    anonymous: bool,
    preflights: bool,
    keep: bool,
    foreign: bool,
    nested: bool,
    cost: bool,
    limited: bool,
}

/// What the service has seen: the caller, and the request's headers.
type Inside = (Option<String>, Vec<(String, String)>);

/// What can be observed of a request.
#[derive(Debug, PartialEq)]
struct Seen {
    status: StatusCode,
    /// Names and values, without generated request ids.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    inside: Option<Inside>,
}

/// The secrets of the keys, from the most to the least usual.
struct Keys {
    store: MemoryBackend,
    secrets: Vec<String>,
}

impl Keys {
    async fn new(clock: &Clock) -> Self {
        let store = MemoryBackend::with_clock(MemoryConfig::new(), clock.clone());
        let issuer = Issuer::new("acme_live").unwrap().clock(clock.clone());
        let here = AddressList::parse(["203.0.113.0/24"]).unwrap();
        let mut secrets = Vec::new();
        for (index, new) in [
            NewKey::new("plain"),
            NewKey::new("limited")
                .owner("a")
                .limit(RateLimit::per_hour(3)),
            NewKey::new("bound").addresses(here),
            NewKey::new("short").expires_in(Duration::from_secs(50)),
            NewKey::new("disabled"),
            NewKey::new("revoked"),
            NewKey::new("deleted"),
        ]
        .into_iter()
        .enumerate()
        {
            let issued = issuer.issue(&store, new, Actor::SYSTEM).await.unwrap();
            let id = issued.key.id;
            match index {
                4 => store.disable(id, Actor::SYSTEM).await.map(drop).unwrap(),
                5 => store.revoke(id, Actor::SYSTEM).await.map(drop).unwrap(),
                6 => store.delete(id, Actor::SYSTEM).await.unwrap(),
                _ => {}
            }
            secrets.push(issued.secret.expose().to_owned());
        }
        let valid = &secrets[0];
        let wrong = format!(
            "{}0{}",
            &valid[..valid.len() - 20],
            &valid[valid.len() - 19..]
        );
        let comma = format!(
            "{},{}",
            &valid[..valid.len() - 20],
            &valid[valid.len() - 19..]
        );
        secrets.extend([
            wrong,
            comma,
            valid.to_uppercase(),
            "nonsense".into(),
            String::new(),
        ]);
        Self { store, secrets }
    }
}

struct Side {
    secrets: Vec<String>,
    layer: ApiKeyLayer,
    recorder: Recorder,
    usage: MemoryBackend,
    nested: bool,
}

impl Side {
    fn new(keys: &Keys, clock: &Clock, settings: &Settings, takes_whole_way: bool) -> Self {
        let usage = MemoryBackend::with_clock(MemoryConfig::new(), clock.clone());
        let recorder = Recorder::new(usage.clone());
        let mut layer = ApiKeyLayer::new(keys.store.clone())
            .clock(clock.clone())
            .recorder(recorder.clone())
            .limiter(LocalLimiter::new())
            .header_style(settings.style);
        if takes_whole_way {
            let none = CredentialSource::function(|_| None);
            layer = layer.credential_sources(CredentialSource::DEFAULT.into_iter().chain([none]));
        }
        if settings.exempt {
            layer = layer.exempt("/public/*");
        }
        if settings.anonymous {
            layer = layer.allow_anonymous();
        }
        if settings.preflights {
            layer = layer.allow_preflights();
        }
        if settings.keep {
            layer = layer.keep_credential();
        }
        if settings.foreign {
            layer = layer.allow_foreign_authorization();
        }
        if settings.cost {
            layer = layer.cost(|parts| u32::from(parts.method() == Method::POST));
        }
        if settings.limited {
            layer = layer.default_limits([RateLimit::per_minute(5)]);
        }
        Self {
            secrets: keys.secrets.clone(),
            layer,
            recorder,
            usage,
            nested: settings.nested,
        }
    }

    fn request(&self, sent: &Sent) -> Request<String> {
        let mut request = Request::new("content".to_owned());
        *request.method_mut() = sent.method.clone();
        *request.uri_mut() = Uri::from_static(sent.path);
        for (name, value) in &sent.headers {
            let value = (0..self.secrets.len()).fold(value.clone(), |value, index| {
                value.replace(&format!("{{{index}}}"), &self.secrets[index])
            });
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
            .extensions_mut()
            .insert(PeerAddress(IpAddr::from(sent.client)));
        request
    }

    async fn send(&self, sent: &Sent) -> Seen {
        let request = self.request(sent);
        let service = self.layer.layer(tower::service_fn(inside));
        if self.nested {
            return seen(self.layer.layer(service), request).await;
        }
        seen(service, request).await
    }

    async fn events(&self) -> (Vec<UsageEvent>, RecorderStats) {
        self.recorder.flush().await;
        let recorded = self
            .usage
            .recorded(&RecordedQuery::default())
            .await
            .unwrap();
        assert!(!recorded.more);
        let events = recorded.items.into_iter().map(|recorded| {
            let mut event = recorded.event;
            event.id = uuid::Uuid::nil();
            event
        });
        let events = events.collect();
        let mut stats = self.recorder.stats();
        stats.last_written_at = None;
        (events, stats)
    }
}

/// The service returns what it has seen as headers.
async fn inside(request: Request<String>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.map(|caller| caller.name.clone());
    let headers = text_of(request.headers());
    let mut response = Response::new(Full::from("ok"));
    response.extensions_mut().insert((caller, headers));
    Ok(response)
}

fn text_of(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| {
            let mut value = value.to_str().unwrap().to_owned();
            if name == "x-request-id" && value.parse::<uuid::Uuid>().is_ok() {
                value = "generated".to_owned();
            }
            (name.to_string(), value)
        })
        .collect();
    headers.sort();
    headers
}

async fn seen<S, B>(mut service: S, request: Request<String>) -> Seen
where
    S: Service<Request<String>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>,
{
    let noop = &mut Context::from_waker(Waker::noop());
    assert!(matches!(service.poll_ready(noop), Poll::Ready(Ok(()))));
    let (parts, body) = service.call(request).await.unwrap().into_parts();
    Seen {
        status: parts.status,
        headers: text_of(&parts.headers),
        inside: parts.extensions.get::<Inside>().cloned(),
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    }
}

/// The number of secrets in [`Keys`].
const SECRETS: usize = 12;

/// A request, with `{3}` instead of the secret with this index.
fn sent() -> impl Strategy<Value = Sent> {
    // The first secrets are the most frequent, so that they are remembered.
    let secret = prop_oneof![3 => 0..2_usize, 1 => 0..SECRETS];
    let secret = secret.prop_map(|index| format!("{{{index}}}"));
    let authorization =
        (secret.clone(), secret.clone(), 0..16_u8).prop_map(|(one, other, form)| match form {
            0 => format!("bearer {one}"),
            1 => format!("Bearer  {one}"),
            2 => format!("Bearer {one}, Bearer {one}"),
            3 => format!("Bearer {one}, Bearer {other}"),
            4 => format!("Bearer {one},"),
            5 => format!("Basic {one}"),
            6 => format!("Bearer\t{one}"),
            7 => format!("BEARER {one} "),
            8 => "Bearer".to_owned(),
            9 => one,
            _ => format!("Bearer {one}"),
        });
    let authorizations = prop_oneof![
        8 => proptest::collection::vec(authorization.clone(), 1),
        1 => proptest::collection::vec(authorization, 0..3),
    ];
    let api_keys = prop_oneof![
        6 => Just(Vec::new()),
        1 => proptest::collection::vec(secret, 1..3),
    ];
    let more = prop_oneof![
        3 => Just(Vec::new()),
        1 => select(vec![
            vec![("x-request-id", "request-1")],
            vec![("x-request-id", "not valid"), ("x-request-id", "request-2")],
            vec![("content-length", "7"), ("accept", "*/*")],
            vec![("content-length", "-7"), ("content-length", "9")],
            vec![("access-control-request-method", "GET"), ("origin", "https://acme.example")],
            vec![("content-type", "application/grpc"), ("te", "trailers")],
        ]),
    ];
    let method = select(vec![
        Method::GET,
        Method::GET,
        Method::POST,
        Method::HEAD,
        Method::OPTIONS,
    ]);
    let path = select(vec![
        "/v1",
        "/v1",
        "/public/x",
        "/public/..;/v1",
        "/v1?api_key=x",
    ]);
    let client = select(vec![HERE, HERE, ELSEWHERE]);
    let pause = prop_oneof![9 => Just(0), 1 => 1..40_u64];
    (method, path, authorizations, api_keys, more, client, pause).prop_map(
        |(method, path, authorizations, api_keys, more, client, pause)| {
            let mut headers: Vec<_> = more
                .into_iter()
                .map(|(name, value)| (name, value.to_owned()))
                .collect();
            headers.extend(
                authorizations
                    .into_iter()
                    .map(|value| ("authorization", value)),
            );
            headers.extend(api_keys.into_iter().map(|value| ("x-api-key", value)));
            Sent {
                method,
                path,
                headers,
                client,
                pause: Duration::from_secs(pause),
            }
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    let style = select(vec![
        HeaderStyle::Draft,
        HeaderStyle::XRateLimit,
        HeaderStyle::None,
    ]);
    let rarely = || proptest::bool::weighted(0.2);
    let (exempt, anonymous, preflights) = (rarely(), rarely(), rarely());
    let (keep, foreign, nested) = (rarely(), rarely(), rarely());
    let (cost, limited) = (rarely(), rarely());
    (
        style, exempt, anonymous, preflights, keep, foreign, nested, cost, limited,
    )
        .prop_map(
            |(style, exempt, anonymous, preflights, keep, foreign, nested, cost, limited)| {
                Settings {
                    style,
                    exempt,
                    anonymous,
                    preflights,
                    keep,
                    foreign,
                    nested,
                    cost,
                    limited,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn plain_requests_are_decided_as_all_others(
        settings in settings(),
        requests in proptest::collection::vec(sent(), 1..40),
    ) {
        compare(&settings, &requests)?;
    }
}

fn compare(settings: &Settings, requests: &[Sent]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let keys = Keys::new(&clock).await;
        assert_eq!(keys.secrets.len(), SECRETS);
        let plain = Side::new(&keys, &clock, settings, false);
        let whole = Side::new(&keys, &clock, settings, true);
        for sent in requests {
            clock.advance(sent.pause);
            let seen = [plain.send(sent).await, whole.send(sent).await];
            prop_assert_eq!(&seen[0], &seen[1], "{:?}", sent);
        }
        let (plain, whole) = (plain.events().await, whole.events().await);
        prop_assert_eq!(plain.0, whole.0);
        prop_assert_eq!(plain.1, whole.1);
        Ok(())
    })
}
