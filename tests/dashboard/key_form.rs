//! The form of a key: options, rate limits, expiration times, focus, and the command shown with a secret.

use axum::body::Body;
use http::header::{AUTHORIZATION, COOKIE};
use http::{Request, StatusCode};
use jiff::Timestamp;
use keytally::backend::MemoryBackend;
use keytally::key::{Key, KeyAdmin, KeyQuery};
use keytally::limit::RateLimit;

use crate::pages::{Answer, Pages, TOKEN, encoded};

impl Pages {
    /// Generates a key with these fields.
    async fn generated(&self, fields: &[(&str, &str)]) -> Key {
        let fields = [&[("name", "Watched")], fields].concat();
        let response = self.send("/admin/keys/new", &fields).await;
        assert_eq!(
            response.status,
            StatusCode::OK,
            "{fields:?} {}",
            response.text
        );
        let newest = KeyQuery::new().limit(1);
        self.backend.list(&newest).await.unwrap().items.remove(0)
    }
}

/// The id of the element with the focus.
fn focused(page: &Answer) -> &str {
    let mut tags = page
        .text
        .split('<')
        .filter(|tag| tag.contains(" autofocus"));
    let tag = tags.next().expect("a focus");
    assert_eq!(tags.next(), None);
    let (_, id) = tag.split_once("id=\"").unwrap();
    id.split('"').next().unwrap()
}

#[tokio::test]
async fn only_the_name_is_required_and_the_rest_is_folded() {
    let pages = Pages::new();
    let form = pages.get("/admin/keys/new").await;
    assert_eq!(form.count(" required"), 2, "the name, and “Find a key”");
    assert!(form.text.contains("<details class=\"options\"><summary>"));
    let (before, _) = form.text.split_once("<details class=\"options\">").unwrap();
    assert!(before.contains("id=\"name\"") && !before.contains("id=\"owner\""));
    let key = pages.generated(&[]).await;
    assert_eq!(
        (key.owner, key.limits, key.expires_at),
        (None, vec![], None)
    );
    // What was entered is not hidden.
    let again = pages.send("/admin/keys/new", &[("owner", "acme")]).await;
    assert!(again.text.contains("<details class=\"options\" open>"));
}

#[tokio::test]
async fn the_first_field_with_an_error_has_the_focus() {
    let pages = Pages::new();
    let path = "/admin/keys/new";
    assert_eq!(focused(&pages.get(path).await), "name");
    for (fields, first) in [
        (&[("limit-1", "plenty"), ("addresses", "here")][..], "name"),
        (
            &[
                ("name", "a"),
                ("addresses", "here"),
                ("limit-2", "plenty"),
                ("limit-1", "5/s"),
            ],
            "limit-2",
        ),
        (
            &[("name", "a"), ("expires", "soon"), ("addresses", "here")],
            "addresses",
        ),
        (&[("name", "a"), ("expires", "soon")], "expires"),
        (&[("name", "a"), ("expires", "2020-01-01T00:00")], "expires"),
        (&[("name", "a"), ("scopes", "\"")], "scopes"),
        (&[("name", "a"), ("limits", "1/s 2/s")], "limit-1"),
    ] {
        let page = pages.send(path, fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(focused(&page), first, "{fields:?}");
        let is_folded = page.text.contains("<details class=\"options\"><summary>");
        assert!(!is_folded, "{fields:?}");
    }
    let key = pages.key("Watched").await;
    for (action, fields, first) in [
        ("delete", &[("name", "other")][..], "name"),
        ("rotate", &[("grace", "custom"), ("hours", "few")], "hours"),
    ] {
        let page = pages
            .send(&format!("/admin/keys/{}/{action}", key.id), fields)
            .await;
        assert_eq!(focused(&page), first, "{action}");
    }
    assert_eq!(
        focused(&pages.get("/admin/audit?key=x&actor=y").await),
        "key"
    );
}

#[tokio::test]
async fn a_rate_limit_is_a_number_and_a_unit_or_text() {
    let pages = Pages::new();
    let minute = RateLimit::per_minute;
    for (fields, limits) in [
        (
            &[("limit-1", "100"), ("limit-period-1", "min")][..],
            vec![minute(100)],
        ),
        (
            &[("limit-1", "1,000"), ("limit-period-1", "h")],
            vec![RateLimit::per_hour(1_000)],
        ),
        (
            &[("limit-1", "100 per minute"), ("limit-period-1", "s")],
            vec![minute(100)],
        ),
        (
            &[("limit-1", "100/min"), ("limit-period-1", "d")],
            vec![minute(100)],
        ),
        (
            &[
                ("limit-1", "100"),
                ("limit-period-1", "min"),
                ("limit-burst-1", "20"),
                ("limit-name-1", "api"),
                ("limit-2", "5"),
                ("limit-period-2", "s"),
            ],
            vec![
                minute(100).with_burst(20).with_name("api"),
                RateLimit::per_second(5),
            ],
        ),
        (
            &[
                ("limit-1", ""),
                ("limit-period-1", "min"),
                ("limit-burst-1", "5"),
            ],
            vec![],
        ),
    ] {
        assert_eq!(pages.generated(fields).await.limits, limits, "{fields:?}");
    }
    // The form to edit shows any limit as a number and a period.
    let odd = RateLimit::per(7, std::time::Duration::from_secs(90)).with_burst(2);
    let key = pages.key_with("Odd", |key| key.limits = vec![minute(5), odd]);
    let form = pages
        .get(&format!("/admin/keys/{}/edit", key.await.id))
        .await;
    for part in [
        "name=\"limit-1\" value=\"5\"",
        "name=\"limit-2\" value=\"7\"",
        "<option value=\"90s\" selected>per 90s</option>",
        "name=\"limit-burst-2\" value=\"2\"",
        "name=\"limit-3\" value=\"\"",
    ] {
        assert!(form.text.contains(part), "{part}: {}", form.text);
    }
}

#[tokio::test]
async fn keys_expire_after_a_preset_time_or_on_a_date() {
    let pages = Pages::new();
    let days = |key: &Key| {
        let left = key.expires_at.unwrap().duration_since(key.created_at);
        left.as_hours() as f64 / 24.0
    };
    for (preset, expected) in [("7d", 7.0), ("30d", 30.0), ("90d", 90.0), ("1y", 365.5)] {
        let key = pages.generated(&[("expires-in", preset)]).await;
        assert!((days(&key) - expected).abs() < 1.0, "{preset}: {key:?}");
    }
    let date = ("expires", "2999-01-01T10:00");
    let key = pages.generated(&[("expires-in", "date"), date]).await;
    let end = "2999-01-01T10:00:00Z".parse::<Timestamp>().unwrap();
    assert_eq!(key.expires_at, Some(end));
    // Without styles, a date can be entered without choosing it.
    let fields = [("name", "a"), ("expires-in", ""), date];
    let again = pages.send("/admin/keys/new", &fields).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(again.text.contains("choose “On a date”"), "{}", again.text);

    let edit = format!("/admin/keys/{}/edit", key.id);
    let end = async || pages.backend.get(key.id).await.unwrap().unwrap().expires_at;
    assert!(
        pages
            .get(&edit)
            .await
            .text
            .contains("<option value=\"date\" selected>")
    );
    pages.change(&edit, &[("owner", "acme")]).await;
    assert!(end().await.is_some());
    // Browsers leave out zero seconds.
    let updated = "/admin/audit?action=updated";
    let audited = pages.get(updated).await.count("<td data-label=\"Time\">");
    pages.change(&edit, &[date]).await;
    assert_eq!(
        pages.get(updated).await.count("<td data-label=\"Time\">"),
        audited
    );
    pages.change(&edit, &[("expires-in", "")]).await;
    assert_eq!(end().await, None);
}

#[tokio::test]
async fn expiration_times_are_in_the_time_zone_of_the_reader() {
    let pages = Pages::new();
    let path = "/admin/keys/new";
    let ask = async |request: http::request::Builder, body: String| {
        let request = request
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(COOKIE, "keytally_zone=Europe%2FBerlin")
            .header("content-type", "application/x-www-form-urlencoded");
        pages.ask(request.body(Body::from(body)).unwrap()).await
    };
    let form = ask(Request::get(path), String::new()).await.text;
    assert!(form.contains("In the time zone Europe/Berlin"), "{form}");
    let token = pages.token(path).await;
    for (fields, expected) in [
        (
            &[("expires-in", "date"), ("expires", "2999-07-01T10:00")][..],
            "2999-07-01T08:00:00Z",
        ),
        (
            &[("expires-in", "date"), ("expires", "2999-01-01T10:00")],
            "2999-01-01T09:00:00Z",
        ),
    ] {
        let fields = [
            &[("token", &*token), ("name", "a"), ("zone", "Europe/Berlin")],
            fields,
        ];
        let response = ask(Request::post(path), encoded(&fields.concat())).await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        let key = pages
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .remove(0);
        assert_eq!(key.expires_at.unwrap().to_string(), expected);
    }
}

#[tokio::test]
async fn a_new_secret_comes_with_a_curl_command() {
    let pages = Pages::new();
    let token = pages.token("/admin/keys/new").await;
    let fields = [("token", &*token), ("name", "Watched")];
    let command = |page: &Answer| {
        let (_, command) = page
            .text
            .split_once("<code id=\"curl\">")
            .expect("a command");
        command.split('<').next().unwrap().to_owned()
    };
    let secret = |page: &Answer| {
        let (_, secret) = page
            .text
            .split_once("<code id=\"secret\">")
            .expect("a secret");
        secret.split('<').next().unwrap().to_owned()
    };
    for (headers, origin) in [
        (
            &[("host", "keys.example"), ("origin", "https://keys.example")][..],
            "https://keys.example",
        ),
        (
            &[
                ("host", "127.0.0.1:3000"),
                ("origin", "http://127.0.0.1:3000"),
            ],
            "http://127.0.0.1:3000",
        ),
        (&[("host", "keys.example")], "https://keys.example"),
        (&[("host", "localhost:3000")], "http://localhost:3000"),
    ] {
        let page = pages.post("/admin/keys/new", &fields, headers).await;
        let secret = secret(&page);
        let expected = format!("curl -i -H 'Authorization: Bearer {secret}' '{origin}/'");
        assert_eq!(command(&page), expected);
        assert_eq!(page.count(&format!("data-copy=\"{expected}\"")), 1);
    }
    for (url, expected) in [
        ("/v1/orders", "https://keys.example/v1/orders"),
        ("https://api.example/v1", "https://api.example/v1"),
    ] {
        let set = |dashboard: keytally::dashboard::Dashboard| {
            let issuer = keytally::key::Issuer::new("acme_live").unwrap();
            dashboard.issuer(issuer).example_url(url)
        };
        let pages = Pages::with(MemoryBackend::new(), set);
        let token = pages.token("/admin/keys/new").await;
        let fields = [("token", &*token), ("name", "Watched")];
        let host = [("host", "keys.example")];
        let page = pages.post("/admin/keys/new", &fields, &host).await;
        assert!(command(&page).ends_with(&format!(" '{expected}'")), "{url}");
        // Also for the secret of a rotated key.
        let rotate = format!("{}/rotate", page.link("View usage"));
        let page = pages.send(&rotate, &[("grace", "1h")]).await;
        assert!(command(&page).contains(&secret(&page)));
    }
}
