//! The pages, over a backend in memory: who gets in, what is changed, and what is escaped.

use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use keytally::backend::MemoryBackend;
use keytally::dashboard::{AllowEveryone, BearerToken, Dashboard};
use keytally::key::{Issuer, Key, KeyAdmin, KeyQuery, KeyStatus, KeyStore, NewKey};
use keytally::usage::{Batch, Recorder, UsageEvent, UsageSink};
use tower::ServiceExt;

const TOKEN: &str = "a token of sixteen or more";

struct Pages {
    backend: MemoryBackend,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

impl Pages {
    fn new() -> Self {
        let backend = MemoryBackend::new();
        let guard = BearerToken::new(TOKEN).unwrap().known_as("Ada");
        let dashboard = Dashboard::new(backend.clone(), guard).unwrap();
        let dashboard = dashboard.issuer(Issuer::new("acme_live").unwrap());
        let router = Router::new().nest("/admin", dashboard.into_router());
        Self { backend, router }
    }

    async fn key(&self, name: &str) -> Key {
        let issuer = Issuer::new("acme_live").unwrap();
        issuer
            .issue(&self.backend, NewKey::named(name))
            .await
            .unwrap()
            .key
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response: Response<_> = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.into()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    /// Sends the form of a page, with the token that stands in it.
    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.token(path).await;
        let token = [("token", &*token)];
        let fields: Vec<_> = fields.iter().copied().chain(token).collect();
        self.post(path, &fields, &[]).await
    }

    /// The token in a page's form.
    async fn token(&self, path: &str) -> String {
        let form = self.get(path).await.text;
        let (_, token) = form.split_once("name=\"token\" value=\"").expect("a form");
        token.split('"').next().unwrap().into()
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
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

fn encoded(fields: &[(&str, &str)]) -> String {
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

#[tokio::test]
async fn nobody_gets_anything_without_the_guard() {
    let pages = Pages::new();
    let id = pages.key("Watched").await.id;
    let paths = [
        "/admin",
        "/admin/keys",
        "/admin/keys/new",
        "/admin/keys/ID",
        "/admin/keys/ID/disable",
        "/admin/keys/ID/enable",
        "/admin/keys/ID/rotate",
        "/admin/keys/ID/delete",
        "/admin/log/csv",
        "/admin/log/jsonl",
        "/admin/audit",
        "/admin/logout",
        "/admin/nowhere",
        "/admin/login/",
        "/admin//login",
        "/admin/assets/other.css",
    ];
    for path in paths {
        let path = path.replace("ID", id.as_str());
        for method in [
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
        ] {
            for headers in [
                vec![],
                vec![("authorization", "Bearer a token of sixteen or mor")],
                vec![("cookie", "keytally_session=416461.9999999999.00")],
            ] {
                let mut request = Request::builder().method(method.clone()).uri(&path);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let answer = pages.ask(request.body(Body::empty()).unwrap()).await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
                assert!(!answer.text.contains("Watched"), "{method} {path}");
            }
        }
    }
    assert!(pages.backend.find(id).await.unwrap().is_some());
    // A person is asked to sign in.
    let request = Request::get("/admin/keys").header("accept", "text/html,*/*");
    let answer = pages.ask(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.headers[LOCATION], "/admin/login");
}

#[tokio::test]
async fn a_person_signs_in_and_out() {
    let pages = Pages::new();
    let sign_in = |secret: &str| {
        let body = encoded(&[("secret", secret)]);
        Request::post("/admin/login")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(body))
            .unwrap()
    };
    let wrong = pages.ask(sign_in("another")).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers.contains_key(SET_COOKIE));
    let right = pages.ask(sign_in(TOKEN)).await;
    assert_eq!(right.status, StatusCode::SEE_OTHER);
    let cookie = right.headers[SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/admin"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let value = cookie.split(';').next().unwrap();
    let request = Request::get("/admin/keys").header(COOKIE, value);
    let answer = pages.ask(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text.contains("Ada"));
}

#[tokio::test]
async fn a_key_is_generated_rotated_switched_and_deleted() {
    let pages = Pages::new();
    let fields = [
        ("name", "Zapier Integration"),
        ("owner", "customer-17"),
        ("scopes", "read, orders:write"),
        ("limits", "600/min 20/s"),
        ("addresses", "203.0.113.0/24"),
        ("expires", "2999-01-01T10:00"),
    ];
    let answer = pages.send("/admin/keys/new", &fields).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let all = pages.backend.list(&KeyQuery::new()).await.unwrap().items;
    let key = &all[0];
    assert!(answer.text.contains(&format!("acme_live_{}", key.id)));
    assert_eq!(
        (&*key.name, key.owner.as_deref()),
        ("Zapier Integration", Some("customer-17"))
    );
    assert_eq!(key.scopes, ["read", "orders:write"]);
    assert_eq!((key.limits.len(), key.addresses.len()), (2, 1));
    assert_eq!(key.expires.unwrap().to_string(), "2999-01-01T10:00:00Z");
    let list = pages.get("/admin/keys").await.text;
    assert!(
        list.contains("Zapier Integration") && !list.contains(&format!("acme_live_{}", key.id))
    );

    let at = |action: &str| format!("/admin/keys/{}/{action}", key.id);
    let status = async || {
        let key = pages.backend.get(key.id).await.unwrap().unwrap();
        key.status(jiff::Timestamp::now())
    };
    assert_eq!(
        pages.send(&at("disable"), &[]).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(status().await, KeyStatus::Disabled);
    assert_eq!(
        pages.send(&at("enable"), &[]).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(status().await, KeyStatus::Active);

    let wrong = pages
        .send(&at("rotate"), &[("grace", "custom"), ("hours", "soon")])
        .await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(status().await, KeyStatus::Active);
    let rotated = pages.send(&at("rotate"), &[("grace", "now")]).await;
    assert_eq!(rotated.status, StatusCode::OK);
    assert_eq!(status().await, KeyStatus::Expired);
    assert_eq!(
        pages
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .len(),
        2
    );

    let wrong = pages.send(&at("delete"), &[("name", "Zapier")]).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(pages.backend.find(key.id).await.unwrap().is_some());
    let gone = pages
        .send(&at("delete"), &[("name", "Zapier Integration")])
        .await;
    assert_eq!(gone.status, StatusCode::SEE_OTHER);
    assert!(pages.backend.find(key.id).await.unwrap().is_none());
    assert_eq!(pages.get(&at("delete")).await.status, StatusCode::NOT_FOUND);

    let audit = pages.get("/admin/audit").await.text;
    for action in ["created", "disabled", "enabled", "rotated", "deleted"] {
        assert!(
            audit.contains(&format!("<td>Ada</td><td>{action}</td>")),
            "{action}"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_in_a_form_is_told_and_nothing_is_made() {
    let pages = Pages::new();
    let long = "x".repeat(10_000);
    for fields in [
        vec![],
        vec![("name", "  ")],
        vec![("name", &*long)],
        vec![("name", "a"), ("limits", "many")],
        vec![("name", "a"), ("limits", "0/s")],
        vec![("name", "a"), ("addresses", "somewhere")],
        vec![("name", "a"), ("expires", "later")],
        vec![("name", "a"), ("expires", "99999-01-01T00:00")],
        vec![("name", "a"), ("owner", &*long)],
        vec![("name", "a\0b")],
    ] {
        let answer = pages.send("/admin/keys/new", &fields).await;
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{fields:?}"
        );
        assert!(answer.text.contains("role=\"alert\""), "{fields:?}");
    }
    assert!(
        pages
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn other_sites_and_old_forms_change_nothing() {
    let pages = Pages::new();
    let key = pages.key("Kept").await;
    let path = format!("/admin/keys/{}/disable", key.id);
    let token = pages.token(&path).await;
    let good = [("token", &*token)];
    for (fields, headers) in [
        (&good[..], &[("sec-fetch-site", "cross-site")][..]),
        (&good, &[("sec-fetch-site", "same-site")]),
        (
            &good,
            &[("host", "keys.example"), ("origin", "https://evil.example")],
        ),
        (&good, &[("origin", "null")]),
        (&[], &[]),
        (&[("token", "")], &[]),
        (&[("token", "00")], &[]),
    ] {
        let answer = pages.post(&path, fields, headers).await;
        assert_eq!(
            answer.status,
            StatusCode::FORBIDDEN,
            "{fields:?} {headers:?}"
        );
    }
    let kept = pages.backend.get(key.id).await.unwrap().unwrap();
    assert!(!kept.disabled);
    let same = [("host", "keys.example"), ("origin", "https://keys.example")];
    assert_eq!(
        pages.post(&path, &good, &same).await.status,
        StatusCode::SEE_OTHER
    );
}

#[tokio::test]
async fn texts_of_others_are_only_texts() {
    const HOSTILE: &str = "<script>alert('1')</script>\"onload=x' \u{202e}=cmd()";

    let pages = Pages::new();
    let issuer = Issuer::new("acme_live").unwrap();
    let new = NewKey::named(HOSTILE).owner(HOSTILE);
    let key = issuer.issue(&pages.backend, new).await.unwrap().key;
    let mut event = UsageEvent::at(jiff::Timestamp::now());
    event.key = Some(key.id);
    event.endpoint = HOSTILE.into();
    event.path = HOSTILE.into();
    event.resource_id = Some(HOSTILE.into());
    event.request_id = Some(HOSTILE.into());
    pages.backend.write(&Batch::new(vec![event])).await.unwrap();
    let query = encoded(&[("endpoint", HOSTILE), ("name", HOSTILE), ("actor", HOSTILE)]);
    for path in [
        "/admin/keys".into(),
        format!("/admin/keys?{query}"),
        format!("/admin/keys/{}", key.id),
        format!("/admin/keys/{}?{query}", key.id),
        format!("/admin/keys/{}/delete", key.id),
        format!("/admin/keys/{}/rotate", key.id),
        "/admin/audit".into(),
        format!("/admin/audit?{query}"),
    ] {
        let answer = pages.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.text.contains("alert("), "{path}");
        // The only script is the crate's own file, and nothing got out of an attribute.
        assert_eq!(answer.text.matches("<script").count(), 1, "{path}");
        assert!(!answer.text.contains("\"onload"), "{path}");
        assert!(!answer.text.contains("<b>"), "{path}");
        assert!(!answer.text.contains(" style="), "{path}");
    }
    let csv = pages.get("/admin/log/csv").await;
    assert_eq!(csv.status, StatusCode::OK);
}

#[tokio::test]
async fn what_the_recorder_has_written_is_told() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let dashboard = Dashboard::new(backend, AllowEveryone).unwrap();
    let router = dashboard.recorder(recorder).into_router();
    let request = Request::get("/keys").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.into()).unwrap();
    assert!(
        page.contains("0 written") && page.contains("0 lost"),
        "{page}"
    );
    // Without an issuer, nothing offers what cannot be done.
    assert!(!page.contains("Generate"));
}

#[tokio::test]
async fn nonsense_in_an_address_is_answered() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    for query in [
        "range=never",
        "range=custom&from=x&to=y",
        "range=custom&from=2026-01-02T00:00&to=2026-01-01T00:00",
        "range=custom&from=-9999-01-01T00:00&to=9999-12-31T23:59",
        "code=999999&method=&outcome=odd",
        "after=nonsense",
        "%ff=%00&&&=",
        "method=STEAL",
    ] {
        let answer = pages.get(&format!("/admin/keys/{}?{query}", key.id)).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}");
    }
    for id in ["x", "%00", "0000000000000000", "..%2f..%2fetc"] {
        let answer = pages.get(&format!("/admin/keys/{id}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
    }
}
