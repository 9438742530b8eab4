//! Live updates: polls of pages.

use axum::body::Body;
use http::header::{AUTHORIZATION, COOKIE, ETAG, IF_NONE_MATCH, SET_COOKIE};
use http::{Request, StatusCode};
use jiff::SignedDuration;
use keytally::backend::MemoryBackend;
use keytally::usage::Recorder;

use crate::counted::Counted;
use crate::pages::{Answer, Pages, TOKEN};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

async fn poll<B>(pages: &Pages<B>, path: &str, tag: &str) -> Answer {
    let request = Request::get(path)
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header("keytally-poll", "1")
        .header(IF_NONE_MATCH, tag);
    pages.ask(request.body(Body::empty()).unwrap()).await
}

fn tag(answer: &Answer) -> String {
    answer.headers[ETAG].to_str().unwrap().to_owned()
}

/// The validator of an unchanged page. It changes every minute, so that one attempt may fail.
async fn unchanged<B>(pages: &Pages<B>, path: &str) -> String {
    for _ in 0..5 {
        let page = pages.get(path).await;
        assert_eq!(page.status, StatusCode::OK);
        let tag = tag(&page);
        // The script starts with the validator of the page that it is on.
        let attribute = format!("data-tag=\"{}\"", tag.replace('"', "&quot;"));
        assert!(page.text.contains(&attribute), "{tag}: {}", page.text);
        let answer = poll(pages, path, &tag).await;
        if answer.status == StatusCode::NOT_MODIFIED {
            assert_eq!((self::tag(&answer), &*answer.text), (tag.clone(), ""));
            return tag;
        }
    }
    panic!("{path} changes with every poll");
}

#[tokio::test]
async fn polls_get_304_until_usage_is_recorded() {
    let pages = Pages::new();
    let owned = pages.key_with("Watched", |key| key.owner = Some("customer-1".into()));
    let key = owned.await;
    for path in [
        "/admin".to_owned(),
        "/admin?range=15m".into(),
        "/admin/log".into(),
        format!("/admin/keys/{}", key.id),
        "/admin/owners".into(),
        "/admin/owners/customer-1".into(),
    ] {
        let tag = unchanged(&pages, &path).await;
        pages.requests(&key, 1, MINUTE, |_, _| ()).await;
        let changed = poll(&pages, &path, &tag).await;
        assert_eq!(changed.status, StatusCode::OK, "{path}");
        assert_ne!(self::tag(&changed), tag);
        assert!(changed.text.contains("data-live="), "{}", changed.text);
        assert!(changed.text.contains("<!DOCTYPE html>"));
    }
}

#[tokio::test]
async fn unchanged_pages_take_one_call_of_the_store() {
    let plain = Pages::new();
    let id = plain.key("Watched").await.id;
    let counted = Counted::of(plain.backend);
    let pages = Pages::over(counted.clone());
    for (path, calls) in [
        ("/admin".to_owned(), 1),
        ("/admin/log".into(), 1),
        // And one to find the key.
        (format!("/admin/keys/{id}"), 2),
        ("/admin/owners".into(), 1),
        ("/admin/owners/customer-1".into(), 1),
    ] {
        let tag = unchanged(&pages, &path).await;
        counted.take();
        let answer = poll(&pages, &path, &tag).await;
        if answer.status == StatusCode::NOT_MODIFIED {
            assert_eq!(counted.take(), calls, "{path}");
        }
    }
}

#[tokio::test]
async fn the_counters_of_the_recorder_change_the_overview() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let pages = Pages::with(backend.clone(), |it| it.recorder(recorder.clone()));
    let tag = unchanged(&pages, "/admin").await;
    let layer = keytally::ApiKeyLayer::new(backend).recorder(recorder);
    let service = axum::Router::new().layer(layer);
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(poll(&pages, "/admin", &tag).await.status, StatusCode::OK);
}

#[tokio::test]
async fn polls_pass_the_guard() {
    let pages = Pages::new();
    let tag = unchanged(&pages, "/admin").await;
    let request = Request::get("/admin").header(IF_NONE_MATCH, tag);
    let answer = pages.ask(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(!answer.headers.contains_key(ETAG));
}

#[tokio::test]
async fn pages_of_the_past_are_not_updated_by_default() {
    let pages = Pages::new();
    let key = format!("/admin/keys/{}", pages.key("Watched").await.id);
    let past = "range=custom&from=2026-11-01T10:00&to=2026-11-01T11:00";
    let future = "range=custom&from=2026-11-01T10:00&to=2999-11-01T11:00";
    for (path, is_on) in [
        ("/admin".to_owned(), true),
        ("/admin?range=30d".into(), true),
        (format!("/admin?{future}"), true),
        (format!("/admin?{past}"), false),
        ("/admin/log".into(), true),
        ("/admin/log?outcome=failed".into(), true),
        ("/admin/log?until=2026-11-01T11:00".into(), false),
        (key.clone(), true),
        (format!("{key}?{past}"), false),
        (format!("{key}?until=2026-11-01T11:00"), false),
        ("/admin/owners".into(), true),
        (format!("/admin/owners?{past}"), false),
        ("/admin/owners/customer-1".into(), true),
        (format!("/admin/owners/customer-1?{past}"), false),
    ] {
        let page = pages.get(&path).await.text;
        let switch = format!("role=\"switch\" aria-checked=\"{is_on}\"");
        assert!(page.contains(&switch), "{path}");
        // Without the script, it does nothing.
        let (_, switch) = page.split_once("role=\"switch\"").unwrap();
        assert!(switch.split('>').next().unwrap().ends_with(" hidden"));
    }
}

#[tokio::test]
async fn older_pages_of_the_log_are_not_updated_by_default() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    pages.requests(&key, 60, MINUTE, |_, _| ()).await;
    let older = pages.get("/admin/log").await.link("Older");
    let page = pages.get(&older).await.text;
    assert!(page.contains("role=\"switch\" aria-checked=\"false\""));
}

#[tokio::test]
async fn polls_do_not_take_confirmations_from_the_page_after_a_change() {
    let pages = Pages::new();
    let key = format!("/admin/keys/{}", pages.key("Watched").await.id);
    let changed = pages.send(&format!("{key}/disable"), &[]).await;
    let cookie = changed.headers[SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let get = async |is_poll: bool| {
        let mut request = Request::get(&key)
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(COOKIE, cookie);
        if is_poll {
            request = request.header("keytally-poll", "1");
        }
        let page = pages.ask(request.body(Body::empty()).unwrap()).await;
        let is_cleared = page.headers.contains_key(SET_COOKIE);
        (page.text.contains("class=\"flash\""), is_cleared)
    };
    assert_eq!(get(true).await, (false, false));
    assert_eq!(get(false).await, (true, true));
}
