//! The request log: its filters, its columns, its pages and its exports.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::Value;

use crate::demo::USED;
use crate::journey::{elsewhere, signed_in};
use crate::pages::{Pages, Row};

/// What is asked for with a key that has nine requests a day.
const ASKED: [(Method, &str, u16); 11] = [
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

/// Makes a key, asks for all that, opens the key's usage, and answers the ids of the requests.
async fn used_key(pages: &Pages) -> Vec<String> {
    let secret = pages.generate("Courier", &[("Rate limits", "9/d")]).await;
    let mut ids = Vec::new();
    for (method, path, status) in ASKED {
        let answer = pages.demo.call(method, path, &secret).await;
        assert_eq!(answer.status, StatusCode::from_u16(status).unwrap());
        ids.push(answer.header("x-request-id").unwrap().into());
    }
    pages.open_usage("Courier", ASKED.len() as u64).await;
    ids
}

fn ids(rows: &[Row]) -> BTreeSet<String> {
    rows.iter().map(|row| row["Request ID"].clone()).collect()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn each_filter_shows_what_it_names_and_nothing_else() {
    signed_in(async |pages: &Pages| {
        let asked = used_key(pages).await;
        assert_eq!(pages.logged().await, 11);
        type Wanted = fn(usize) -> bool;
        let cases: [(&str, &str, Wanted); 11] = [
            ("Resource ID", "8", |n| matches!(n, 6 | 7 | 9)),
            ("Status", "Completed", |n| n < 8),
            ("Status", "Failed", |n| n == 8),
            ("Status", "Rate limited", |n| n > 8),
            ("HTTP method", "POST", |n| matches!(n, 3 | 4 | 10)),
            ("API endpoint", "/v1/postings/{id}", |n| matches!(n, 5..=9)),
            ("Response status", "404", |n| n == 8),
            ("Response status", "2xx", |n| n < 8),
            ("Response status", "4xx", |n| n >= 8),
            ("Request ID", &asked[5], |n| n == 5),
            ("Resource ID", "nothing", |_| false),
        ];
        for (label, value, wanted) in cases {
            pages.filter(label, value).await;
            let found = ids(&pages.log().await);
            let wanted = (0..asked.len()).filter(|&n| wanted(n));
            let wanted: BTreeSet<_> = wanted.map(|n| asked[n].clone()).collect();
            assert_eq!(found, wanted, "{label}: {value}");
            assert_eq!(
                pages.logged().await,
                wanted.len() as u64,
                "{label}: {value}"
            );
            // It stays in the form and in the address, and can be taken away.
            let said = pages.filtered_by(label).await.to_lowercase();
            assert_eq!(
                said.replace('_', " "),
                value.to_lowercase().replace('_', " ")
            );
            let url = pages.url().await;
            assert!(
                url.query_pairs().any(|(_, it)| *it == said || it == value),
                "{url}"
            );
            pages.clear_filters().await;
            assert_eq!(pages.logged().await, 11, "{label}: {value}");
            assert_eq!(ids(&pages.log().await).len(), 11);
        }
        // Several at once.
        pages.filter("HTTP method", "GET").await;
        pages.filter("Response status", "4xx").await;
        assert_eq!(pages.logged().await, 2);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn nonsense_in_a_filter_is_told() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        pages.filter("Response status", "9zz").await;
        pages.alert().await;
        let told = pages.text().await;
        assert!(told.contains("Enter a code such as 404"), "{told}");
        assert_eq!(pages.filtered_by("Response status").await, "9zz");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_link_with_filters_shows_the_same_rows_to_somebody_else() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        pages.filter("HTTP method", "POST").await;
        pages.filter("Status", "Completed").await;
        let (link, rows) = (pages.url().await, ids(&pages.log().await));
        assert_eq!(rows.len(), 2);
        elsewhere(pages, async |other: &Pages| {
            // Who has not signed in sees nothing of it.
            other.go(link.as_str()).await;
            assert_eq!(other.heading().await, "Sign in");
            other.sign_in().await;
            other.go(link.as_str()).await;
            assert_eq!(ids(&other.log().await), rows);
            assert_eq!(other.filtered_by("HTTP method").await, "POST");
        })
        .await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn what_is_clicked_in_a_chart_filters_the_log() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        for (chart, part, label, count) in [
            ("By HTTP method", "POST", "HTTP method", 3),
            ("By response status", "4xx", "Response status", 3),
            ("Top endpoints", "/v1/postings/{id}", "API endpoint", 5),
        ] {
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
            assert_eq!(pages.filtered_by(label).await, part, "{chart}");
            assert_eq!(pages.logged().await, count, "{chart}");
            pages.clear_filters().await;
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn columns_that_were_chosen_are_remembered() {
    signed_in(async |pages: &Pages| {
        used_key(pages).await;
        let shown = async || -> Vec<String> { pages.log().await[0].keys().cloned().collect() };
        let usual = shown().await;
        assert!(!usual.contains(&"Path".into()) && usual.contains(&"Endpoint".into()));
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
        // On the pages of another key, too.
        pages.open_key("Usage of", USED).await;
        assert!(pages.log().await[0].contains_key("Path"));
        pages
            .edit_columns(&["Path", "Latency", "Client IP", "Endpoint"])
            .await;
        assert_eq!(shown().await, usual);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn what_is_filtered_is_exported() {
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
        assert!(
            lines
                .iter()
                .all(|line| line["client_address"] == "127.0.0.1")
        );

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

/// The id on the wire: an event's own, unless it came with another.
fn request_id(event: &Value) -> &str {
    let given = event["request_id"].as_str();
    given.or(event["id"].as_str()).expect("an id")
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn older_pages_go_through_the_whole_log() {
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
