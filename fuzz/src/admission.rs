//! Admission: a request reaches the service if and only if it has an active key or a setting admits it, in every
//! combination of these settings.
//!
//! The input consists of lines: the settings, whether there is a body, the method and the URI; then headers.
//! `$1` to `$5` are replaced with secrets, which mutation would not find.

use std::cell::LazyCell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Empty;
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, ImportedKey, Issuer, KeyAdmin, KeyRecord, KeyStore, NewKey, Secret, StoreError,
};
use keytally::{
    ApiKeyLayer, ApiKeyService, Caller, Clock, KeyId, Rejection, StoreFailure, async_trait,
};
use tokio::runtime::{Builder, Runtime};
use tower_layer::Layer;
use tower_service::Service;

use crate::credentials::{SECRETS, is_misplaced, of_header, with_secrets};
use crate::now::now;

const EXEMPT: u8 = 1;
const ANONYMOUS: u8 = 2;
const PREFLIGHT: u8 = 4;
/// Uses a store that fails.
const FAILS: u8 = 8;
/// Admits requests while the store fails.
const PASSES: u8 = 16;
const SETTINGS: u8 = 32;

pub fn check(input: &[u8]) {
    let text = with_secrets(input);
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut words = lines.next().unwrap_or_default().splitn(3, |b| *b == b' ');
    let (Some([settings, body]), Some(method), Some(address)) =
        (words.next(), words.next(), words.next())
    else {
        return;
    };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(address)) else {
        return;
    };
    let mut request = Request::new(String::new());
    if body % 2 == 1 {
        request.body_mut().push('x');
    }
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for line in lines.take(16) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(halves.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(halves.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    LAYERS.with(|layers| layers.check(settings % SETTINGS, request));
}

/// Reports that it was reached, and with which key.
#[derive(Clone)]
struct Inner;

#[derive(Clone)]
struct Reached(Option<KeyId>);

impl Service<Request<String>> for Inner {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        let mut response = Response::new(Empty::new());
        let reached = Reached(caller.map(|caller| caller.id));
        response.extensions_mut().insert(reached);
        ready(Ok(response))
    }
}

struct Failing;

#[async_trait]
impl KeyStore for Failing {
    async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("down"))
    }
}

struct Layers {
    runtime: Runtime,
    services: Vec<ApiKeyService<Inner>>,
}

thread_local! {
    static LAYERS: LazyCell<Layers> = const { LazyCell::new(Layers::new) };
}

impl Layers {
    fn new() -> Self {
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let backend = MemoryBackend::with_clock(Default::default(), clock.clone());
        let issuer = Issuer::new("acme_live").unwrap().clock(clock.clone());
        for (nth, secret) in SECRETS[..3].iter().enumerate() {
            let key = now(issuer.import(
                &backend,
                ImportedKey::from_secret(NewKey::new("x"), secret),
                Actor::SYSTEM,
            ))
            .unwrap();
            if nth == 2 {
                now(backend.revoke(key.id, Actor::SYSTEM)).unwrap();
            }
        }
        let service = |settings: u8| {
            let is = |setting| settings & setting != 0;
            let mut layer = if is(FAILS) {
                ApiKeyLayer::new(Failing)
            } else {
                ApiKeyLayer::new(backend.clone())
            }
            .clock(clock.clone());
            if is(EXEMPT) {
                layer = layer.exempt("/health").exempt("/public/*");
            }
            if is(ANONYMOUS) {
                layer = layer.allow_anonymous();
            }
            if is(PREFLIGHT) {
                layer = layer.allow_preflights();
            }
            if is(PASSES) {
                layer = layer.on_store_failure(StoreFailure::Admit);
            }
            layer.layer(Inner)
        };
        Self {
            runtime: Builder::new_current_thread().enable_time().build().unwrap(),
            services: (0..SETTINGS).map(service).collect(),
        }
    }

    fn check(&self, settings: u8, request: Request<String>) {
        let expected = expected(settings, &request);
        let context = format!("{settings} {request:?}");
        let response = {
            let _inside = self.runtime.enter();
            now(self.services[usize::from(settings)].clone().call(request)).unwrap()
        };
        let reached = response.extensions().get::<Reached>();
        let reached = reached.map(|Reached(key)| *key);
        assert_eq!(reached, expected, "{context}");
        let rejected = response.extensions().get::<Rejection>().is_some();
        assert_eq!(rejected, expected.is_none(), "{context}");
    }
}

/// The expected result: `None` if the request is rejected, otherwise the id of its key, if any.
fn expected(settings: u8, request: &Request<String>) -> Option<Option<KeyId>> {
    let is = |setting| settings & setting != 0;
    if is(EXEMPT) && is_exempt(request.uri().path()) {
        return Some(None);
    }
    let mut values = request.headers().get_all("authorization").iter();
    if values.any(|value| is_misplaced(value.as_bytes())) {
        return None;
    }
    let mut presented = presented(request.headers());
    presented.dedup();
    let secret = match &presented[..] {
        [] => {
            let passes = is(ANONYMOUS) || is(PREFLIGHT) && is_preflight(request);
            return passes.then_some(None);
        }
        [secret] => Secret::parse(std::str::from_utf8(secret).ok()?).ok()?,
        _ => return None,
    };
    if is(FAILS) {
        return is(PASSES).then_some(None);
    }
    let works = SECRETS[..2].contains(&secret.expose());
    works.then_some(Some(secret.id()))
}

/// Everything that a request presents as a credential.
fn presented(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let keys = headers.get_all("x-api-key").iter();
    let keys = keys.filter_map(|value| of_header(value.as_bytes()));
    let bearers = headers.get_all("authorization").iter().filter_map(|value| {
        let value = of_header(value.as_bytes())?;
        let (scheme, rest) = value.split_at_checked(7)?;
        let token = rest.trim_ascii();
        (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then(|| token.to_vec())
    });
    let mut all: Vec<_> = keys.chain(bearers).collect();
    all.sort();
    all
}

/// Whether the path is `/health`, or lies below `/public/` in every interpretation.
fn is_exempt(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/public/") else {
        return path == "/health";
    };
    let Some(plain) = plain(rest) else {
        return false;
    };
    let segments: Vec<_> = plain.split('/').collect();
    let (last, others) = segments.split_last().unwrap();
    let names = |segment: &str| {
        // Some servers decode it as a space.
        let segment = segment.replace('+', " ");
        let goes_up = segment.trim_start().starts_with("..");
        segment.chars().any(|c| c != '.' && c != ' ') && !goes_up
    };
    others.iter().all(|segment| names(segment)) && (last.is_empty() || names(last))
}

/// The decoded path, or `None` if it contains ambiguous characters or encodings.
fn plain(rest: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut parts = rest.split('%');
    bytes.extend(parts.next()?.bytes());
    for part in parts {
        let code = part.get(..2)?;
        if !code.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let byte = u8::from_str_radix(code, 16).ok()?;
        if matches!(byte, b'.' | b'/') {
            return None;
        }
        bytes.push(byte);
        bytes.extend(part[2..].bytes());
    }
    let text = String::from_utf8(bytes).ok()?;
    let unambiguous =
        |c: char| c.is_alphabetic() || c.is_ascii_digit() || "-_.~!$&'()*+,=@ /".contains(c);
    text.chars().all(unambiguous).then_some(text)
}

/// Whether the request is exactly what the Fetch standard specifies for a preflight request.
fn is_preflight(request: &Request<String>) -> bool {
    let values = |name: &str| {
        let values = request.headers().get_all(name).iter();
        values.map(HeaderValue::as_bytes).collect::<Vec<_>>()
    };
    let one = |name| matches!(values(name)[..], [value] if !value.is_empty());
    let none = |name| values(name).is_empty();
    request.method().as_str() == "OPTIONS"
        && request.uri().path().starts_with('/')
        && request.body().is_empty()
        && one("origin")
        && one("access-control-request-method")
        && none("authorization")
        && none("cookie")
        && none("content-type")
        && none("expect")
        && none("proxy-authorization")
        && none("trailer")
        && none("transfer-encoding")
        && none("te")
        && none("upgrade")
}
