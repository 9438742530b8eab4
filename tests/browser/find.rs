//! Finding the key of a leaked secret.

use fantoccini::key::Key;

use crate::browser::Scripts;
use crate::demo::{UNUSED, USED};
use crate::journey::{signed_in, visitor};
use crate::pages::Pages;

const WARNING: &str = "This secret was pasted here. If it has leaked: Disable · Rotate";

/// Pastes a text into a field, which has the focus then.
async fn paste(pages: &Pages, label: &str, text: &str) {
    let field = pages.field(label).await;
    field.click().await.unwrap();
    field.send_keys(text).await.unwrap();
}

/// Presses Enter, and waits for the next page.
async fn enter(pages: &Pages) {
    pages.leaving(async || pages.press(Key::Enter).await).await;
}

/// Asserts that no URL in a request, redirect, referrer or the history has the part of the secret behind its id.
async fn assert_no_url_has(pages: &Pages, secret: &str) -> Vec<serde_json::Value> {
    let confidential = &secret[secret.len() - 38..];
    let requests = pages.browser.requests().await;
    for request in &requests {
        let redirect = &request["redirectResponse"];
        for part in [
            &request["documentURL"],
            &request["request"]["url"],
            &request["request"]["headers"],
            &redirect["url"],
            &redirect["headers"],
        ] {
            assert!(!part.to_string().contains(confidential), "{part}");
        }
    }
    for url in pages.browser.history().await {
        assert!(!url.contains(confidential), "{url}");
    }
    requests
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn one_paste_on_any_page_finds_the_key_of_a_leaked_secret() {
    signed_in(async |pages: &Pages| {
        let secret = pages.generate("Courier", &[]).await;
        let of_key = pages
            .link("View usage")
            .await
            .attr("href")
            .await
            .unwrap()
            .unwrap();
        pages.browser.requests().await;
        for page in [
            "",
            "/keys?status=disabled",
            "/log?method=GET",
            "/audit",
            "/keys/new",
            "/nowhere",
        ] {
            pages.open(page).await;
            paste(pages, "Find a key", &secret).await;
            enter(pages).await;
            assert_eq!(pages.url().await.path(), of_key, "{page}");
            assert!(pages.heading().await.starts_with("Courier"), "{page}");
            assert_eq!(pages.alert().await, WARNING, "{page}");
        }
        let requests = assert_no_url_has(pages, &secret).await;
        let posts = requests
            .iter()
            .filter(|it| it["request"]["method"] == "POST");
        let bodies: Vec<_> = posts
            .map(|it| it["request"]["postData"].to_string())
            .collect();
        assert_eq!(bodies.len(), 6);
        // The script sends the id only.
        assert!(
            bodies
                .iter()
                .all(|body| !body.contains(&secret[secret.len() - 38..]))
        );
        pages.open_key("Disable", "Courier").await;
        pages.send("Disable").await;

        // A secret that is pasted into a filter is not sent there.
        pages.open("/log").await;
        paste(pages, "Resource ID", &secret).await;
        enter(pages).await;
        assert_eq!(pages.url().await.path(), of_key);
        assert!(pages.alert().await.contains("The key is disabled"));
        assert_no_url_has(pages, &secret).await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn secrets_are_kept_out_of_urls_without_javascript() {
    visitor(Scripts::Off, async |pages: &Pages| {
        pages.sign_in().await;
        let secret = pages.generate("Courier", &[]).await;
        pages.browser.requests().await;
        pages.open("").await;
        paste(pages, "Find a key", &secret).await;
        enter(pages).await;
        assert_eq!(pages.alert().await, WARNING);
        // The browser does not submit a filter with a secret.
        pages.open("/keys").await;
        let before = pages.url().await;
        paste(pages, "Name, hint or ID", &secret).await;
        pages.press(Key::Enter).await;
        pages.button("Apply").await.click().await.unwrap();
        assert_eq!(pages.url().await, before);
        let field = pages.field("Name, hint or ID").await;
        assert_eq!(field.prop("value").await.unwrap().as_ref(), Some(&secret));
        assert_no_url_has(pages, &secret).await;
        // A URL with a secret does not stay in the history.
        pages.open(&format!("/keys?name={secret}")).await;
        assert!(pages.has_link("Courier").await && !pages.has_link(USED).await);
        for url in pages.browser.history().await {
            assert!(!url.contains(&secret), "{url}");
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn names_and_hints_lead_to_keys() {
    signed_in(async |pages: &Pages| {
        let rows = {
            pages.open("/keys").await;
            pages.rows("Owner").await
        };
        let row = rows.iter().find(|row| row["Name"] == UNUSED).unwrap();
        let hint = row["Key"].split_whitespace().next().unwrap();
        for text in [UNUSED, &UNUSED[..7], hint] {
            paste(pages, "Find a key", text).await;
            enter(pages).await;
            assert!(pages.heading().await.starts_with(UNUSED), "{text}");
            assert!(!pages.text().await.contains("was pasted here"), "{text}");
        }
        // Several keys match.
        paste(pages, "Find a key", "demo_live").await;
        enter(pages).await;
        assert_eq!(pages.heading().await, "API keys");
        assert_eq!(pages.rows("Owner").await.len(), 3);
        paste(pages, "Find a key", "nobody").await;
        enter(pages).await;
        assert_eq!(pages.heading().await, "No API key found");
    })
    .await;
}
