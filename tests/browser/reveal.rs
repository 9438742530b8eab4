//! Secrets that are kept, and shown again.

use http::StatusCode;

use crate::demo::{UNUSED, USED};
use crate::journey::signed_in;
use crate::keys::clipboard;
use crate::pages::{Pages, until};

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_kept_secret_is_shown_again_copied_and_opens_the_api() {
    signed_in(async |pages: &Pages| {
        pages.open("/keys/new").await;
        pages.fill("Name", "Courier").await;
        pages.check("Keep the secret, encrypted").await;
        pages.send("Generate").await;
        assert!(pages.alert().await.contains("It is kept encrypted"));
        let first = pages.secret().await;

        pages.open_key("Usage of", "Courier").await;
        pages.follow("Show the secret").await;
        // A look at the question is none at the secret.
        assert!(!source(pages).await.contains(&first));
        pages.send("Show").await;
        assert!(pages.alert().await.contains("in the audit"));
        pages.button("Copy the key").await.click().await.unwrap();
        until(async || pages.buttons("Copied").await == 1).await;
        let copied = clipboard(pages).await;
        assert_eq!(copied, first);
        assert_eq!(
            pages.demo.get("/v1/postings", &copied).await,
            StatusCode::OK
        );

        // The page cannot be had again without asking again.
        pages.follow("Back to the key").await;
        assert!(!source(pages).await.contains(&first));
        pages.follow("Audit of this key").await;
        let what = pages.rows("Who").await;
        let what: Vec<_> = what
            .iter()
            .map(|row| (&*row["What"], &*row["Who"]))
            .collect();
        assert_eq!(what, [("revealed", "admin"), ("created", "admin")]);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn only_kept_secrets_can_be_shown() {
    signed_in(async |pages: &Pages| {
        for (name, kept) in [(USED, true), (UNUSED, false)] {
            pages.open_key("Usage of", name).await;
            assert_eq!(pages.has_link("Show the secret").await, kept, "{name}");
        }
        let url = pages.url().await;
        pages.go(&format!("{url}/reveal")).await;
        assert_eq!(pages.heading().await, "Not kept");
    })
    .await;
}

async fn source(pages: &Pages) -> String {
    pages.browser.client.source().await.unwrap()
}
