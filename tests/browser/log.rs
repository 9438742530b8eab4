//! The request log: filters, columns, pagination and exports.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::Value;

use crate::demo::USED;
use crate::journey::{elsewhere, signed_in};
use crate::pages::{Pages, Row};

/// Requests with a key that is limited to nine per day.
const REQUESTS: [(Method, &str, u16); 11] = [
    (Method::GET, "/v1/postings", 200),
    (Method::GET, "/v1/postings", 200),
    (Method::GET, "/v1/postings", 200),
    (Method::POST, "/v1/postings", 200),
    (Method::POST, "/v1/postings", 200),
    (Method::GET, "/v1/postings/7", 200),
    (Method::GET, "/v1/postings/8", 200),
    (Method::GET, "/v1/postings/8", 200),
    (Method::GET, "/v1/postings/missing", 404),
    (Method::GET, "/v1/postings/8", 429),
    (Method::POST, "/v1/postings", 429),
];

/// Generates a key, sends [`REQUESTS`], opens the page of the key, and returns the request ids.
async fn used_key(pages: &Pages) -> Vec<String> {
    let secret = pages.generate("Courier", &[("Rate limit", "9/d")]).await;
    let mut ids = Vec::new();
    for (method, path, status) in REQUESTS {
        let response = pages.demo.call(method, path, &secret).await;
        assert_eq!(response.status, StatusCode::from_u16(status).unwrap());
        ids.push(response.header("x-request-id").unwrap().into());
    }
    pages.open_usage("Courier", REQUESTS.len() as u64).await;
    ids
}

fn ids(rows: &[Row]) -> BTreeSet<String> {
    rows.iter().map(|row| row["Request ID"].clone()).collect()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn each_filter_shows_exactly_the_matching_requests() {
    signed_in(async |pages: &Pages| {
        let sent = used_key(pages).await;
        assert_eq!(pages.logged().await, 11);
        type Matches = fn(usize) -> bool;
        let cases: [(&str, &str, Matches); 13] = [
            ("Resource ID", "8", |n| matches!(n, 6 | 7 | 9)),
            ("Status", "Completed", |n| n < 8),
            ("Status", "Failed", |n| n == 8),
            ("Status", "Rate limited", |n| n > 8),
            ("Cause", "Rate limited", |n| n > 8),
            ("Cause", "Client error", |n| n == 8),
            ("HTTP method", "POST", |n| matches!(n, 3 | 4 | 10)),
            ("API endpoint", "/v1/postings/{id}", |n| matches!(n, 5..=9)),
            ("Response status", "404", |n| n == 8),
            ("Response status", "2xx", |n| n < 8),
            ("Response status", "4xx", |n| n >= 8),
            ("Request ID", &sent[5], |n| n == 5),
            ("Resource ID", "nothing", |_| false),
        ];
        for (label, value, matches) in cases {
            pages.filter(label, value).await;
            let found = ids(&pages.log().await);
            let expected = (0..sent.len()).filter(|&n| matches(n));
            let expected: BTreeSet<_> = expected.map(|n| sent[n].clone()).collect();
            assert_eq!(found, expected, "{label}: {value}");
            assert_eq!(
                pages.logged().await,
                expected.len() as u64,
                "{label}: {value}"
            );
            // The filter is shown in the form and the URL, and can be cleared.
            let shown = pages.filtered_by(label).await.to_lowercase();
            assert_eq!(
                shown.replace('_', " "),
                value.to_lowercase().replace('_', " ")
            );
            let url = pages.url().await;
            assert!(
                url.query_pairs().any(|(_, it)| *it == shown || it == value),
                "{url}"
            );
            pages.clear_filters().await;
            assert_eq!(pages.logged().await, 11, "{label}: {value}");
            assert_eq!(ids(&pages.log().await).len(), 11);
        }
        // Combined filters.
        pages.filter("HTTP method", "GET").await;
        pages.filter("Response status", "4xx").await;
        assert_eq!(pages.logged().await, 2);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn an_invalid_filter_has_an_error() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        pages.filter("Response status", "9zz").await;
        pages.alert().await;
        let text = pages.text().await;
        assert!(text.contains("Enter a code such as 404"), "{text}");
        assert_eq!(pages.filtered_by("Response status").await, "9zz");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_link_with_filters_shows_the_same_rows_in_another_session() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        pages.filter("HTTP method", "POST").await;
        pages.filter("Status", "Completed").await;
        let (link, rows) = (pages.url().await, ids(&pages.log().await));
        assert_eq!(rows.len(), 2);
        elsewhere(pages, async |other: &Pages| {
            // Requires a session.
            other.go(link.as_str()).await;
            assert_eq!(other.heading().await, "Sign in");
            other.fill("Admin token", &other.demo.token).await;
            other.send("Sign in").await;
            assert_eq!(ids(&other.log().await), rows);
            assert_eq!(other.filtered_by("HTTP method").await, "POST");
        })
        .await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn chart_links_filter_the_log() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        for (chart, part, label, value, count) in [
            ("By HTTP method", "POST", "HTTP method", "POST", 3),
            (
                "By response status",
                "404 Not found",
                "Response status",
                "404",
                1,
            ),
            (
                "By response status",
                "429 Too many requests",
                "Response status",
                "429",
                2,
            ),
            ("By response status", "4xx", "Response status", "4xx", 3),
            (
                "Top endpoints",
                "/v1/postings/{id}",
                "API endpoint",
                "/v1/postings/{id}",
                5,
            ),
        ] {
            if part == "4xx" {
                pages.follow("Classes").await;
            }
            let mut numbers = pages.numbers(chart).await;
            numbers.remove("Total");
            assert_eq!(numbers[part], count, "{chart}");
            assert_eq!(numbers.values().sum::<u64>(), 11, "{chart}");
            if chart != "Top endpoints" {
                let [slices, labels] = pages.leads(chart).await;
                assert!(
                    !slices.is_empty() && slices == labels,
                    "{chart}: {slices:?}"
                );
            }
            pages.pick(chart, part).await;
            assert_eq!(pages.filtered_by(label).await, value, "{chart}");
            assert_eq!(pages.logged().await, count, "{chart}");
            pages.clear_filters().await;
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_choice_of_columns_is_remembered() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        let shown = async || -> Vec<String> { pages.log().await[0].keys().cloned().collect() };
        let default = shown().await;
        assert!(!default.contains(&"Path".into()) && default.contains(&"Endpoint".into()));
        pages
            .edit_columns(&["Path", "Latency", "Client IP", "Endpoint"])
            .await;
        let chosen = async || {
            let log = pages.log().await;
            let row = log
                .iter()
                .find(|row| row["Path"] == "/v1/postings/7")
                .unwrap();
            assert!(row["Latency"].ends_with("ms"), "{row:?}");
            assert_eq!(row["Client IP"], "127.0.0.1");
            assert!(!row.contains_key("Endpoint"), "{row:?}");
        };
        chosen().await;
        pages.reload().await;
        chosen().await;
        // Also on the page of another key.
        pages.open_key("Usage of", USED).await;
        assert!(pages.log().await[0].contains_key("Path"));
        pages
            .edit_columns(&["Path", "Latency", "Client IP", "Endpoint"])
            .await;
        assert_eq!(shown().await, default);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn exports_contain_the_filtered_requests() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        pages.filter("HTTP method", "POST").await;
        let rows = pages.log().await;
        let shown: Vec<_> = rows.iter().map(|row| &*row["Request ID"]).collect();
        assert_eq!(shown.len(), 3);

        let csv = pages.download("Export CSV").await;
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let lines = reader.deserialize().map(Result::unwrap);
        let lines: Vec<std::collections::HashMap<String, String>> = lines.collect();
        let exported: Vec<_> = lines.iter().map(|line| &*line["request_id"]).collect();
        assert_eq!(exported, shown);
        let statuses: Vec<_> = lines.iter().map(|line| &*line["status"]).collect();
        assert_eq!(statuses, ["429", "200", "200"]);
        assert!(lines.iter().all(|line| line["method"] == "POST"));
        assert!(lines.iter().all(|line| line["client_ip"] == "127.0.0.1"));

        let jsonl = pages.download("Export JSON Lines").await;
        let lines = jsonl
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines.collect();
        let exported: Vec<_> = lines.iter().map(request_id).collect();
        assert_eq!(exported, shown);
        assert!(lines.iter().all(|line| line["path"] == "/v1/postings"));
    })
    .await;
}

/// The request id: the event id by default.
fn request_id(event: &Value) -> &str {
    let given = event["request_id"].as_str();
    given.or(event["id"].as_str()).expect("an id")
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn older_links_cover_the_whole_log() {
    signed_in(async |pages: &Pages| {
        pages.open_key("Usage of", USED).await;
        let all = pages.logged().await;
        let newest = ids(&pages.log().await);
        let mut seen = newest.clone();
        let mut before = newest.len();
        while pages.has_link("Older").await {
            pages.follow("Older").await;
            let rows = ids(&pages.log().await);
            before += rows.len();
            seen.extend(rows);
        }
        assert_eq!((seen.len() as u64, before as u64), (all, all));
        assert!(seen.len() > newest.len(), "more than one page");
        pages.follow("Newest").await;
        assert_eq!(ids(&pages.log().await), newest);
    })
    .await;
}
