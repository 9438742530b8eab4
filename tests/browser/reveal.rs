//! Revealing secrets.

use http::StatusCode;

use crate::demo::{UNUSED, USED};
use crate::journey::signed_in;
use crate::keys::clipboard;
use crate::pages::{Pages, until};

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_recoverable_secret_is_revealed_and_copied() {
    signed_in(async |pages: &Pages| {
        pages.open("/keys/new").await;
        pages.fill("Name", "Courier").await;
        pages.unfold("Options").await;
        pages.check("Store the secret, encrypted").await;
        pages.send("Generate").await;
        assert!(pages.alert().await.contains("You can reveal it again"));
        let first = pages.secret().await;

        pages.open_key("Usage of", "Courier").await;
        pages.follow("Reveal secret").await;
        // The confirmation page does not show the secret.
        assert!(!source(pages).await.contains(&first));
        pages.send("Reveal").await;
        assert!(pages.alert().await.contains("in the audit"));
        pages.button("Copy API key").await.click().await.unwrap();
        until(async || pages.buttons("Copied").await == 1).await;
        let copied = clipboard(pages).await;
        assert_eq!(copied, first);
        assert_eq!(
            pages.demo.get("/v1/postings", &copied).await,
            StatusCode::OK
        );

        // The key's page does not show the secret.
        pages.follow("Back to API key").await;
        assert!(!source(pages).await.contains(&first));
        pages.follow("View audit log").await;
        let entries = pages.rows("Actor").await;
        let entries: Vec<_> = entries
            .iter()
            .map(|row| (&*row["Action"], &*row["Actor"]))
            .collect();
        assert_eq!(entries, [("revealed", "admin"), ("created", "admin")]);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn only_recoverable_secrets_can_be_revealed() {
    signed_in(async |pages: &Pages| {
        for (name, recoverable) in [(USED, true), (UNUSED, false)] {
            pages.open_key("Usage of", name).await;
            assert_eq!(pages.has_link("Reveal secret").await, recoverable, "{name}");
        }
        let url = pages.url().await;
        pages.go(&format!("{url}/reveal")).await;
        assert_eq!(pages.heading().await, "Secret not available");
    })
    .await;
}

async fn source(pages: &Pages) -> String {
    pages.browser.client.source().await.unwrap()
}
