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
async fn disabling_returns_to_the_filtered_list_and_can_be_undone() {
    let pages = Pages::new();
    let key = pages.key_with("A \"b\" <c>", |key| key.owner = Some("acme & co".into()));
    let key = key.await;
    let list = "/admin/keys?owner=acme+%26+co&sort=name";
    let page = pages.get(list).await;
    let disable = format!("{}?back=", path(&key, "disable"));
    let (_, back) = page.text.split_once(&disable).expect("a link");
    let link = format!("{disable}{}", back.split('"').next().unwrap());

    let response = pages.change(&link, &[]).await;
    assert_eq!(response.headers[LOCATION], list);
    let cookie = response.headers[SET_COOKIE].to_str().unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/admin", "Max-Age=60"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let page = pages.follow(&response).await;
    let text = "<strong><bdi>A &quot;b&quot; &lt;c&gt;</bdi></strong> was disabled.";
    assert!(message(&page).contains(text), "{}", message(&page));
    assert!(
        page.headers[SET_COOKIE]
            .to_str()
            .unwrap()
            .contains("Max-Age=0")
    );
    // Once only.
    assert!(!pages.get(list).await.text.contains("was disabled"));

    let undo = inputs(message(&page));
    let fields: Vec<_> = undo
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(pages.status(&key).await, KeyStatus::Disabled);
    let undone = pages.post("/admin/keys/enable", &fields, &[]).await;
    assert_eq!(undone.headers[LOCATION], list);
    assert_eq!(pages.status(&key).await, KeyStatus::Active);
    let page = pages.follow(&undone).await;
    assert!(message(&page).contains("was enabled") && message(&page).contains("Undo"));
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
            "<dt>Last accepted</dt><dd><span><time".into(),
            "<dt>Requests in 24 hours</dt><dd>1,234</dd>".into(),
        ] {
            assert!(form.contains(&fact), "{action}: {fact} in {form}");
        }
    }
}

#[tokio::test]
async fn several_keys_are_disabled_and_enabled_again() {
    let pages = Pages::new();
    let mut keys = Vec::new();
    for n in 0..4 {
        keys.push(pages.key(&format!("Key {n}")).await);
    }
    pages
        .requests(&keys[0], 7, SignedDuration::from_mins(5), |_, _| ())
        .await;
    pages
        .backend
        .disable(keys[2].id, Actor::SYSTEM)
        .await
        .unwrap();
    let list = pages.get("/admin/keys?sort=name").await;
    // Only active keys can be selected.
    assert_eq!(list.count("type=\"checkbox\""), 3);
    let chosen: Vec<_> = keys[..3]
        .iter()
        .map(|key| format!("key={}", key.id))
        .collect();
    let chosen = format!("{}&key=nonsense&back=/keys?sort%3Dname", chosen.join("&"));
    let form = pages.get(&format!("/admin/keys/disable?{chosen}")).await;
    assert!(form.text.contains("Disable 2 API keys?"), "{}", form.text);
    assert!(form.text.contains("Key 0") && !form.text.contains("Key 2"));
    assert!(
        form.text
            .contains("<td data-label=\"Requests in 24 hours\">7</td>")
    );

    let (_, form) = form.text.split_once("<form class=\"panel\"").unwrap();
    let fields = inputs(&format!("<form {form}"));
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    // Another key is deleted in the meantime.
    pages
        .backend
        .delete(keys[1].id, Actor::SYSTEM)
        .await
        .unwrap();
    let response = pages.post("/admin/keys/disable", &fields, &[]).await;
    assert_eq!(response.headers[LOCATION], "/admin/keys?sort=name");
    assert_eq!(pages.status(&keys[0]).await, KeyStatus::Disabled);
    assert_eq!(pages.status(&keys[3]).await, KeyStatus::Active);
    // Undo enables the keys that were disabled by the change, and no others.
    let page = pages.follow(&response).await;
    assert!(message(&page).contains("Key 0"), "{}", message(&page));
    let undo = inputs(message(&page));
    let fields: Vec<_> = undo
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    pages.post("/admin/keys/enable", &fields, &[]).await;
    assert_eq!(pages.status(&keys[0]).await, KeyStatus::Active);
    assert_eq!(pages.status(&keys[2]).await, KeyStatus::Disabled);

    for nothing in ["", "?key=nonsense", &format!("?key={}", keys[2].id)] {
        let form = pages.get(&format!("/admin/keys/disable{nothing}")).await;
        assert_eq!(form.status, StatusCode::UNPROCESSABLE_ENTITY, "{nothing}");
    }
    // Without the form token.
    let key = [("key", keys[0].id.as_str())];
    for path in ["/admin/keys/disable", "/admin/keys/enable"] {
        let rejected = pages.post(path, &key, &[]).await;
        assert_eq!(rejected.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(pages.status(&keys[0]).await, KeyStatus::Active);
}

#[tokio::test]
async fn the_audit_log_shows_fields_before_and_after() {
    let pages = Pages::new();
    let key = pages.key_with("Old", |key| key.owner = Some("acme".into()));
    let key = key.await;
    let fields = [
        ("name", "New"),
        ("owner", ""),
        ("limit-1", "100"),
        ("expires-in", "date"),
        ("expires", "2999-01-01T10:00"),
    ];
    let response = pages.change(&path(&key, "edit"), &fields).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text);
    let audit = pages.get("/admin/audit").await.text;
    let rows: Vec<_> = audit.split("<tr>").skip(2).collect();
    let text = |row: &str| {
        let (_, changes) = row.split_once("data-label=\"Changes\">").unwrap();
        let parts = changes
            .split('<')
            .map(|part| part.split_once('>').map_or("", |it| it.1));
        parts.collect::<String>()
    };
    let changes = text(rows[0]);
    for change in [
        "Name: Old → New",
        "Owner: acme → None",
        "Rate limits: None → 100 per minute",
        "Expires: Never → 2999-01-01 10:00",
    ] {
        assert!(changes.contains(change), "{changes}");
    }
    for unchanged in ["Scopes", "Status", "Metadata"] {
        assert!(!changes.contains(unchanged), "{changes}");
    }
    assert_eq!(text(rows[1]), "Owner: acme");
}
