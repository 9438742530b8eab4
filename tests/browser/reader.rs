//! Time zones of the browser, and pages without JavaScript.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::browser::Scripts;
use crate::demo::USED;
use crate::journey::{signed_in, visitor};
use crate::pages::Pages;

/// UTC+05:45, which differs from the system's time zone even in minutes.
const ZONE: &str = "Asia/Kathmandu";

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn times_are_local_with_utc_in_the_tooltip() {
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
        for (time, text, tooltip) in times.into_iter().chain(changes) {
            let local = zone
                .to_datetime(time)
                .strftime("%-d, %Y, %-I:%M")
                .to_string();
            assert!(text.contains(&local), "{text:?} is not {local}");
            assert!(tooltip.ends_with('Z'), "{tooltip}");
            assert_eq!(tooltip.parse::<Timestamp>().unwrap(), time);
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn entered_times_are_local() {
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

/// Sets the browser's time zone, and returns it.
async fn in_kathmandu(pages: &Pages) -> TimeZone {
    let zone = json!({ "timezoneId": ZONE });
    pages
        .browser
        .devtools("Emulation.setTimezoneOverride", zone)
        .await;
    // Sets the cookie with the time zone for the next page.
    pages.open("/keys").await;
    TimeZone::get(ZONE).unwrap()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn pages_work_without_javascript() {
    visitor(Scripts::Off, async |pages: &Pages| {
        let demo = &pages.demo;
        pages.sign_in().await;
        let first = pages.generate("Courier", &[("Rate limit", "3/d")]).await;
        // Copy buttons are hidden.
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
        pages.edit_columns(&["Path", "Endpoint"]).await;
        pages.apply_columns().await;
        assert_eq!(pages.filtered_by("Status").await, "completed");
        let log = pages.log().await;
        assert_eq!(log[0]["Path"], "/v1/postings/7");
        assert!(!log[0].contains_key("Endpoint"), "{log:?}");
        // Without the script, times are in UTC.
        for (time, text, tooltip) in pages.times().await {
            let clocks = [
                "%Y-%m-%d %H:%M:%S%.3f UTC",
                "%Y-%m-%d %H:%M:%S UTC",
                "%Y-%m-%d %H:%M UTC",
            ];
            let clocks = clocks.map(|clock| time.strftime(clock).to_string());
            assert!(clocks.contains(&text), "{text} is none of {clocks:?}");
            assert_eq!(tooltip.parse::<Timestamp>().unwrap(), time);
        }
        let csv = pages.download("Export CSV").await;
        assert_eq!(csv.lines().count(), 4, "{csv}");
        pages
            .pick("By response status", "429 Too many requests")
            .await;
        assert_eq!(pages.filtered_by("Response status").await, "429");
        pages.clear_filters().await;

        pages.open_key("Usage of", USED).await;
        let newest = pages.log().await;
        pages.follow("Older").await;
        assert_ne!(pages.log().await, newest);

        let second = pages.rotate("Courier", "1 hour").await;
        assert_ne!(first, second);
        pages.open_key("Disable", USED).await;
        pages.send("Disable").await;
        assert!(pages.text().await.contains("PowerAutomate was disabled."));
        pages.send("Undo").await;
        assert!(pages.text().await.contains("PowerAutomate was enabled."));
        assert_eq!(pages.heading().await, "API keys");
        pages.open_key("Delete", USED).await;
        pages.fill("Key name", USED).await;
        pages.send("Delete").await;
        assert!(pages.text().await.contains("PowerAutomate was deleted."));
        pages.reload().await;
        assert!(!pages.text().await.contains(USED));
        // The new key is valid, and shares the exhausted rate limit of the old one.
        assert_eq!(demo.get("/v1/postings", &second).await, 429);
    })
    .await;
}
