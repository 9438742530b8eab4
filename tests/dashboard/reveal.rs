//! Revealing secrets.

use http::StatusCode;
use keytally::backend::MemoryBackend;
use keytally::key::{AuditAction, AuditLog, AuditQuery, Issuer, KeyAdmin, KeyQuery, Vault};

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
async fn revealing_a_secret_is_audited() {
    let pages = pages(7);
    let fields = [("name", "Zapier Integration"), ("recoverable", "yes")];
    let created = pages.send("/admin/keys/new", &fields).await;
    assert!(!created.text.contains("This is the only time it is shown"));
    let key = pages
        .backend
        .list(&KeyQuery::new())
        .await
        .unwrap()
        .items
        .remove(0);
    let page = format!("/admin/keys/{}", key.id);
    assert!(pages.get(&page).await.text.contains("Reveal secret"));
    let path = format!("{page}/reveal");

    // The confirmation page does not show the secret.
    let confirmation = pages.get(&path).await;
    assert!(!confirmation.text.contains(secret(&created.text)));
    let query = AuditQuery::new().action(AuditAction::Revealed);
    let reveals = async || pages.backend.audit_entries(&query).await.unwrap().items;
    assert_eq!(reveals().await.len(), 0);

    // Neither do cross-site requests, and those without a form token.
    let token = pages.token(&path).await;
    let cross = [("sec-fetch-site", "cross-site")];
    for (fields, headers) in [(&[("token", &*token)][..], &cross[..]), (&[], &[])] {
        let rejected = pages.post(&path, fields, headers).await;
        assert_eq!(rejected.status, StatusCode::FORBIDDEN);
        assert!(!rejected.text.contains(secret(&created.text)));
    }
    assert_eq!(reveals().await.len(), 0);

    let revealed = pages.send(&path, &[]).await;
    assert_eq!(revealed.status, StatusCode::OK);
    assert_eq!(revealed.headers["cache-control"], "no-store");
    assert_eq!(secret(&revealed.text), secret(&created.text));
    assert_eq!(reveals().await[0].actor.as_deref(), Some("Ada"));

    // With another encryption key.
    let other = over(pages.backend.clone(), 8);
    let failed = other.send(&path, &[]).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(failed.text.contains("cannot be decrypted"));
}

#[tokio::test]
async fn secrets_are_not_stored_by_default() {
    let pages = pages(7);
    let created = pages.send("/admin/keys/new", &[("name", "Zapier")]).await;
    assert!(created.text.contains("This is the only time it is shown"));
    let key = pages
        .backend
        .list(&KeyQuery::new())
        .await
        .unwrap()
        .items
        .remove(0);
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await;
    assert!(!page.text.contains("Reveal secret"));
    let path = format!("/admin/keys/{}/reveal", key.id);
    assert_eq!(pages.get(&path).await.status, StatusCode::NOT_FOUND);

    // Not available without an encryption key.
    let without = Pages::new();
    let form = without.get("/admin/keys/new").await.text;
    assert!(!form.contains("recoverable"));
    let fields = [("name", "a"), ("recoverable", "yes")];
    let rejected = without.send("/admin/keys/new", &fields).await;
    assert_eq!(rejected.status, StatusCode::UNPROCESSABLE_ENTITY);
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
