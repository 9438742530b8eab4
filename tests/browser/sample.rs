//! The demo's sample data and background client.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::journey::{pictures, with_sample};
use crate::pages::Pages;
use crate::until::until;

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_overview_shows_a_month_of_six_keys() {
    with_sample(async |pages: &Pages| {
        // The background client has sent a request.
        until(async || {
            let recorder = pages.demo.manage(Method::GET, "/recorder", None).await;
            recorder.json()["written"].as_u64() > Some(0)
        })
        .await;
        pages.open("?range=24h").await;
        take_picture(pages, "demo-overview").await;
        pages.open("?range=30d").await;
        let all = pages.card("Total requests").await;
        assert!(all > 30_000, "{all}");
        let mut sum = 0;
        for card in ["Completed", "Failed", "Rate limited"] {
            let count = pages.card(card).await;
            assert!(count > 100, "{card}: {count}");
            sum += count;
        }
        assert_eq!(sum, all);

        let keys = pages.demo.manage(Method::GET, "/keys", None).await.json();
        let keys = keys["items"].as_array().unwrap();
        let is_sample = |key: &&Value| key["environment"] == "sample";
        let sample: Vec<_> = keys.iter().filter(is_sample).collect();
        let distinct = |field: &str| {
            let values = sample.iter().map(|key| key[field].as_str().unwrap());
            values.collect::<BTreeSet<_>>()
        };
        assert_eq!(distinct("name").len(), 6);
        assert_eq!(distinct("owner").len(), 4);
        let rotated = sample.iter().filter(|key| key["rotated_from"].is_string());
        assert_eq!(rotated.count(), 1);
        let disabled = sample.iter().filter(|key| key["status"] == "disabled");
        assert_eq!(disabled.count(), 1);
        assert!(
            sample
                .iter()
                .all(|key| !key["limits"].as_array().unwrap().is_empty())
        );
        pages.open("/keys").await;
        let text = pages.text().await;
        for name in distinct("name") {
            assert!(text.contains(name), "{name}");
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn sample_requests_and_background_requests_are_marked() {
    with_sample(async |pages: &Pages| {
        let demo = &pages.demo;
        let answer = demo.call(Method::GET, "/v1/postings", &demo.key).await;
        assert_eq!(answer.status, StatusCode::OK);
        for header in ["ratelimit", "ratelimit-policy"] {
            assert!(answer.header(header).is_some(), "{header}");
        }
        let own = answer.header("x-request-id").unwrap();
        let ids = async || {
            let log = demo.manage(Method::GET, "/log?limit=50", None).await.json();
            let ids = log["items"].as_array().unwrap().iter().map(|it| {
                let id = it["request_id"].as_str().or(it["id"].as_str());
                id.unwrap().to_owned()
            });
            ids.collect::<Vec<_>>()
        };
        until(async || {
            let ids = ids().await;
            let any = |prefix: &str| ids.iter().any(|id| id.starts_with(prefix));
            any(own) && any("demo-") && any("sample-")
        })
        .await;
        for id in ids().await {
            let is_marked = id.starts_with("demo-") || id.starts_with("sample-");
            assert!(is_marked || id == own, "{id}");
        }
    })
    .await;
}

/// Takes a picture of the overview on a desktop, down to the latencies, for README.
async fn take_picture(pages: &Pages, name: &str) {
    let height = "const next = document.getElementById('spikes').closest('section');
        return Math.floor(next.getBoundingClientRect().top + scrollY)";
    for script in ["return 800", height] {
        let height = pages.ask(script, vec![]).await;
        let size =
            json!({ "width": 1280, "height": height, "deviceScaleFactor": 1, "mobile": false });
        let resize = "Emulation.setDeviceMetricsOverride";
        pages.browser.devtools(resize, size).await;
    }
    let png = pages.browser.client.screenshot().await.unwrap();
    std::fs::write(pictures().join(format!("{name}.png")), png).unwrap();
    let reset = "Emulation.clearDeviceMetricsOverride";
    pages.browser.devtools(reset, json!({})).await;
}
