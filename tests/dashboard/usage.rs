//! The page of a key.

use http::StatusCode;
use jiff::SignedDuration;
use keytally::usage::{Method, UsageEvent};

use crate::counted::Counted;
use crate::pages::Pages;

#[tokio::test]
async fn the_page_links_to_all_actions() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await;
    assert_eq!(page.link("Back to API keys"), "/admin/keys");
    for (text, action) in [
        ("Edit", "edit"),
        ("Rotate", "rotate"),
        ("Disable", "disable"),
        ("Revoke", "revoke"),
        ("Delete", "delete"),
    ] {
        let href = page.link(text);
        assert_eq!(href, format!("/admin/keys/{}/{action}", key.id));
        assert_eq!(pages.get(&href).await.status, StatusCode::OK, "{href}");
    }
    assert!(page.text.contains("<dt>Last accepted</dt><dd>Never</dd>"));
    assert!(page.text.contains("<dt>Rejected since</dt><dd>0</dd>"));
    assert!(page.text.contains("<dt>Allowed IPs</dt><dd>Any</dd>"));
}

#[tokio::test]
async fn changing_the_range_keeps_all_filters_except_times() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let query = "range=1h&method=GET&since=2026-01-01T00:00:00Z&after=1.x&junk=1";
    let page = pages.get(&format!("/admin/keys/{}?{query}", key.id)).await;
    let week = page.link("7 days");
    assert_eq!(week, format!("/admin/keys/{}?method=GET&range=7d", key.id));
}

#[tokio::test]
async fn approximate_totals_are_marked() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let at = "2026-11-01T10:30:30Z".parse::<jiff::Timestamp>().unwrap();
    let set = |_, event: &mut UsageEvent| event.time = at;
    pages.requests(&key, 3, SignedDuration::ZERO, set).await;
    for (from, total, is_marked) in [
        ("2026-11-01T10:30:00Z", 3, false),
        ("2026-11-01T10:30:15Z", 0, true),
        ("2026-11-01T10:29:59Z", 3, false),
    ] {
        let query = format!("range=custom&from={from}&to=2026-11-02T00:00:00Z");
        for page in [
            format!("/admin?{query}"),
            format!("/admin/keys/{}?{query}", key.id),
        ] {
            let page = pages.get(&page).await.text;
            assert_eq!(page.contains("approximate"), is_marked, "{from}: {page}");
        }
        let path = format!("/admin/api/usage?from={from}&to=2026-11-02T00:00:00Z");
        let usage: serde_json::Value = serde_json::from_str(&pages.get(&path).await.text).unwrap();
        assert_eq!(
            (&usage["totals"]["total"], &usage["exact"]),
            (&total.into(), &(!is_marked).into())
        );
        let path = format!("/admin/api/usage/over-time?from={from}&to=2026-11-02T00:00:00Z");
        let usage: serde_json::Value = serde_json::from_str(&pages.get(&path).await.text).unwrap();
        assert_eq!(usage["exact"], !is_marked);
    }
    for range in ["15m", "24h", "30d"] {
        let page = pages.get(&format!("/admin?range={range}")).await.text;
        assert!(!page.contains("approximate"), "{range}: {page}");
    }
}

#[tokio::test]
async fn an_invalid_range_has_an_error() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    for (query, field) in [
        ("from=x&to=2026-01-01T00:00", "from"),
        ("from=2026-01-02T00:00&to=y", "to"),
        ("from=2026-01-02T00:00&to=2026-01-01T00:00", "to"),
        ("to=2026-01-01T00:00", "from"),
    ] {
        let page = pages
            .get(&format!("/admin/keys/{}?range=custom&{query}", key.id))
            .await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(
            page.text.contains(&format!("id=\"{field}-wrong\"")),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_chart_of_a_century_is_omitted() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let minute = SignedDuration::from_mins(1);
    pages.requests(&key, 3, minute, |_, _| ()).await;
    for (from, chart) in [
        ("2025-11-01", true),
        ("1930-01-01", false),
        ("0001-01-01", false),
    ] {
        let query = format!("range=custom&from={from}T00:00&to=2027-01-01T00:00");
        let page = pages.get(&format!("/admin/keys/{}?{query}", key.id)).await;
        let omitted = page.text.contains("too long to chart");
        assert_eq!((page.status, omitted), (StatusCode::OK, !chart), "{from}");
        assert!(page.text.len() < 200_000, "{}", page.text.len());
    }
}

#[tokio::test]
async fn the_page_of_a_busy_key_stays_small() {
    let pages = Pages::new();
    let key = pages.key("Busy").await;
    let set = |n: u64, event: &mut UsageEvent| {
        event.time -= SignedDuration::from_mins((n % 1_430).cast_signed());
        event.endpoint = format!("/v1/a/rather/long/endpoint/of/many/words/{}", n % 40).into();
        event.path = event.endpoint.to_string().into();
        event.method = Method::ALL[n as usize % Method::ALL.len()];
        event.resource_id = Some(format!("resource-{n}").into());
    };
    pages
        .requests(&key, 5_000, SignedDuration::from_mins(1), set)
        .await;
    let page = pages.get(&format!("/admin/keys/{}", key.id)).await;
    assert!(page.count("<tr") > 50);
    // Uncompressed; about a tenth with compression.
    assert!(page.text.len() < 150_000, "{}", page.text.len());
}

#[tokio::test]
async fn store_calls_per_page_are_bounded() {
    let plain = Pages::new();
    for n in 0..60 {
        let key = plain.key(&format!("Key {n}")).await;
        plain
            .requests(&key, 5, SignedDuration::from_mins(1), |_, _| ())
            .await;
    }
    let id = plain.key("Watched").await.id;
    let counted = Counted::of(plain.backend);
    let pages = Pages::over(counted.clone());
    for (path, most) in [
        ("/admin".to_owned(), 8),
        ("/admin/keys".into(), 3),
        ("/admin/log".into(), 6),
        ("/admin/owners".into(), 4),
        ("/admin/owners/acme".into(), 10),
        ("/admin/owners/acme/csv?month=2026-10".into(), 2),
        ("/admin/billing/csv?month=2026-10".into(), 1),
        (format!("/admin/keys/{id}"), 8),
        (format!("/admin/keys/{id}/edit"), 2),
        ("/admin/audit".into(), 1),
    ] {
        assert_eq!(pages.get(&path).await.status, StatusCode::OK, "{path}");
        let calls = counted.take();
        assert!((1..=most).contains(&calls), "{path}: {calls}");
    }
}
