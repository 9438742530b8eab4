//! A dashboard and an HTTP client for its pages.

use axum::Router;
use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use keytally::backend::MemoryBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Actor, Issuer, Key, KeyAdmin, NewKey};
use keytally::usage::{Batch, UsageEvent, UsageReader, UsageSink};
use tower::ServiceExt;

pub(crate) const TOKEN: &str = "a token of sixteen or more";

/// A dashboard nested at `/admin`, and its backend.
pub(crate) struct Pages<B = MemoryBackend> {
    pub(crate) backend: B,
    pub(crate) router: Router,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Pages {
    pub(crate) fn new() -> Self {
        Self::over(MemoryBackend::new())
    }

    /// Creates a key with default fields.
    pub(crate) async fn key(&self, name: &str) -> Key {
        self.key_with(name, |_| ()).await
    }

    /// Creates a key with the fields that `set` changes.
    pub(crate) async fn key_with(&self, name: &str, set: impl FnOnce(&mut Key)) -> Key {
        let prepared = issuer().prepare(NewKey::new(name));
        let (_, mut record) = prepared.unwrap();
        set(&mut record.key);
        let key = record.key.clone();
        self.backend.create(record, Actor::SYSTEM).await.unwrap();
        key
    }

    /// Records requests with a key, each with the fields that `set` changes.
    pub(crate) async fn requests(
        &self,
        key: &Key,
        many: u64,
        ago: SignedDuration,
        set: impl Fn(u64, &mut UsageEvent),
    ) {
        let event = |n| {
            let mut event = UsageEvent::new(Timestamp::now() - ago);
            event.key = Some(key.id);
            event.owner = key.owner.clone();
            event.endpoint = "/v1/postings".into();
            set(n, &mut event);
            event
        };
        let events = (0..many).map(event).collect();
        self.backend.write(&Batch::new(events)).await.unwrap();
    }
}

fn issuer() -> Issuer {
    Issuer::new("acme_live").unwrap()
}

impl<B: KeyAdmin + UsageReader + Clone> Pages<B> {
    pub(crate) fn over(backend: B) -> Self {
        Self::with(backend, |dashboard| dashboard.issuer(issuer()))
    }

    pub(crate) fn with(backend: B, set: impl FnOnce(Dashboard) -> Dashboard) -> Self {
        let guard = BearerToken::new(TOKEN).unwrap().with_admin_name("Ada");
        let dashboard = set(Dashboard::new(backend.clone(), guard));
        let router = Router::new().nest_service("/admin", dashboard.into_router());
        Self { backend, router }
    }
}

impl<B> Pages<B> {
    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        let response: Response<_> = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.into()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    /// Submits the form of a page with its form token.
    pub(crate) async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.token(path).await;
        let token = [("token", &*token)];
        let fields: Vec<_> = fields.iter().copied().chain(token).collect();
        self.post(path, &fields, &[]).await
    }

    /// Submits the form of a page as rendered, with these fields changed.
    pub(crate) async fn change(&self, path: &str, changed: &[(&str, &str)]) -> Answer {
        let rendered = inputs(&self.get(path).await.text);
        let fields = rendered.iter().map(|(name, value)| {
            let other = changed.iter().find(|(changed, _)| changed == name);
            (&**name, other.map_or(&**value, |(_, other)| other))
        });
        self.post(path, &fields.collect::<Vec<_>>(), &[]).await
    }

    /// The form token of a page.
    pub(crate) async fn token(&self, path: &str) -> String {
        let form = self.get(path).await.text;
        let (_, token) = form.split_once("name=\"token\" value=\"").expect("a form");
        token.split('"').next().unwrap().into()
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::post(path)
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Body::from(encoded(fields))).unwrap())
            .await
    }
}

pub(crate) fn encoded(fields: &[(&str, &str)]) -> String {
    let escaped = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect();
    pairs.join("&")
}

/// Names and values of the inputs and selects in a page's `post` forms.
pub(crate) fn inputs(page: &str) -> Vec<(String, String)> {
    let (_, form) = page.split_once("method=\"post\"").expect("a form");
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
        let value = rest.split('"').next()?;
        let unescaped = value.replace("&lt;", "<").replace("&gt;", ">");
        Some(unescaped.replace("&quot;", "\"").replace("&amp;", "&"))
    };
    let mut inputs = Vec::new();
    for tag in form.split('<') {
        let tag = tag.split('>').next().unwrap_or_default();
        match tag.split(' ').next() {
            Some("input") => {
                inputs.extend(attribute(tag, "name").zip(attribute(tag, "value")));
            }
            // The first option, until one is selected.
            Some("select") => inputs.extend(attribute(tag, "name").zip(Some(String::new()))),
            Some("option") if tag.ends_with(" selected") => {
                let select = inputs.last_mut().expect("a select");
                select.1 = attribute(tag, "value").expect("a value");
            }
            _ => {}
        }
    }
    inputs
}

impl Answer {
    /// The URL of the link with this text.
    #[track_caller]
    pub(crate) fn link(&self, text: &str) -> String {
        let end = format!(">{text}</a>");
        let (before, _) = self.text.split_once(&end).expect("a link");
        let (_, href) = before.rsplit_once("href=\"").expect("an address");
        let href = href.split('"').next().unwrap().replace("&amp;", "&");
        // Browsers do not send the fragment.
        href.split('#').next().unwrap().into()
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.text.matches(text).count()
    }
}

/// The markup without the addresses of links.
pub(crate) fn without_links(markup: &str) -> String {
    let mut parts = markup.split(" href=\"");
    let first = parts.next().unwrap().to_owned();
    let rest = parts.map(|part| part.split_once('"').unwrap().1);
    std::iter::once(&*first).chain(rest).collect()
}
