//! Key management, and its effect on requests with the keys.

use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::demo::UNUSED;
use crate::journey::signed_in;
use crate::pages::{Pages, until};

const OK: StatusCode = StatusCode::OK;
const REJECTED: StatusCode = StatusCode::UNAUTHORIZED;

/// Reads the clipboard. The permission is granted for reading only, so that copying worked without it.
pub(crate) async fn clipboard(pages: &Pages) -> String {
    let browser = &pages.browser;
    let may = json!({ "origin": pages.demo.origin, "permissions": ["clipboardReadWrite"] });
    browser.devtools("Browser.grantPermissions", may).await;
    let copied = pages
        .ask("return navigator.clipboard.readText()", vec![])
        .await;
    browser
        .devtools("Browser.resetPermissions", json!({}))
        .await;
    copied.as_str().unwrap().into()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_generated_key_can_be_copied_and_used() {
    signed_in(async |pages: &Pages| {
        let shown = pages.generate("Courier", &[("Owner", "customer-5")]).await;
        assert!(pages.alert().await.contains("Copy it now"));
        pages.button("Copy API key").await.click().await.unwrap();
        until(async || pages.buttons("Copied").await == 1).await;
        let copied = clipboard(pages).await;
        assert_eq!(copied, shown);

        pages.follow("View usage").await;
        assert_eq!(pages.card("Total requests").await, 0);
        let demo = &pages.demo;
        assert_eq!(demo.get("/v1/postings", &copied).await, OK);
        assert_eq!(
            demo.call(Method::POST, "/v1/postings", &copied)
                .await
                .status,
            OK
        );
        pages.until_counted(2).await;
        assert_eq!(pages.card("Completed").await, 2);
        assert_eq!(pages.logged().await, 2);

        let response = demo
            .call(Method::GET, "/v1/postings/missing", &copied)
            .await;
        assert_eq!(response.status, StatusCode::NOT_FOUND);
        pages.until_counted(3).await;
        let cards = [("Completed", 2), ("Failed", 1), ("Rate limited", 0)];
        for (card, count) in cards {
            assert_eq!(pages.card(card).await, count, "{card}");
        }
        let log = pages.log().await;
        assert_eq!(log.len(), 3);
        let newest = &log[0];
        assert_eq!(
            newest["Request ID"],
            response.header("x-request-id").unwrap()
        );
        assert_eq!(newest["Method"], "GET");
        assert_eq!(newest["Endpoint"], "/v1/postings/{id}");
        assert_eq!((&*newest["Status"], &*newest["Code"]), ("failed", "404"));

        // The secret is not shown again; the key id can be copied.
        let id = pages
            .url()
            .await
            .path_segments()
            .unwrap()
            .next_back()
            .unwrap()
            .to_owned();
        pages.button("Copy key ID").await.click().await.unwrap();
        until(async || pages.buttons("Copied").await == 1).await;
        assert_eq!(clipboard(pages).await, id);
        assert!(shown.contains(&id) && shown != id);
        pages.open("/keys").await;
        assert!(
            !pages
                .browser
                .client
                .source()
                .await
                .unwrap()
                .contains(&shown)
        );
        let rows = pages.rows("Owner").await;
        let row = rows.iter().find(|row| row["Name"] == "Courier").unwrap();
        assert_eq!((&*row["Owner"], &*row["Status"]), ("customer-5", "active"));
        assert_ne!(row["Last accepted"], "Never");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn an_invalid_form_has_an_error_and_keeps_its_values() {
    signed_in(async |pages: &Pages| {
        pages.open("/keys/new").await;
        pages.fill("Name", "Courier").await;
        pages.unfold("Options").await;
        pages.fill("Rate limit", "plenty").await;
        pages.send("Generate").await;
        pages.alert().await;
        assert!(pages.text().await.contains("“plenty” is not a rate limit"));
        let name = pages.field("Name").await.prop("value").await.unwrap();
        assert_eq!(name.as_deref(), Some("Courier"));
        pages.fill("Rate limit", "5/s").await;
        pages.send("Generate").await;
        assert_eq!(pages.heading().await, "API key generated");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_rotated_key_works_until_its_grace_period_ends() {
    signed_in(async |pages: &Pages| {
        let demo = &pages.demo;
        let first = pages.generate("Courier", &[]).await;
        assert_eq!(demo.get("/v1/postings", &first).await, OK);
        let before = Timestamp::now();
        let second = pages.rotate("Courier", "1 hour").await;
        let after = Timestamp::now();
        for secret in [&first, &second] {
            assert_eq!(demo.get("/v1/postings", secret).await, OK);
        }
        // The old key expires after the grace period.
        pages.open("/keys").await;
        let times = pages.times().await;
        let ends: Vec<_> = times
            .into_iter()
            .filter(|(time, ..)| *time > after + SignedDuration::from_mins(30))
            .collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
        let given = ends[0].0 - SignedDuration::from_hours(1);
        assert!(
            before - SignedDuration::from_millis(1) < given && given < after,
            "{given}"
        );

        let alone = pages.generate("Alone", &[]).await;
        let next = pages.rotate("Alone", "None (expires immediately)").await;
        assert_eq!(demo.get("/v1/postings", &alone).await, REJECTED);
        assert_eq!(demo.get("/v1/postings", &next).await, OK);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_deleted_key_is_rejected() {
    signed_in(async |pages: &Pages| {
        let secret = pages.generate("Courier", &[]).await;
        assert_eq!(pages.demo.get("/v1/postings", &secret).await, OK);
        pages.open_key("Delete", "Courier").await;
        assert!(pages.text().await.contains("This cannot be undone"));
        pages.fill("Key name", "zap").await;
        pages.send("Delete").await;
        pages.alert().await;
        assert_eq!(pages.demo.get("/v1/postings", &secret).await, OK);

        pages.fill("Key name", "Courier").await;
        pages.send("Delete").await;
        assert_eq!(pages.heading().await, "API keys");
        assert!(!pages.has_link("Courier").await);
        assert_eq!(pages.demo.get("/v1/postings", &secret).await, REJECTED);

        pages.follow("Audit log").await;
        let audit = pages.rows("Actor").await;
        let entries: Vec<_> = audit
            .iter()
            .filter(|row| row["Subject"].starts_with("Courier"))
            .collect();
        let actions: Vec<_> = entries.iter().map(|row| &*row["Action"]).collect();
        assert_eq!(actions, ["deleted", "created"]);
        assert!(entries.iter().all(|row| row["Actor"] == "admin"));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_disabled_key_is_rejected_until_it_is_enabled() {
    signed_in(async |pages: &Pages| {
        let secret = pages.generate("Courier", &[]).await;
        for (action, status) in [("Disable", REJECTED), ("Enable", OK)] {
            pages.open_key(action, "Courier").await;
            pages.send(action).await;
            assert_eq!(pages.heading().await, "API keys");
            assert_eq!(
                pages.demo.get("/v1/postings", &secret).await,
                status,
                "{action}"
            );
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn keys_are_filtered_by_name_owner_and_status() {
    signed_in(async |pages: &Pages| {
        pages.open_key("Disable", UNUSED).await;
        pages.send("Disable").await;
        for (field, value, names) in [
            ("Name, hint or ID", "zapier", &["Zapier Integration"][..]),
            (
                "Owner",
                "customer-17",
                &["PowerAutomate", "Zapier Integration"],
            ),
            ("Status", "disabled", &[UNUSED]),
            ("Name, hint or ID", "nobody", &[]),
        ] {
            pages.open("/keys").await;
            match field {
                "Status" => pages.choose(field, value).await,
                _ => pages.fill(field, value).await,
            }
            pages.send("Apply").await;
            let rows = pages.rows("Owner").await;
            let mut found: Vec<_> = rows.iter().map(|row| &*row["Name"]).collect();
            found.sort_unstable();
            assert_eq!(found, names, "{field} {value}");
            pages.follow("Clear filters").await;
            assert_eq!(pages.rows("Owner").await.len(), 3);
        }
    })
    .await;
}
