//! Who gets in, what others cannot change, and what is only a text.

use axum::body::Body;
use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{Method, Request, StatusCode};
use keytally::key::{Issuer, KeyAdmin, KeyStore, NewKey};
use keytally::usage::{Batch, UsageEvent, UsageSink};

use crate::pages::{Pages, TOKEN, encoded};

#[tokio::test]
async fn nobody_gets_anything_without_the_guard() {
    let pages = Pages::new();
    let id = pages.key("Watched").await.id;
    let paths = [
        "/admin",
        "/admin/",
        "/admin/log",
        "/admin/keys",
        "/admin/keys/new",
        "/admin/keys/ID",
        "/admin/keys/ID/edit",
        "/admin/keys/ID/revoke",
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
        "/admin".into(),
        "/admin/log".into(),
        format!("/admin/log?{query}"),
        format!("/admin/keys/{}/edit", key.id),
        format!("/admin/keys/{}/disable", key.id),
        format!("/admin/keys/{}/revoke", key.id),
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
