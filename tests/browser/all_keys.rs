//! The overview, the request log of all keys, editing and revoking.

use http::StatusCode;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::demo::USED;
use crate::journey::signed_in;
use crate::pages::Pages;

/// The number of requests that the demo sends at startup.
const SEEDED: u64 = 400;

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_overview_covers_all_keys_and_links_to_their_requests() {
    signed_in(async |pages: &Pages| {
        let secret = pages.generate("Courier", &[("Rate limit", "2/d")]).await;
        for path in ["/v1/postings/7", "/v1/postings/none", "/v1/postings"] {
            pages.demo.get(path, &secret).await;
        }
        pages.open("").await;
        let all = SEEDED + 3;
        pages.until_counted(all).await;
        let parts = ["Completed", "Failed", "Rate limited"];
        let mut sum = 0;
        for part in parts {
            sum += pages.card(part).await;
        }
        assert_eq!(sum, all);

        let by_key = pages.numbers("Top keys").await;
        assert_eq!(by_key["Courier"], 3);
        assert_eq!(by_key.values().sum::<u64>(), all);
        for (chart, part, label, value) in [
            ("By HTTP method", "POST", "HTTP method", "POST"),
            (
                "By response status",
                "404 Not found",
                "Response status",
                "404",
            ),
            (
                "Top endpoints",
                "/v1/postings/{id}",
                "API endpoint",
                "/v1/postings/{id}",
            ),
        ] {
            pages.open("").await;
            let count = pages.numbers(chart).await[part];
            pages.pick(chart, part).await;
            assert_eq!(pages.heading().await, "Request log", "{chart}");
            assert_eq!(pages.filtered_by(label).await, value, "{chart}");
            assert_eq!(pages.logged().await, count, "{chart}");
        }
        pages.open("").await;
        pages.pick("Top keys", "Courier").await;
        assert_eq!(pages.card("Total requests").await, 3);
        assert_eq!(pages.logged().await, 3);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn another_key_can_be_chosen_with_the_same_filters() {
    signed_in(async |pages: &Pages| {
        let secret = pages.generate("Courier", &[]).await;
        for path in ["/v1/postings/7", "/v1/postings/none"] {
            pages.demo.get(path, &secret).await;
        }
        pages.open_usage("Courier", 2).await;
        let id = pages.filtered_by("API key").await;
        assert!(pages.url().await.path().ends_with(&id));
        pages.filter("Resource ID", "7").await;
        pages.filter("API key", "All keys").await;
        assert_eq!(pages.heading().await, "Request log");
        assert_eq!(pages.filtered_by("Resource ID").await, "7");
        assert_ne!(pages.filtered_by("Date from").await, "");
        assert!(pages.logged().await > 1);
        let courier = format!("Courier · demo_live_{}…", &id[..4]);
        pages.filter("API key", &courier).await;
        assert_eq!(pages.filtered_by("Resource ID").await, "7");
        assert_eq!(pages.logged().await, 1);

        pages.open_key("Usage of", USED).await;
        pages.filter("HTTP method", "GET").await;
        pages.filter("API key", &courier).await;
        assert!(pages.heading().await.starts_with("Courier"));
        assert_eq!(pages.filtered_by("HTTP method").await, "GET");
        assert_eq!(pages.logged().await, 2);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_log_of_all_keys_is_filtered_by_key_owner_and_time() {
    signed_in(async |pages: &Pages| {
        let secret = pages.generate("Courier", &[("Owner", "customer-5")]).await;
        for _ in 0..3 {
            pages.demo.get("/v1/postings", &secret).await;
        }
        pages.open_usage("Courier", 3).await;
        let url = pages.url().await;
        let id = url.path_segments().unwrap().next_back().unwrap();
        let courier = &*format!("Courier · demo_live_{}…", &id[..4]);
        pages.open("/log").await;
        let all = pages.logged().await;
        assert_eq!(all, SEEDED + 3);
        for (label, value, count) in [
            ("API key", courier, 3),
            ("Owner", "customer-5", 3),
            ("Owner", "customer-17", SEEDED),
            ("Owner", "customer-4", 0),
        ] {
            pages.filter(label, value).await;
            assert_eq!(pages.logged().await, count, "{label}: {value}");
            pages.clear_filters().await;
            assert_eq!(pages.logged().await, all);
        }
        // Rows show the key.
        assert_eq!(pages.log().await[0]["Key"], "Courier");

        let clock = |minutes| {
            let time = Timestamp::now() + SignedDuration::from_mins(minutes);
            let time = TimeZone::system().to_datetime(time);
            time.strftime("%Y-%m-%dT%H:%M").to_string()
        };
        for (label, minutes, count) in [
            ("Date from", -10, all),
            ("Date from", 10, 0),
            ("Date to", 10, all),
            ("Date to", -10, 0),
        ] {
            if label == "Date from" && minutes > 0 {
                pages.filter_time("Date to", &clock(20)).await;
            }
            pages.filter_time(label, &clock(minutes)).await;
            pages.apply().await;
            assert_eq!(
                pages.logged().await,
                count,
                "{label} {minutes} minutes from now"
            );
            pages.clear_filters().await;
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn edits_of_a_key_take_effect() {
    signed_in(async |pages: &Pages| {
        let fields = [("Owner", "customer-5"), ("Rate limit", "9/d")];
        let secret = pages.generate("Courier", &fields).await;
        assert_eq!(
            pages.demo.get("/v1/postings", &secret).await,
            StatusCode::OK
        );
        pages.open_key("Usage of", "Courier").await;
        pages.follow("Edit").await;
        pages.fill("Rate limit", "nonsense").await;
        pages.send("Save").await;
        pages.alert().await;
        pages.fill("Rate limit", "1/d").await;
        pages.fill("Name", "Carrier").await;
        pages.send("Save").await;
        assert!(pages.heading().await.contains("Carrier"));
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let status = pages.demo.get("/v1/postings", &secret).await;
            statuses.push(status.as_u16());
        }
        assert_eq!(statuses[1], 429, "{statuses:?}");
        pages.open("/keys").await;
        let rows = pages.rows("Owner").await;
        let row = rows.iter().find(|row| row["Name"] == "Carrier").unwrap();
        assert_eq!(row["Owner"], "customer-5");
        pages.open("/audit").await;
        assert_eq!(pages.rows("Actor").await[0]["Action"], "updated");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_revoked_key_is_rejected() {
    signed_in(async |pages: &Pages| {
        let secret = pages.generate("Courier", &[]).await;
        pages.open_key("Usage of", "Courier").await;
        pages.follow("Revoke").await;
        pages.send("Revoke").await;
        let status = pages.demo.get("/v1/postings", &secret).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        pages.open("/keys").await;
        assert!(!pages.has_link("Enable Courier").await);
        let rows = pages.rows("Owner").await;
        let row = rows.iter().find(|row| row["Name"] == "Courier").unwrap();
        assert_eq!(row["Status"], "revoked");
    })
    .await;
}
