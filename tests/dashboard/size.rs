//! The size of pages with the demo's sample data.

use axum::body::Body;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use keytally::backend::SqliteBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Issuer, KeyAdmin, KeyQuery, Vault};
use keytally::usage::Recorder;
use tower::ServiceExt;
use tower_http::compression::CompressionLayer;

use crate::demo::sample;
use crate::pages::TOKEN;
use crate::totals::File;

/// The maximum size of a page with its style sheet and script, compressed.
const MAX_BYTES: usize = 60_000;

#[tokio::test]
async fn every_page_is_at_most_60_kb_compressed() {
    let file = File::new("sizes");
    let backend = SqliteBackend::open(&file.0).await.unwrap();
    backend.migrate().await.unwrap();
    let issuer = Issuer::new("demo_live").unwrap().vault(Vault::new([7; 32]));
    sample::write(&issuer, &backend).await.unwrap();
    backend.merge_rollups().await.unwrap();
    let keys = backend.list(&KeyQuery::new().limit(100)).await.unwrap();
    let recorder = Recorder::builder(backend.clone()).rejected_senders(100);
    let dashboard = Dashboard::new(backend, BearerToken::new(TOKEN).unwrap())
        .issuer(issuer)
        .recorder(recorder.start());
    let router = dashboard.into_router().layer(CompressionLayer::new());
    let compressed = async |path: &str| {
        let request = Request::get(path)
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(ACCEPT_ENCODING, "gzip");
        let request = request.body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip", "{path}");
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .len()
    };
    let assets = compressed("/assets/style.css").await + compressed("/assets/script.js").await;
    let ranges = ["15m", "1h", "6h", "24h", "7d", "30d"];
    let long = "range=custom&from=2025-01-01T00:00&to=2026-12-31T00:00";
    let ranges = ranges.map(|range| format!("range={range}"));
    let ranges: Vec<_> = ranges.into_iter().chain([long.to_owned()]).collect();
    let mut paths = ["/keys", "/keys/new", "/owners", "/log", "/audit"]
        .map(str::to_owned)
        .to_vec();
    paths.extend(ranges.iter().map(|range| format!("/?{range}")));
    for (n, key) in keys.items.iter().enumerate() {
        // All ranges of one key and its owner.
        let ranges = if n == 0 { &ranges[..] } else { &ranges[3..4] };
        paths.extend(
            ranges
                .iter()
                .map(|range| format!("/keys/{}?{range}", key.id)),
        );
        paths.push(format!("/keys/{}/edit", key.id));
        if let Some(owner) = &key.owner {
            paths.extend(
                ranges
                    .iter()
                    .map(|range| format!("/owners/{owner}?{range}")),
            );
        }
    }
    let mut largest = (0, "");
    for path in &paths {
        let size = compressed(path).await + assets;
        assert!(size <= MAX_BYTES, "{path}: {size}");
        largest = largest.max((size, path));
    }
    println!(
        "the largest of {}: {} bytes, {}",
        paths.len(),
        largest.0,
        largest.1
    );
}
