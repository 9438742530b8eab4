//! Credentials: a valid key is admitted, invalid ones are rejected indistinguishably, and the inner service
//! never sees the secret.
//!
//! The input consists of lines: the layer, the method and the URI; then headers. `$1` to `$5` are replaced with
//! secrets, which mutation would not find.

use std::cell::LazyCell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, ImportedKey, Issuer, KeyAdmin, NewKey, Secret};
use keytally::usage::{Recorder, RejectionReason};
use keytally::{ApiKeyLayer, ApiKeyService, Caller, Clock, CredentialSource, Rejection};
use tokio::runtime::{Builder, Runtime};
use tower_layer::Layer;
use tower_service::Service;

use crate::now::now;

/// Two active keys, a revoked one, an unknown one, and a wrong secret for the first.
pub const SECRETS: [&str; 5] = [
    "acme_live_aaaaaaaaaaaaaaaa0123456789ABCDEFGHIJKLMNOPQRSTUV36T5XV",
    "acme_live_bbbbbbbbbbbbbbbb0123456789ABCDEFGHIJKLMNOPQRSTUV3EN6bk",
    "acme_live_cccccccccccccccc0123456789ABCDEFGHIJKLMNOPQRSTUV3Nq0ml",
    "acme_live_dddddddddddddddd0123456789ABCDEFGHIJKLMNOPQRSTUV2PMoLW",
    "acme_live_aaaaaaaaaaaaaaaaVUTSRQPONMLKJIHGFEDCBA98765432100DzAX4",
];
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_CUSTOM: HeaderName = HeaderName::from_static("x-custom");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PARAMETER: &str = "key";

pub fn check(input: &[u8]) {
    let text = with_secrets(input);
    let mut lines = text.split(|byte| *byte == b'\n');
    let Some([layer, method, address @ ..]) = lines.next() else {
        return;
    };
    let Ok(uri) = Uri::try_from(address) else {
        return;
    };
    let mut request = Request::new(String::new());
    *request.uri_mut() = uri;
    if *method == b'O' {
        *request.method_mut() = Method::OPTIONS;
    }
    for line in lines.take(16) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (halves.next(), halves.next());
        let name = HeaderName::from_bytes(name.unwrap_or_default());
        let value = HeaderValue::from_bytes(value.unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    LAYERS.with(|layers| layers.check(*layer, request));
}

pub(crate) fn with_secrets(input: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(input.len());
    let mut rest = input;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'$', [nth @ b'1'..=b'5', behind @ ..]) => {
                text.extend_from_slice(SECRETS[usize::from(nth - b'1')].as_bytes());
                rest = behind;
            }
            _ => text.push(byte),
        }
    }
    text
}

/// The request as seen by the inner service.
#[derive(Clone)]
struct Seen(Arc<(HeaderMap, Uri, Option<String>)>);

#[derive(Clone)]
struct Inner;

impl Service<Request<String>> for Inner {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (parts, _) = request.into_parts();
        let caller = parts.extensions.get::<Caller>();
        let name = caller.map(|caller| caller.name.clone());
        let mut response = Response::new(Empty::new());
        let seen = Seen(Arc::new((parts.headers, parts.uri, name)));
        response.extensions_mut().insert(seen);
        ready(Ok(response))
    }
}

/// A response to a rejected request, without its request id.
type Rejected = (HeaderMap, Bytes);

struct Layers {
    runtime: Runtime,
    recorder: Recorder,
    /// With the default credential sources and with all of them, each with and without anonymous access.
    services: [ApiKeyService<Inner>; 4],
    missing: Rejected,
    wrong: Rejected,
}

thread_local! {
    static LAYERS: LazyCell<Layers> = const { LazyCell::new(Layers::new) };
}

impl Layers {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let backend = MemoryBackend::with_clock(Default::default(), clock.clone());
        let issuer = Issuer::new("acme_live").unwrap().clock(clock.clone());
        for (nth, secret) in SECRETS[..3].iter().enumerate() {
            let new = NewKey::new(nth.to_string());
            let key = now(issuer.import(
                &backend,
                ImportedKey::from_secret(new, secret),
                Actor::SYSTEM,
            ))
            .unwrap();
            if nth == 2 {
                now(backend.revoke(key.id, Actor::SYSTEM)).unwrap();
            }
        }
        let recorder = Recorder::counting();
        let usual = ApiKeyLayer::new(backend)
            .clock(clock)
            .recorder(recorder.clone());
        let all = usual
            .clone()
            .credential_sources(CredentialSource::DEFAULT.into_iter().chain([
                CredentialSource::Header(X_CUSTOM),
                CredentialSource::insecure_query_parameter(PARAMETER),
            ]));
        let services = [
            usual.clone(),
            all.clone(),
            usual.allow_anonymous(),
            all.allow_anonymous(),
        ]
        .map(|layer| layer.layer(Inner));
        let rejected = |key: Option<&'static str>| {
            let mut request = Request::new(String::new());
            let values = key.into_iter().map(HeaderValue::from_static);
            request
                .headers_mut()
                .extend(values.map(|value| (X_API_KEY, value)));
            comparable(now(services[0].clone().call(request)).unwrap())
        };
        Self {
            missing: rejected(None),
            wrong: rejected(Some("no key")),
            runtime,
            recorder,
            services,
        }
    }

    fn check(&self, layer: u8, request: Request<String>) {
        let nth = usize::from(layer) % self.services.len();
        let (all, anonymous) = (nth % 2 == 1, nth >= 2);
        let (headers, uri) = (request.headers().clone(), request.uri().clone());
        let expected = match Presented::of(&headers, &uri, all).key() {
            Err(RejectionReason::Missing) if anonymous => Ok(None),
            Ok(key) => Ok(Some(key)),
            Err(reason) => Err(reason),
        };
        let rejected_before = self.rejected();
        let accepted_before = self.recorder.stats().accepted;
        let response = {
            let _inside = self.runtime.enter();
            now(self.services[nth].clone().call(request)).unwrap()
        };
        check_id(&headers, response.headers());
        let seen = response.extensions().get::<Seen>().cloned();
        let rejection = response.extensions().get::<Rejection>().cloned();
        match expected {
            Ok(key) => {
                assert_eq!((response.status().as_u16(), rejection), (200, None));
                let Seen(seen) = seen.expect("the request is admitted");
                let expected = if key.is_none() {
                    (headers, uri)
                } else {
                    without_keys(headers, uri, all)
                };
                assert_eq!(seen.0, expected.0);
                assert_eq!(seen.1.to_string(), expected.1.to_string());
                assert_eq!(seen.2, key.map(|nth| nth.to_string()));
                assert_eq!(self.rejected(), rejected_before);
            }
            Err(reason) => {
                assert!(seen.is_none(), "a rejected request reached the service");
                let rejection = rejection.expect("a rejection in the extensions");
                assert_eq!(rejection.reason, reason);
                // The key is known only if the whole secret is correct.
                let known = reason == RejectionReason::Revoked;
                assert_eq!(rejection.key.is_some(), known);
                // A rejection of a known key may be an event or a count; all others are counted.
                let counted = self.rejected() - rejected_before;
                let recorded = self.recorder.stats().accepted - accepted_before;
                assert_eq!((counted + recorded, known || recorded == 0), (1, true));
                // Invariant 2: the response does not reveal the reason.
                assert_eq!(response.status().as_u16(), 401);
                let expected = match reason {
                    RejectionReason::Missing => &self.missing,
                    _ => &self.wrong,
                };
                assert_eq!(&comparable(response), expected);
            }
        }
    }

    fn rejected(&self) -> u64 {
        let rejected = self.recorder.stats().rejected;
        rejected.iter().map(|(_, count)| count).sum()
    }
}

fn comparable<B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>>(
    response: Response<B>,
) -> Rejected {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(X_REQUEST_ID);
    (parts.headers, now(body.collect()).unwrap().to_bytes())
}

/// Checks the request id: the client's own if it is valid and contains no secret, otherwise a generated one.
fn check_id(request: &HeaderMap, response: &HeaderMap) {
    let id = response[X_REQUEST_ID].to_str().unwrap();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@~".contains(c);
    let sent = request
        .get(X_REQUEST_ID)
        .and_then(|sent| sent.to_str().ok());
    let fits = |sent: &&str| (1..=128).contains(&sent.len()) && sent.chars().all(allowed);
    match sent.filter(fits).filter(|sent| !has_secret(sent)) {
        Some(sent) => assert_eq!(id, sent),
        None => assert!(id.parse::<uuid::Uuid>().is_ok(), "{id}"),
    }
}

/// Whether any part of the text is a secret, or a word ends in `_` and as many digits as a secret has.
fn has_secret(text: &str) -> bool {
    let ends = 56..=text.len();
    let is_secret = |end: usize| {
        let starts = end.saturating_sub(87)..end - 55;
        starts
            .into_iter()
            .any(|start| Secret::parse(&text[start..end]).is_ok())
    };
    if ends.into_iter().any(is_secret) {
        return true;
    }
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.any(|word| {
        word.rsplit_once('_').is_some_and(|(prefix, digits)| {
            let prefix_ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            digits.len() == 54 && prefix.ends_with(prefix_ends)
        })
    })
}

/// Whether a value of `Authorization` has a secret anywhere other than after `Bearer`.
pub(crate) fn is_misplaced(value: &[u8]) -> bool {
    if bearer(value).is_some() {
        return false;
    }
    let mut words = value.split(|b| b" \t,;:\"'".contains(b));
    let is_encoded = |word: &[u8]| {
        let bare: Vec<u8> = word.iter().copied().filter(|b| *b != b'=').collect();
        let ends = word
            .iter()
            .position(|b| *b == b'=')
            .is_none_or(|first| word[first..].iter().all(|b| *b == b'='));
        let any = [STANDARD, URL_SAFE]
            .iter()
            .find_map(|engine| engine.decode(&bare).ok());
        // A word may mix both alphabets.
        let mixed = bare.iter().map(|b| match b {
            b'-' => b'+',
            b'_' => b'/',
            b => *b,
        });
        let any = any.or_else(|| STANDARD.decode(mixed.collect::<Vec<_>>()).ok());
        ends && any.is_some_and(|text| holds_secret(&text))
    };
    holds_secret(value) || words.any(is_encoded)
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::RequireNone)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Whether any part of the text is a secret, or a whole word looks like one with a wrong checksum.
fn holds_secret(text: &[u8]) -> bool {
    let is_secret = |end: usize| {
        let starts = end.saturating_sub(87)..end - 55;
        starts.into_iter().any(|start| {
            let part = std::str::from_utf8(&text[start..end]);
            part.is_ok_and(|part| Secret::parse(part).is_ok())
        })
    };
    let is_word = |word: &[u8]| {
        let word = String::from_utf8_lossy(word);
        word.rsplit_once('_').is_some_and(|(prefix, body)| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            (1..=32).contains(&prefix.len())
                && prefix.chars().all(plain)
                && (44..=62).contains(&body.len())
                && body.chars().all(|c| c.is_ascii_alphanumeric())
        })
    };
    (56..=text.len()).any(is_secret) || text.split(|b| b" \t,;:=\"'".contains(b)).any(is_word)
}

/// All credentials that a request presents, including duplicates, and whether a secret is misplaced.
struct Presented(Vec<Vec<u8>>, bool);

/// The credential in a header: `None` if it is empty, and a single one for repeated equal values.
pub(crate) fn of_header(value: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<_> = value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
        .collect();
    parts.dedup();
    let text = match parts[..] {
        [] => b"",
        [one] => one,
        _ => value.trim_ascii(),
    };
    (!text.is_empty()).then(|| text.to_vec())
}

/// The token after `Bearer` and spaces. A value joined with itself counts once.
fn bearer(value: &[u8]) -> Option<Vec<u8>> {
    let value = of_header(value)?;
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = value.split_at(space);
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then(|| token.to_vec())
}

fn named_values(query: &str) -> impl Iterator<Item = &str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, _)| *name == PARAMETER)
        .map(|(_, value)| value)
}

impl Presented {
    fn of(headers: &HeaderMap, uri: &Uri, all: bool) -> Self {
        let mut found = Vec::new();
        for (name, value) in headers {
            if name == AUTHORIZATION {
                found.extend(bearer(value.as_bytes()));
            } else if name == X_API_KEY || (all && name == X_CUSTOM) {
                found.extend(of_header(value.as_bytes()));
            }
        }
        if all {
            let values = named_values(uri.query().unwrap_or_default());
            let values = values.filter(|value| !value.is_empty());
            found.extend(values.map(|value| value.as_bytes().to_vec()));
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let misplaced = values.any(|value| is_misplaced(value.as_bytes()));
        Self(found, misplaced)
    }

    /// The index of the key, or the expected rejection reason.
    fn key(mut self) -> Result<usize, RejectionReason> {
        if self.1 {
            return Err(RejectionReason::Malformed);
        }
        for found in &mut self.0 {
            if !found.is_ascii() {
                // All invalid credentials count as equal.
                *found = vec![0xff];
            }
        }
        self.0.sort();
        self.0.dedup();
        let secret = match &self.0[..] {
            [] => return Err(RejectionReason::Missing),
            [secret] => secret,
            _ => return Err(RejectionReason::Ambiguous),
        };
        let secret = std::str::from_utf8(secret).map_err(|_| RejectionReason::Malformed)?;
        match SECRETS.iter().position(|known| *known == secret) {
            Some(nth @ (0 | 1)) => Ok(nth),
            Some(2) => Err(RejectionReason::Revoked),
            _ => match Secret::parse(secret) {
                Ok(secret) => Err(reason_for(&secret)),
                Err(_) => Err(RejectionReason::Malformed),
            },
        }
    }
}

/// The rejection reason of a well-formed secret that is not one of [`SECRETS`].
fn reason_for(secret: &Secret) -> RejectionReason {
    let ids = SECRETS[..3].iter().map(|known| &known[10..26]);
    if ids.into_iter().any(|id| id == secret.id().as_str()) {
        RejectionReason::WrongSecret
    } else {
        RejectionReason::Unknown
    }
}

/// The headers and URI without credentials.
fn without_keys(headers: HeaderMap, uri: Uri, all: bool) -> (HeaderMap, Uri) {
    let mut remaining = HeaderMap::new();
    for (name, value) in &headers {
        let taken = if name == AUTHORIZATION {
            bearer(value.as_bytes()).is_some()
        } else {
            // All values of a header are removed if one of them presents a credential.
            let mut values = headers.get_all(name).iter();
            (name == X_API_KEY || (all && name == X_CUSTOM))
                && values.any(|value| of_header(value.as_bytes()).is_some())
        };
        if !taken {
            remaining.append(name, value.clone());
        }
    }
    let query = uri.query().unwrap_or_default();
    if !all || named_values(query).all(str::is_empty) {
        return (remaining, uri);
    }
    let ours = |pair: &&str| {
        pair.split_once('=')
            .is_none_or(|(name, _)| name != PARAMETER)
    };
    let rest: Vec<&str> = query.split('&').filter(ours).collect();
    let mut address = uri.path().to_owned();
    if !rest.is_empty() {
        address = format!("{address}?{}", rest.join("&"));
    }
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(address).unwrap());
    (remaining, Uri::from_parts(parts).unwrap())
}
