//! Editing and revoking keys.

use http::StatusCode;
use keytally::key::{Actor, AuditAction, AuditLog, AuditQuery, KeyAdmin, KeyStatus, KeyUpdate};
use keytally::limit::RateLimit;

use crate::pages::Pages;

fn at(key: &keytally::key::Key, action: &str) -> String {
    format!("/admin/keys/{}/{action}", key.id)
}

#[tokio::test]
async fn submitting_an_unchanged_form_changes_nothing() {
    let pages = Pages::new();
    let limits = [
        RateLimit::per_minute(600).with_burst(20),
        RateLimit::per(7, std::time::Duration::from_millis(1_500)).with_name("odd"),
    ];
    let key = pages
        .key_with("  A \"name\" & <more>", |key| {
            key.owner = Some("customer-17".into());
            key.environment = Some("live".into());
            key.scopes = vec!["read".into(), "orders:write".into()];
            key.limits = limits.into();
            key.addresses =
                keytally::key::AddressList::parse(["203.0.113.0/24", "2001:db8::1"]).unwrap();
            key.expires_at = Some("2999-01-01T10:00:00.123456Z".parse().unwrap());
        })
        .await;
    let response = pages.change(&at(&key, "edit"), &[]).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text);
    assert_eq!(pages.backend.get(key.id).await.unwrap(), Some(key.clone()));
    let query = AuditQuery::new().action(AuditAction::Updated);
    let audit = pages.backend.audit_entries(&query).await.unwrap();
    assert!(audit.items.is_empty());
    // Only the changed field is updated; the others keep their full precision.
    let response = pages
        .change(&at(&key, "edit"), &[("owner", "customer-18")])
        .await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text);
    let mut expected = key.clone();
    expected.owner = Some("customer-18".into());
    assert_eq!(pages.backend.get(key.id).await.unwrap(), Some(expected));
}

#[tokio::test]
async fn every_field_can_be_changed_and_cleared() {
    let pages = Pages::new();
    let key = pages.key("Old").await;
    let fields = [
        ("name", "New"),
        ("owner", "customer-17"),
        ("environment", "test"),
        ("scopes", "read"),
        ("limit-1", "600"),
        ("limit-period-1", "min"),
        ("limit-burst-1", "10"),
        ("limit-2", "9 per hour"),
        ("limit-name-2", "slow"),
        ("addresses", "203.0.113.0/24"),
        ("expires-in", "date"),
        ("expires", "2999-01-01T10:00"),
    ];
    let response = pages.change(&at(&key, "edit"), &fields).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text);
    assert_eq!(
        response.headers["location"],
        format!("/admin/keys/{}", key.id)
    );
    let now = pages.backend.get(key.id).await.unwrap().unwrap();
    assert_eq!(
        (&*now.name, now.owner.as_deref()),
        ("New", Some("customer-17"))
    );
    assert_eq!(
        (now.environment.as_deref(), &*now.scopes),
        (Some("test"), &["read".to_owned()][..])
    );
    let limits = [
        RateLimit::per_minute(600).with_burst(10),
        RateLimit::per_hour(9).with_name("slow"),
    ];
    assert_eq!((&now.limits[..], now.addresses.len()), (&limits[..], 1));
    assert_eq!(now.expires_at.unwrap().to_string(), "2999-01-01T10:00:00Z");
    // The page of the key shows all fields.
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await.text;
    for text in [
        "New",
        "customer-17",
        "test",
        "read",
        "600 per minute, burst of 10",
        "9 per hour (slow)",
        "203.0.113.0/24",
        "2999-01-01 10:00",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let none = fields.map(|(name, value)| (name, if name == "name" { value } else { "" }));
    pages.change(&at(&key, "edit"), &none).await;
    let mut expected = key.clone();
    expected.name = "New".into();
    assert_eq!(pages.backend.get(key.id).await.unwrap(), Some(expected));
}

#[tokio::test]
async fn invalid_fields_have_an_error_and_nothing_changes() {
    let pages = Pages::new();
    let key = pages.key("Unchanged").await;
    let long = "x".repeat(10_000);
    for (name, value) in [
        ("name", " "),
        ("name", &*long),
        ("owner", &*long),
        ("environment", "LIVE"),
        ("scopes", "a a"),
        ("scopes", "é"),
        ("limit-1", "many"),
        ("limit-1", "1/s 2/s"),
        ("limit-1", "0"),
        ("limit-burst-1", "0"),
        ("limit-name-1", "Not a name"),
        ("addresses", "10.0.0.1/8"),
        ("expires", "soon"),
        ("expires-in", "soon"),
    ] {
        // Of a field that was left empty, the period, burst and name do not count.
        let mut changed = vec![(name, value)];
        match name {
            "limit-burst-1" | "limit-name-1" => changed.push(("limit-1", "5")),
            "expires" => changed.push(("expires-in", "date")),
            _ => {}
        }
        let response = pages.change(&at(&key, "edit"), &changed).await;
        let name = match name {
            _ if name.starts_with("limit-") => "limits",
            "expires-in" => "expires",
            name => name,
        };
        assert_eq!(
            response.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{name} {value}"
        );
        assert!(
            response.text.contains(&format!("id=\"{name}-wrong\"")),
            "{name} {value}"
        );
        assert_eq!(response.count("aria-invalid"), 1, "{name} {value}");
        assert_eq!(pages.backend.get(key.id).await.unwrap(), Some(key.clone()));
    }
}

#[tokio::test]
async fn concurrent_changes_are_not_overwritten() {
    let pages = Pages::new();
    let key = pages.key("Shared").await;
    let path = at(&key, "edit");
    let token = pages.token(&path).await;
    let update = KeyUpdate::new().owner(Some("theirs")).name("Renamed");
    pages
        .backend
        .update(key.id, update, Actor::SYSTEM)
        .await
        .unwrap();
    // The form as rendered before the concurrent change.
    let send = async |owner: &'static str, scopes: &'static str| {
        let fields = [
            ("name", "Shared"),
            ("was-name", "Shared"),
            ("owner", owner),
            ("scopes", scopes),
            ("token", &token),
        ];
        pages.post(&path, &fields, &[]).await
    };
    let response = send("mine", "").await;
    assert_eq!(response.status, StatusCode::CONFLICT);
    assert!(response.text.contains("value=\"theirs\""));
    // Changing another field does not conflict.
    let response = send("", "read").await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    let now = pages.backend.get(key.id).await.unwrap().unwrap();
    assert_eq!(
        (&*now.name, now.owner.as_deref(), now.scopes.len()),
        ("Renamed", Some("theirs"), 1)
    );
}

#[tokio::test]
async fn a_revoked_key_stays_revoked() {
    let pages = Pages::new();
    let key = pages.key("Revoked").await;
    assert!(
        pages
            .get(&at(&key, "revoke"))
            .await
            .text
            .contains("cannot be undone")
    );
    let response = pages.send(&at(&key, "revoke"), &[]).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    let now = pages.backend.get(key.id).await.unwrap().unwrap();
    assert_eq!(now.status(jiff::Timestamp::now()), KeyStatus::Revoked);
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await;
    assert!(page.text.contains("<dt>Revoked</dt>") && !page.text.contains("/revoke\""));
}
