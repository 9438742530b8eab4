//! Secrets that are shown again.

use http::StatusCode;
use keytally::backend::MemoryBackend;
use keytally::key::{AuditAction, AuditQuery, Issuer, KeyAdmin, KeyQuery, Vault};

use crate::pages::Pages;

fn pages(key: u8) -> Pages {
    over(MemoryBackend::new(), key)
}

fn over(backend: MemoryBackend, key: u8) -> Pages {
    let issuer = Issuer::new("acme_live").unwrap();
    let issuer = issuer.vault(Vault::new([key; 32]));
    Pages::with(backend, |dashboard| dashboard.issuer(issuer))
}

/// The secret on a page.
fn secret(page: &str) -> &str {
    let (_, rest) = page.split_once("<code id=\"secret\">").expect("a secret");
    rest.split('<').next().unwrap()
}

#[tokio::test]
async fn a_kept_secret_is_shown_again_and_that_is_noted() {
    let pages = pages(7);
    let fields = [("name", "Zapier Integration"), ("recoverable", "yes")];
    let made = pages.send("/admin/keys/new", &fields).await;
    assert!(!made.text.contains("kept nowhere"));
    let key = pages
        .backend
        .list(&KeyQuery::new())
        .await
        .unwrap()
        .items
        .remove(0);
    let page = format!("/admin/keys/{}", key.id);
    assert!(pages.get(&page).await.text.contains("Show the secret"));
    let path = format!("{page}/reveal");

    // A look at the question is none at the secret.
    let question = pages.get(&path).await;
    assert!(!question.text.contains(secret(&made.text)));
    let query = AuditQuery::new().action(AuditAction::Revealed);
    let noted = async || pages.backend.audit(&query).await.unwrap().unwrap().items;
    assert_eq!(noted().await.len(), 0);

    // Nor does another site get at it, or whoever has not seen the question.
    let token = pages.token(&path).await;
    let cross = [("sec-fetch-site", "cross-site")];
    for (fields, headers) in [(&[("token", &*token)][..], &cross[..]), (&[], &[])] {
        let refused = pages.post(&path, fields, headers).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert!(!refused.text.contains(secret(&made.text)));
    }
    assert_eq!(noted().await.len(), 0);

    let shown = pages.send(&path, &[]).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert_eq!(shown.headers["cache-control"], "no-store");
    assert_eq!(secret(&shown.text), secret(&made.text));
    assert_eq!(noted().await[0].actor.as_deref(), Some("Ada"));

    // With another encryption key.
    let other = over(pages.backend.clone(), 8);
    let closed = other.send(&path, &[]).await;
    assert_eq!(closed.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(closed.text.contains("cannot be decrypted"));
}

#[tokio::test]
async fn a_secret_is_not_kept_unless_that_is_asked_for() {
    let pages = pages(7);
    let made = pages.send("/admin/keys/new", &[("name", "Zapier")]).await;
    assert!(made.text.contains("kept nowhere"));
    let key = pages
        .backend
        .list(&KeyQuery::new())
        .await
        .unwrap()
        .items
        .remove(0);
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await;
    assert!(!page.text.contains("Show the secret"));
    let path = format!("/admin/keys/{}/reveal", key.id);
    assert_eq!(pages.get(&path).await.status, StatusCode::NOT_FOUND);

    // Without an encryption key, it is not even offered.
    let without = Pages::new();
    let form = without.get("/admin/keys/new").await.text;
    assert!(!form.contains("recoverable"));
    let fields = [("name", "a"), ("recoverable", "yes")];
    let refused = without.send("/admin/keys/new", &fields).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        without
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}
