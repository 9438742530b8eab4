//! Where the reader is, and what the reader's browser can do.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::browser::Scripts;
use crate::demo::USED;
use crate::journey::{signed_in, visitor};
use crate::pages::Pages;

/// Five hours and three quarters before UTC: no clock here can be taken for one there.
const ZONE: &str = "Asia/Kathmandu";

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn times_are_the_readers_and_utc_is_told_on_hover() {
    signed_in(async |pages: &Pages| {
        let zone = in_kathmandu(pages).await;
        let secret = pages.generate("Courier", &[]).await;
        let before = Timestamp::now() - SignedDuration::from_millis(1);
        pages.demo.get("/v1/postings", &secret).await;
        let after = Timestamp::now();
        pages.open_usage("Courier", 1).await;
        let times = pages.times().await;
        assert!(
            times
                .iter()
                .any(|(time, ..)| before < *time && *time < after),
            "{times:?}"
        );
        pages.open("/audit").await;
        let changes = pages.times().await;
        assert!(changes.len() >= 4, "{changes:?}");
        for (time, seen, hover) in times.into_iter().chain(changes) {
            let clock = zone
                .to_datetime(time)
                .strftime("%-d, %Y, %-I:%M")
                .to_string();
            assert!(seen.contains(&clock), "{seen:?} is not {clock}");
            assert!(hover.ends_with('Z'), "{hover}");
            assert_eq!(hover.parse::<Timestamp>().unwrap(), time);
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn times_that_are_typed_are_the_readers() {
    signed_in(async |pages: &Pages| {
        let zone = in_kathmandu(pages).await;
        let secret = pages.generate("Courier", &[]).await;
        pages.demo.get("/v1/postings", &secret).await;
        pages.open_usage("Courier", 1).await;
        let around = |zone: &TimeZone| {
            let minutes = [-10, 10].map(SignedDuration::from_mins);
            let now = Timestamp::now();
            minutes.map(|it| {
                zone.to_datetime(now + it)
                    .strftime("%Y-%m-%dT%H:%M")
                    .to_string()
            })
        };
        for (zone, count) in [(&zone, 1), (&TimeZone::UTC, 0), (&zone, 1)] {
            let [from, to] = around(zone);
            pages.show_between(&from, &to).await;
            assert_eq!(pages.card("Total requests").await, count, "{from} to {to}");
            assert_eq!(pages.logged().await, count, "{from} to {to}");
        }
    })
    .await;
}

/// Takes the reader there, and answers that zone.
async fn in_kathmandu(pages: &Pages) -> TimeZone {
    let there = json!({ "timezoneId": ZONE });
    pages
        .browser
        .devtools("Emulation.setTimezoneOverride", there)
        .await;
    // From the next page on, the server knows.
    pages.open("/keys").await;
    TimeZone::get(ZONE).unwrap()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn all_but_conveniences_works_without_scripts() {
    visitor(Scripts::Off, async |pages: &Pages| {
        let demo = &pages.demo;
        pages.sign_in().await;
        let first = pages.generate("Courier", &[("Rate limits", "3/d")]).await;
        // A button that could do nothing is not there.
        assert_eq!(pages.buttons("Copy").await, 0);
        for status in [200, 200, 200, 429] {
            assert_eq!(demo.get("/v1/postings/7", &first).await, status);
        }
        pages.open_usage("Courier", 4).await;
        assert_eq!(pages.card("Rate limited").await, 1);
        pages.filter("Status", "Completed").await;
        assert_eq!(pages.logged().await, 3);
        let log = pages.log().await;
        assert_eq!(log.len(), 3);
        assert!(
            log[0].contains_key("Endpoint") && !log[0].contains_key("Path"),
            "{log:?}"
        );
        assert!(!pages.text().await.contains("Edit columns"));
        // Without the script, nobody knows where the reader is.
        for (time, seen, hover) in pages.times().await {
            assert_eq!(seen, time.strftime("%Y-%m-%d %H:%M").to_string());
            assert_eq!(hover.parse::<Timestamp>().unwrap(), time);
        }
        let csv = pages.download("Export CSV").await;
        assert_eq!(csv.lines().count(), 4, "{csv}");
        pages.pick("By response status", "4xx").await;
        assert_eq!(pages.filtered_by("Response status").await, "4xx");
        pages.clear_filters().await;

        pages.open_key("Usage of", USED).await;
        let newest = pages.log().await;
        pages.follow("Older").await;
        assert_ne!(pages.log().await, newest);

        let second = pages.rotate("Courier", "1 hour").await;
        assert_ne!(first, second);
        pages.open_key("Disable", USED).await;
        pages.send("Disable").await;
        pages.open_key("Enable", USED).await;
        pages.open_key("Delete", USED).await;
        pages.fill("Key name", USED).await;
        pages.send("Delete").await;
        assert!(!pages.text().await.contains(USED));
        // It is let in, and has what is left of the old one's limit.
        assert_eq!(demo.get("/v1/postings", &second).await, 429);
    })
    .await;
}
