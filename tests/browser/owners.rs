//! Owners: who sends the most requests, and billing them.

use http::Method;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::journey::{signed_in, with_sample};
use crate::pages::Pages;

/// Resizes the window to that of a small laptop.
async fn resize(pages: &Pages) {
    let size = json!({ "width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": false });
    let resize = "Emulation.setDeviceMetricsOverride";
    pages.browser.devtools(resize, size).await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_top_keys_and_owners_are_above_the_fold_of_the_overview() {
    with_sample(async |pages: &Pages| {
        resize(pages).await;
        // No click and no scrolling.
        pages.open("?range=30d").await;
        for (chart, first, least) in [("Top keys", "Career site", 5), ("Top owners", "acme", 4)] {
            const PLACE: &str = "
                const caption = [...document.querySelectorAll('caption')]
                    .find((it) => it.textContent.trim() === arguments[0]);
                const rows = [...caption.closest('table').tBodies[0].rows];
                return [scrollY, rows.at(-1).getBoundingClientRect().bottom, rows[0].innerText];";
            let place = pages.ask(PLACE, vec![json!(chart)]).await;
            assert_eq!(place[0], 0);
            let bottom = place[1].as_f64().unwrap();
            assert!(bottom <= 800.0, "{chart} ends at {bottom}");
            // With its share.
            let row = place[2].as_str().unwrap();
            assert!(row.contains(first) && row.contains('%'), "{chart}: {row}");
            let numbers = pages.numbers(chart).await;
            assert!(numbers.len() >= least, "{chart}: {numbers:?}");
            assert_eq!(numbers.values().max(), Some(&numbers[first]), "{chart}");
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn an_owner_is_billed_for_a_month_in_two_clicks() {
    with_sample(async |pages: &Pages| {
        resize(pages).await;
        pages.open("?range=30d").await;
        let zone = "return Intl.DateTimeFormat().resolvedOptions().timeZone";
        let zone = pages.ask(zone, vec![]).await;
        let zone = zone.as_str().unwrap();
        let now = TimeZone::get(zone).unwrap().to_datetime(Timestamp::now());
        let last = now.date().first_of_month().yesterday().unwrap();
        let mut clicks = 0;
        // The page of the owner, and the file of a month.
        pages.pick("Top owners", "acme").await;
        clicks += 1;
        assert_eq!(pages.heading().await, "acme");
        let text = pages.text().await;
        assert!(text.contains(&format!("Calendar months in {zone}.")));
        let file = pages
            .download(&format!("{} CSV", last.strftime("%B %Y")))
            .await;
        clicks += 1;
        assert!(clicks <= 2, "{clicks}");

        let query = format!("month={}&zone={zone}", last.strftime("%Y-%m"));
        let path = format!("/usage/by-owner?{query}");
        let month = pages.demo.manage(Method::GET, &path, None).await.json();
        let owners = month["owners"].as_array().unwrap();
        let acme = owners.iter().find(|owner| owner["owner"] == "acme");
        let mut reader = csv::Reader::from_reader(file.trim_start_matches('\u{feff}').as_bytes());
        let heads = reader.headers().unwrap().clone();
        let total = reader.records().map(Result::unwrap).last().unwrap();
        assert_eq!(total[4], *"Total");
        for (head, name) in [
            ("requests", "total"),
            ("completed", "completed"),
            ("failed", "failed"),
            ("rate_limited", "rate_limited"),
            ("cost", "cost"),
            ("billable_cost", "billable_cost"),
        ] {
            let expected = acme.map_or(0, |acme| acme["totals"][name].as_u64().unwrap());
            let column = heads.iter().position(|it| it == head).unwrap();
            assert_eq!(total[column], expected.to_string(), "{head}");
        }
        let billed = acme.map_or(0, |acme| acme["totals"]["billable_cost"].as_u64().unwrap());
        // The rows of the page add up to its total.
        let rows = pages.rows("Billable cost").await;
        let cost = |text: &str| text.replace(',', "").parse::<u64>().unwrap();
        let sum: u64 = rows.iter().map(|row| cost(&row["Billable cost"])).sum();
        let total = "return document.querySelector('#months tfoot [data-label=\"Billable cost\"]').innerText";
        let total = pages.ask(total, vec![]).await;
        assert_eq!(sum, cost(total.as_str().unwrap()));
        // At the turn of a month, one of them has no sample data.
        assert!(sum + billed > 0);
        // All owners take two clicks as well.
        pages.follow("Owners").await;
        let file = pages
            .download(&format!("{} CSV", now.strftime("%B %Y")))
            .await;
        for owner in ["acme", "globex", "hooli", "initech"] {
            assert!(file.contains(&format!(",\"{owner}\",")), "{file}");
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn owners_with_odd_names_are_reached_by_clicks() {
    signed_in(async |pages: &Pages| {
        for (n, owner) in ["..", "a/b", "~", "100 % & more? #1", "'><b>"]
            .into_iter()
            .enumerate()
        {
            let secret = pages
                .generate(&format!("Key {n}"), &[("Owner", owner)])
                .await;
            for _ in 0..=n {
                pages.demo.get("/v1/postings", &secret).await;
            }
            pages.open_usage(&format!("Key {n}"), n as u64 + 1).await;
            pages.follow(owner).await;
            assert_eq!(pages.heading().await, owner);
            assert_eq!(pages.card("Total requests").await, n as u64 + 1);
            assert_eq!(pages.logged().await, n as u64 + 1);
            // Filters keep the owner.
            pages.filter("HTTP method", "GET").await;
            assert_eq!(pages.heading().await, owner);
            assert_eq!(pages.logged().await, n as u64 + 1);
            pages.filter("HTTP method", "PUT").await;
            assert_eq!(pages.logged().await, 0);
        }
    })
    .await;
}
