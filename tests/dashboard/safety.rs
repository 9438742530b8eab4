//! Authentication, cross-site requests, escaping, and mounting.

use axum::body::Body;
use http::header::{COOKIE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::{Method, Request, StatusCode};
use jiff::SignedDuration;
use keytally::dashboard::{Admin, AllowEveryone, BearerToken, Dashboard, Denied, Guard};
use keytally::key::{Actor, Issuer, KeyAdmin, KeyStore, NewKey};
use keytally::usage::UsageEvent;
use tower::{Layer, ServiceExt};

use crate::pages::{Pages, TOKEN, encoded};

#[tokio::test]
async fn every_route_requires_authentication() {
    let pages = Pages::new();
    let id = pages.key("Watched").await.id;
    let paths = [
        "/admin",
        "/admin/",
        "/admin/log",
        "/admin/keys",
        "/admin/keys/new",
        "/admin/keys/disable",
        "/admin/keys/enable",
        "/admin/keys/ID",
        "/admin/keys/ID/edit",
        "/admin/keys/ID/revoke",
        "/admin/keys/ID/disable",
        "/admin/keys/ID/enable",
        "/admin/keys/ID/rotate",
        "/admin/keys/ID/delete",
        "/admin/log/csv",
        "/admin/log/jsonl",
        "/admin/owners",
        "/admin/owners/acme",
        "/admin/owners/acme/csv",
        "/admin/owners/acme/log/csv",
        "/admin/billing/csv",
        "/admin/audit",
        "/admin/sign-out",
        "/admin/nowhere",
        "/admin/sign-in/",
        "/admin//keys",
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
                vec![("cookie", "keytally_session=416461.9999999999.0.00")],
            ] {
                let mut request = Request::builder().method(method.clone()).uri(&path);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let response = pages.ask(request.body(Body::empty()).unwrap()).await;
                assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{method} {path}");
                assert!(response.headers.contains_key(WWW_AUTHENTICATE), "{path}");
                assert!(!response.text.contains("Watched"), "{method} {path}");
            }
        }
    }
    assert!(pages.backend.find(id).await.unwrap().is_some());
    // Browsers are redirected to the sign-in page.
    let request = Request::get("/admin/keys").header("accept", "text/html,*/*");
    let response = pages.ask(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    assert_eq!(response.headers[LOCATION], "/admin/sign-in?next=%2Fkeys");
}

#[tokio::test]
async fn a_session_lasts_from_sign_in_to_sign_out() {
    let pages = Pages::new();
    let sign_in = |secret: &str| {
        let body = encoded(&[("secret", secret)]);
        Request::post("/admin/sign-in")
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
    let response = pages.ask(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status, StatusCode::OK);
    assert!(response.text.contains("Ada"));

    let ask = async |request: http::request::Builder, body: String| {
        let request = request.header(COOKIE, value);
        let form = request.header("content-type", "application/x-www-form-urlencoded");
        pages.ask(form.body(Body::from(body)).unwrap()).await
    };
    let form = ask(Request::get("/admin/sign-out"), String::new())
        .await
        .text;
    let (_, token) = form.split_once("name=\"token\" value=\"").unwrap();
    let token = encoded(&[("token", token.split('"').next().unwrap())]);
    let out = ask(Request::post("/admin/sign-out"), token).await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    let cookie = out.headers[SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("Max-Age=0") && cookie.contains("Path=/admin"));
    // The old cookie is rejected.
    let late = ask(Request::get("/admin/keys"), String::new()).await;
    assert_eq!(late.status, StatusCode::UNAUTHORIZED);
    // Signing in again starts a new session.
    let again = pages.ask(sign_in(TOKEN)).await;
    let again = again.headers[SET_COOKIE].to_str().unwrap();
    let request = Request::get("/admin/keys").header(COOKIE, again.split(';').next().unwrap());
    let response = pages.ask(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status, StatusCode::OK);
}

#[tokio::test]
async fn cross_site_requests_and_expired_forms_change_nothing() {
    let pages = Pages::new();
    let key = pages.key("Unchanged").await;
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
        let response = pages.post(&path, fields, headers).await;
        assert_eq!(
            response.status,
            StatusCode::FORBIDDEN,
            "{fields:?} {headers:?}"
        );
    }
    let stored = pages.backend.get(key.id).await.unwrap().unwrap();
    assert!(!stored.disabled);
    let same = [("host", "keys.example"), ("origin", "https://keys.example")];
    assert_eq!(
        pages.post(&path, &good, &same).await.status,
        StatusCode::SEE_OTHER
    );
}

#[tokio::test]
async fn text_direction_overrides_are_isolated() {
    // Right-to-left override, and an isolate that is never closed.
    const TURNED: &str = "\u{202e}gnp.exe\u{2067}";
    let pages = Pages::new();
    let owned = |key: &mut keytally::key::Key| key.owner = Some(TURNED.into());
    let key = pages.key_with(TURNED, owned).await;
    let minute = SignedDuration::from_mins(1);
    let set = |_, event: &mut UsageEvent| {
        event.endpoint = TURNED.into();
        event.path = TURNED.into();
        event.resource_id = Some(TURNED.into());
        event.request_id = Some(TURNED.into());
    };
    pages.requests(&key, 1, minute, set).await;
    let id = key.id;
    for path in [
        "",
        "/keys",
        "/log",
        "/audit",
        "/keys/ID",
        "/keys/ID/delete",
        "/keys/ID/edit",
    ] {
        let path = format!("/admin{}", path.replace("ID", id.as_str()));
        let page = pages.get(&path).await.text;
        let parts: Vec<_> = page.split(TURNED).collect();
        assert!(parts.len() > 1, "{path}");
        for (before, after) in parts.iter().zip(&parts[1..]) {
            let within = before.ends_with("<bdi>") && after.starts_with("</bdi>");
            // In an attribute or an SVG title there is no other text to affect.
            let tag = before.rsplit('<').next().unwrap();
            let alone = !tag.contains('>') || tag.starts_with("title>") || tag.starts_with("desc ");
            assert!(within || alone, "{path}: {tag}");
        }
    }
}

#[tokio::test]
async fn long_text_is_truncated_on_pages_but_not_in_exports() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let long = "=cmd() ".repeat(1_500);
    let set = |_, event: &mut UsageEvent| {
        event.path = long.as_str().into();
        event.resource_id = Some(long.as_str().into());
    };
    let minute = SignedDuration::from_mins(1);
    pages.requests(&key, 50, minute, set).await;
    let page = pages.get("/admin/log").await;
    // Most of it are the links of cells, which compress well.
    assert!(page.text.len() < 125_000, "{}", page.text.len());
    // Exports have the full text, and no cell that spreadsheets evaluate as a formula.
    let csv = pages.get(&page.link("Export CSV")).await.text;
    assert!(csv.len() > 50 * 2 * long.len());
    assert_eq!(csv.matches(",\"'=cmd()").count(), 100);
    assert!(!csv.contains(",=") && !csv.contains("\"="));
}

#[tokio::test]
async fn the_router_can_be_nested_or_served_at_the_root() {
    let backend = keytally::backend::MemoryBackend::new();
    let dashboard = || Dashboard::new(backend.clone(), AllowEveryone).into_router();
    let nested = axum::Router::new().nest("/a/b", dashboard());
    let served = axum::Router::new().nest_service("/a/b", dashboard());
    for (router, base, paths) in [
        (nested, "/a/b", &["/a/b", "/a/b/keys"][..]),
        (served, "/a/b", &["/a/b", "/a/b/", "/a/b/keys"]),
        (dashboard(), "", &["/", "/keys"]),
    ] {
        let pages = Pages {
            backend: (),
            router,
        };
        for path in paths {
            let request = Request::get(*path).body(Body::empty()).unwrap();
            let page = pages.ask(request).await;
            assert_eq!(page.status, StatusCode::OK, "{path}");
            assert_eq!(page.link("Audit log"), format!("{base}/audit"));
            let home = if base.is_empty() { "/" } else { base };
            assert_eq!(page.link("keytally"), home);
        }
    }
}

#[tokio::test]
async fn the_router_can_be_nested_at_a_path_with_captures() {
    let backend = keytally::backend::MemoryBackend::new();
    let issuer = Issuer::new("acme_live").unwrap();
    let key = issuer
        .issue(&backend, NewKey::new("Watched"), Actor::SYSTEM)
        .await;
    let id = key.unwrap().key.id;
    let dashboard = Dashboard::new(backend, AllowEveryone);
    let pages = Pages {
        backend: (),
        router: axum::Router::new().nest_service("/{tenant}/admin", dashboard.into_router()),
    };
    for path in [
        &format!("keys/{id}"),
        &format!("api/keys/{id}"),
        "log/csv",
        "api/log/export/csv",
    ] {
        let request = Request::get(format!("/acme/admin/{path}"));
        let page = pages.ask(request.body(Body::empty()).unwrap()).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
    }
}

#[tokio::test]
async fn links_use_the_public_path() {
    let dashboard = Dashboard::new(keytally::backend::MemoryBackend::new(), AllowEveryone);
    let dashboard = dashboard.public_path("/internal/keys/");
    let pages = Pages {
        backend: (),
        router: axum::Router::new().nest_service("/keys", dashboard.into_router()),
    };
    let request = Request::get("/keys/audit").body(Body::empty()).unwrap();
    let page = pages.ask(request).await;
    assert_eq!(page.link("Request log"), "/internal/keys/log");
    assert_eq!(page.link("keytally"), "/internal/keys");
    let request = Request::get("/keys/api/openapi.json");
    let document = pages.ask(request.body(Body::empty()).unwrap()).await;
    assert!(document.text.contains(r#"{"url":"/internal/keys/api"}"#));
    let session = Request::get("/keys/sign-in").body(Body::empty()).unwrap();
    assert!(!pages.ask(session).await.text.contains("\"/keys/"));
}

/// With a guard of the application's own, only its sign-out URL can end a session.
#[tokio::test]
async fn sign_out_is_only_offered_if_the_guard_supports_it() {
    struct Own(Option<&'static str>);

    #[keytally::async_trait]
    impl Guard for Own {
        async fn authenticate(&self, parts: &http::request::Parts) -> Result<Admin, Denied> {
            let user = parts
                .headers
                .get("x-user")
                .and_then(|user| user.to_str().ok());
            user.map(Admin::new).ok_or(Denied::Unauthenticated)
        }

        fn sign_in_url(&self) -> Option<&str> {
            self.0.map(|_| "/app/login")
        }

        fn sign_out_url(&self) -> Option<&str> {
            self.0
        }
    }

    for own in [None, Some("/app/sign-out")] {
        let dashboard = Dashboard::new(keytally::backend::MemoryBackend::new(), Own(own));
        let router = dashboard.into_router();
        let ask = async |method, path, user: Option<&str>| {
            let request = Request::builder().method(method).uri(path);
            let request = request
                .header("accept", "text/html")
                .header("sec-fetch-site", "same-origin");
            let request = match user {
                Some(user) => request.header("x-user", user),
                None => request,
            };
            let request = request.body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let to = response.headers().get(LOCATION).cloned();
            let status = response.status();
            let body = axum::body::to_bytes(response.into_body(), 1 << 20)
                .await
                .unwrap();
            (status, to, String::from_utf8(body.into()).unwrap())
        };
        let (status, _, page) = ask(Method::GET, "/", Some("Ada")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(page.contains("Sign out"), own.is_some());
        assert_eq!(page.contains("href=\"/app/sign-out\""), own.is_some());
        assert!(page.contains("Ada"));
        for method in [Method::GET, Method::POST] {
            let (status, to, _) = ask(method, "/sign-out", Some("Ada")).await;
            assert!(status.is_client_error() && to.is_none(), "{status}");
        }
        let (status, to, _) = ask(Method::GET, "/keys", None).await;
        match own {
            None => assert_eq!((status, to), (StatusCode::UNAUTHORIZED, None)),
            Some(_) => assert_eq!(
                (status, to.unwrap()),
                (StatusCode::SEE_OTHER, "/app/login".parse().unwrap())
            ),
        }
    }
}

/// After `nest` strips a prefix, the remaining path may look like an open route.
#[tokio::test]
async fn authentication_depends_on_the_route_and_not_on_the_path() {
    let guard = BearerToken::new(TOKEN).unwrap();
    let dashboard = Dashboard::new(keytally::backend::MemoryBackend::new(), guard);
    let router = axum::Router::new().nest("/admin", dashboard.into_router());
    for (path, with_token, without) in [
        ("/admin/sign-in", 200, 200),
        ("/admin//sign-in", 404, 401),
        ("/admin/sign-in/", 404, 401),
        ("/admin//assets/style.css", 404, 401),
    ] {
        for (token, status) in [(Some(TOKEN), with_token), (None, without)] {
            let mut request = Request::get(path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path} {token:?}");
        }
    }
}

/// A layer in front rewrites paths that the client controls.
#[tokio::test]
async fn no_redirect_leads_to_another_host() {
    let token = TOKEN;
    let guard = BearerToken::new(token).unwrap();
    let dashboard = Dashboard::new(keytally::backend::MemoryBackend::new(), guard);
    let rewrite = |mut request: axum::extract::Request| {
        let query = request.uri().query().unwrap_or("/").to_owned();
        *request.uri_mut() = query.parse().unwrap();
        request
    };
    let service = tower::util::MapRequestLayer::new(rewrite).layer(dashboard.into_router());
    let router = axum::Router::new().fallback_service(service);
    let body = format!("secret={}", token.replace(' ', "+"));
    let mut redirects = 0;
    for base in [
        "//evil.example/",
        "//evil.example//",
        "/%2F/evil.example/",
        "/a;Domain=b/",
        "/",
    ] {
        for path in ["/", "/keys", "/sign-in"] {
            let address = format!("{base}?{path}");
            let get = Request::get(&address).header("accept", "text/html");
            let post = Request::post(&address)
                .header("sec-fetch-site", "same-origin")
                .header("content-type", "application/x-www-form-urlencoded");
            for request in [get.body(Body::empty()), post.body(body.clone().into())] {
                let response = router.clone().oneshot(request.unwrap()).await.unwrap();
                for name in ["location", "set-cookie"] {
                    if let Some(value) = response.headers().get(name) {
                        let value = value.to_str().unwrap();
                        assert!(
                            !value.contains("evil") && !value.contains("Domain"),
                            "{address} {value}"
                        );
                        assert!(!value.starts_with("//"), "{address} {value}");
                    }
                }
                redirects += u32::from(response.status() == StatusCode::SEE_OTHER);
            }
        }
    }
    assert_eq!(
        redirects,
        5 * 3,
        "two pages redirect to the sign-in page, and signing in redirects to the overview"
    );
}

#[tokio::test]
async fn invalid_queries_and_paths_are_no_server_errors() {
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
        let response = pages.get(&format!("/admin/keys/{}?{query}", key.id)).await;
        assert_eq!(response.status, StatusCode::OK, "{query}");
    }
    for path in [
        "/keys?status=odd",
        "/keys?show=odd",
        "/keys?after=nonsense",
        "/audit?key=x",
        "/audit?action=odd",
        "/audit?after=nonsense",
    ] {
        let response = pages.get(&format!("/admin{path}")).await;
        assert_eq!(response.status, StatusCode::OK, "{path}");
        assert!(response.text.contains("role=\"alert\""), "{path}");
        assert!(!response.text.contains("<tbody>"), "{path}");
    }
    for id in ["x", "%00", "0000000000000000", "..%2f..%2fetc"] {
        let response = pages.get(&format!("/admin/keys/{id}")).await;
        assert_eq!(response.status, StatusCode::NOT_FOUND, "{id}");
    }
}
