//! Tasks with keys and the steps that they take.

use fantoccini::key::Key;
use http::{Method, StatusCode};
use keytally::KeyId;
use serde_json::{Value, json};

use crate::demo::{UNUSED, USED};
use crate::journey::signed_in;
use crate::keys::clipboard;
use crate::pages::{Pages, until};

/// Presses keys in the field that has the focus.
async fn type_in(pages: &Pages, text: &str) {
    let field = pages.browser.client.active_element().await.unwrap();
    field.send_keys(text).await.unwrap();
}

/// The id of the element that has the focus.
async fn focused(pages: &Pages) -> Value {
    pages.ask("return document.activeElement.id", vec![]).await
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn handing_out_a_key_takes_three_clicks() {
    signed_in(async |pages: &Pages| {
        pages.open("").await;
        let mut clicks = 0;
        for label in ["Generate API key", "Generate", "Copy curl command"] {
            clicks += 1;
            match label {
                "Generate API key" => pages.follow(label).await,
                "Generate" => {
                    type_in(pages, "Courier").await;
                    pages.send(label).await;
                }
                _ => pages.button(label).await.click().await.unwrap(),
            }
        }
        assert_eq!(clicks, 3);
        until(async || pages.buttons("Copied").await == 1).await;
        let command = clipboard(pages).await;
        let secret = pages.secret().await;
        let url = format!("{}/v1/postings", pages.demo.origin);
        let expected = format!("curl -i -H 'Authorization: Bearer {secret}' '{url}'");
        assert_eq!(command, expected);
        let status = pages.demo.get("/v1/postings", &secret).await;
        assert_eq!(status, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_stored_secret_is_copied_from_the_list_and_audited() {
    signed_in(async |pages: &Pages| {
        pages.open("/keys").await;
        let copy = format!("Copy secret of {USED}");
        pages.button(&copy).await.click().await.unwrap();
        until(async || pages.buttons("Copied").await == 1).await;
        let secret = clipboard(pages).await;
        let status = pages.demo.get("/v1/postings", &secret).await;
        assert_eq!(status, StatusCode::OK);
        pages.open("/keys").await;
        let copy = format!("Copy key ID of {UNUSED}");
        pages.button(&copy).await.click().await.unwrap();
        until(async || pages.buttons("Copied").await == 1).await;
        let id = clipboard(pages).await;
        pages.open("/audit").await;
        let newest = pages.rows("Actor").await.swap_remove(0);
        assert_eq!(
            (&*newest["Action"], &*newest["Subject"]),
            ("revealed", USED)
        );
        pages.open(&format!("/keys/{id}")).await;
        assert!(pages.heading().await.contains(UNUSED));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn several_keys_are_disabled_and_enabled_again() {
    signed_in(async |pages: &Pages| {
        let statuses = async || {
            let rows = pages.rows("Owner").await;
            let statuses = rows.iter().map(|row| row["Status"].clone());
            statuses.collect::<Vec<_>>()
        };
        pages.open("/keys?sort=name").await;
        let button = pages.button("Disable selected").await;
        assert!(!button.is_enabled().await.unwrap());
        pages.check("Select all").await;
        pages.check(&format!("Select {UNUSED}")).await;
        pages.send("Disable selected (2)").await;
        let requests = pages.rows("Requests in 24 hours").await;
        assert_eq!(requests.len(), 2);
        pages.send("Disable 2 API keys").await;
        // Filters and order stay.
        assert_eq!(pages.url().await.query(), Some("sort=name"));
        assert!(pages.text().await.contains("2 API keys were disabled."));
        assert_eq!(statuses().await, ["active", "disabled", "disabled"]);
        pages.send("Undo").await;
        assert!(pages.text().await.contains("2 API keys were enabled."));
        assert_eq!(statuses().await, ["active"; 3]);
        assert_eq!(pages.url().await.query(), Some("sort=name"));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_list_of_keys_fits_every_width() {
    /// Parts of the list that are cut off, or overlap.
    const BROKEN: &str = "
        const broken = [];
        const cells = [...document.querySelectorAll('.keys tbody :is(th, td)')];
        const seen = cells.filter((cell) => cell.checkVisibility() && cell.childElementCount);
        for (const cell of seen) {
            for (const part of [cell, ...cell.querySelectorAll('a, bdi, code, time')]) {
                if (part.scrollWidth > part.clientWidth + 1 && part.clientWidth) broken.push(part.outerHTML);
            }
        }
        const boxes = seen.map((cell) => [cell, cell.getBoundingClientRect()]);
        for (const [one, a] of boxes) for (const [other, b] of boxes) {
            const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (one !== other && across > 1 && down > 1) broken.push(one.className + ' over ' + other.className);
        }
        const page = document.documentElement;
        if (page.scrollWidth > page.clientWidth) broken.push('page: ' + page.scrollWidth);
        const list = document.querySelector('.keys').parentElement;
        if (list.scrollWidth > list.clientWidth) broken.push('list: ' + list.scrollWidth);
        return broken;";
    signed_in(async |pages: &Pages| {
        let long = "Integration of the warehouse in Rotterdam with the shop in ";
        for name in [
            format!("{long}Antwerp"),
            format!("{long}Ghent"),
            "x".repeat(100),
        ] {
            pages.generate(&name, &[("Owner", &"y".repeat(60))]).await;
        }
        pages.rotate(UNUSED, "7 days").await;
        pages.open("/keys").await;
        for width in [1440, 1280, 1200, 1100, 1080, 1079, 900, 768, 640, 390, 320] {
            let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600 });
            let resize = "Emulation.setDeviceMetricsOverride";
            pages.browser.devtools(resize, size).await;
            let broken = pages.ask(BROKEN, vec![]).await;
            assert_eq!(broken, json!([]), "{width}");
            let text = pages.text().await;
            assert!(text.contains("Antwerp") && text.contains("Ghent"), "{width}");
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_form_of_a_key_leads_to_the_first_wrong_field() {
    signed_in(async |pages: &Pages| {
        pages.open("/keys/new").await;
        assert_eq!(focused(pages).await, "name");
        type_in(pages, "Courier").await;
        pages.unfold("Options").await;
        // The date is shown once it is chosen.
        let has_date = async || {
            let shown = "return document.getElementById('expires').checkVisibility()";
            pages.ask(shown, vec![]).await == true
        };
        assert!(!has_date().await);
        pages.choose("Expires", "On a date").await;
        assert!(has_date().await);
        pages.choose("Expires", "In 90 days").await;
        assert!(!has_date().await);
        pages.fill("Allowed IPs", "here").await;
        pages.fill("Rate limit", "plenty").await;
        pages.send("Generate").await;
        assert_eq!(focused(pages).await, "limit-1");
        pages.fill("Rate limit", "100 per hour").await;
        pages.send("Generate").await;
        assert_eq!(focused(pages).await, "addresses");
        pages.fill("Allowed IPs", "127.0.0.0/8").await;
        pages.press(Key::Enter).await;
        until(async || pages.heading().await == "API key generated").await;
        pages.follow("View usage").await;
        assert!(pages.text().await.contains("100 per hour"));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn one_click_shows_whether_a_key_is_still_used() {
    signed_in(async |pages: &Pages| {
        let demo = &pages.demo;
        let secret = pages.generate("Courier", &[]).await;
        assert_eq!(demo.get("/v1/postings", &secret).await, StatusCode::OK);
        let id = KeyId::of_secret(&secret).unwrap();
        let path = format!("/keys/{id}");
        let key = async || demo.manage(Method::GET, &path, None).await.json();
        until(async || key().await["last_accepted_at"].is_string()).await;
        demo.manage(Method::POST, &format!("{path}/revoke"), None)
            .await;
        for _ in 0..3 {
            let status = demo.get("/v1/postings", &secret).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
        until(async || key().await["rejected_since"] == 3).await;
        let last = key().await["last_accepted_at"].clone();

        pages.open("").await;
        let mut clicks = 0;
        clicks += 1;
        pages.follow("API keys").await;
        let rows = pages.rows("Owner").await;
        let row = rows.iter().find(|row| row["Name"] == "Courier").unwrap();
        let shown = &row["Last accepted"];
        assert!(shown.ends_with("Rejected since: 3"), "{shown}");
        let times =
            "return [...document.querySelectorAll('.used time')].map((time) => time.dateTime)";
        let times = pages.ask(times, vec![]).await;
        assert!(times.as_array().unwrap().contains(&last), "{times} {last}");
        assert_eq!(clicks, 1);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn rotating_a_key_and_seeing_its_client_move_takes_three_clicks() {
    signed_in(async |pages: &Pages| {
        let demo = &pages.demo;
        let old = pages.generate("Courier", &[]).await;
        for _ in 0..2 {
            assert_eq!(demo.get("/v1/postings", &old).await, StatusCode::OK);
        }
        let id = KeyId::of_secret(&old).unwrap();
        let fact = async |term: &str| {
            let script = "return [...document.querySelectorAll('.lineage dt')]
                .find((dt) => dt.textContent === arguments[0])?.nextSibling.textContent";
            pages.ask(script, vec![json!(term)]).await
        };
        pages.open("/keys").await;
        let mut clicks = 0;
        for label in ["Rotate Courier", "Rotate", "View old key"] {
            clicks += 1;
            match label {
                "Rotate" => pages.send(label).await,
                _ => pages.follow(label).await,
            }
            if label == "Rotate" {
                let new = pages.secret().await;
                assert_eq!(demo.get("/v1/postings", &new).await, StatusCode::OK);
                let new = format!("/keys/{}", KeyId::of_secret(&new).unwrap());
                until(async || {
                    let key = demo.manage(Method::GET, &new, None).await.json();
                    key["first_accepted_at"].is_string()
                })
                .await;
            }
        }
        assert_eq!(clicks, 3);
        assert!(pages.url().await.path().ends_with(&format!("/keys/{id}")));
        assert_eq!(pages.heading().await, "Courier replaced");
        assert_eq!(fact("Old secret").await, "2 requests in the last hour");
        assert_eq!(fact("Old secret ends").await, "in 24 h");
        assert_ne!(fact("New secret first accepted").await, "Not yet");
        assert!(!pages.has_link("Rotate").await);

        // Each key refers to the other, and the list tells them apart.
        pages.open("/keys").await;
        let rows = pages.rows("Owner").await;
        let rows = rows.iter().filter(|row| row["Name"] == "Courier");
        let rows: Vec<_> = rows.map(|row| (&*row["Status"], &*row["Key"])).collect();
        assert_eq!(rows.len(), 2);
        assert!(
            rows[0].0 == "active" && rows[0].1.contains("Replaces"),
            "{rows:?}"
        );
        assert!(
            rows[1].0.starts_with("replaced") && rows[1].0.contains("ends in 24 h"),
            "{rows:?}"
        );
        assert!(rows[1].1.contains("Replaced by"), "{rows:?}");
        pages.open(&format!("/keys/{id}")).await;
        pages.follow("End it now").await;
        pages.send("Revoke").await;
        assert_eq!(
            demo.get("/v1/postings", &old).await,
            StatusCode::UNAUTHORIZED
        );
        assert!(fact("Old secret ended").await.is_string());
        assert!(!pages.has_link("End it now").await);
    })
    .await;
}
