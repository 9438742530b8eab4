//! Confirmations before and after changes, "Undo", and where changes return to.

use axum::body::Body;
use http::header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use http::{Request, StatusCode};
use jiff::SignedDuration;
use keytally::key::{Actor, Key, KeyAdmin, KeyStatus};

use crate::pages::{Answer, Pages, TOKEN, inputs};

impl Pages {
    /// Follows a redirect, with the cookies that it sets.
    async fn follow(&self, response: &Answer) -> Answer {
        assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text);
        let cookies = response.headers.get_all(SET_COOKIE).iter();
        let cookies = cookies.map(|it| it.to_str().unwrap().split(';').next().unwrap());
        let cookies: Vec<_> = cookies.collect();
        let request = Request::get(response.headers[LOCATION].to_str().unwrap())
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(COOKIE, cookies.join("; "));
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    async fn status(&self, key: &Key) -> KeyStatus {
        let key = self.backend.get(key.id).await.unwrap().unwrap();
        key.status(jiff::Timestamp::now())
    }
}

/// The confirmation on a page.
fn message(page: &Answer) -> &str {
    let (_, message) = page
        .text
        .split_once("<div class=\"flash\"")
        .expect("a message");
    message.split_once("</div>").unwrap().0
}

fn path(key: &Key, action: &str) -> String {
    format!("/admin/keys/{}/{action}", key.id)
}

#[tokio::test]
async fn every_change_is_confirmed() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let page = format!("/admin/keys/{}", key.id);
    for (action, fields, to, text, can_undo) in [
        ("disable", &[][..], &*page, "was disabled", true),
        ("enable", &[], &page, "was enabled", true),
        (
            "edit",
            &[("name", "Renamed")],
            &page,
            "changes saved",
            false,
        ),
        ("revoke", &[], &page, "was revoked", false),
        (
            "delete",
            &[("name", "Renamed")],
            "/admin/keys",
            "was deleted",
            false,
        ),
    ] {
        let response = pages.change(&path(&key, action), fields).await;
        assert_eq!(response.headers[LOCATION], to, "{action}");
        let shown = pages.follow(&response).await;
        let message = message(&shown);
        assert!(message.contains(text), "{message}");
        assert_eq!(message.contains("Undo"), can_undo, "{message}");
        assert!(message.contains("role=\"status\""));
    }
}

#[tokio::test]
async fn changes_return_to_pages_of_the_dashboard_only() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let page = format!("/admin/keys/{}", key.id);
    for (back, to) in [
        ("/", "/admin"),
        ("/?range=7d", "/admin?range=7d"),
        (
            "/keys?status=active&after=1.a",
            "/admin/keys?status=active&after=1.a",
        ),
        ("//evil.example/", &page),
        ("/\\evil.example", &page),
        ("https://evil.example", &page),
        ("/../other", &page),
        ("/keys\r\nSet-Cookie: a=b", &page),
        ("", &page),
    ] {
        let form = pages
            .get(&format!("{}?back=/keys", path(&key, "disable")))
            .await;
        assert_eq!(form.link("Cancel"), "/admin/keys");
        let response = pages.send(&path(&key, "disable"), &[("back", back)]).await;
        assert_eq!(response.headers[LOCATION], to, "{back}");
        let bulk = ("key", key.id.as_str());
        let token = pages.token(&path(&key, "disable")).await;
        let fields = [("token", &*token), ("back", back), bulk];
        let response = pages.post("/admin/keys/enable", &fields, &[]).await;
        let to = if to == page { "/admin/keys" } else { to };
        assert_eq!(response.headers[LOCATION], to, "{back}");
    }
    // The page of a deleted key is not found.
    let back = format!("/keys/{}?range=7d", key.id);
    let fields = [("name", "Watched"), ("back", &back)];
    let response = pages.send(&path(&key, "delete"), &fields).await;
    assert_eq!(response.headers[LOCATION], "/admin/keys");
}

#[tokio::test]
async fn forms_show_which_key_they_change() {
    let pages = Pages::new();
    let key = pages.key_with("Watched", |key| {
        key.owner = Some("customer-17".into());
        key.created_at = "2025-03-04T10:00:00Z".parse().unwrap();
    });
    let key = key.await;
    let ago = |hours| SignedDuration::from_hours(hours);
    pages.requests(&key, 1_234, ago(23), |_, _| ()).await;
    pages.requests(&key, 50, ago(25), |_, _| ()).await;
    for action in ["disable", "rotate", "revoke", "delete"] {
        let form = pages.get(&path(&key, action)).await.text;
        for fact in [
            format!("<dt>Key</dt><dd><code>{}</code>", key.hint),
            "<dt>Owner</dt><dd><bdi>customer-17</bdi>".into(),
            "<dt>Created</dt><dd><time class=\"minute\" datetime=\"2025-03-04T10:00:00Z\"".into(),
            "<dt>Last used</dt><dd><time".into(),
            "<dt>Requests in 24 hours</dt><dd>1,234</dd>".into(),
        ] {
            assert!(form.contains(&fact), "{action}: {fact} in {form}");
        }
    }
}
