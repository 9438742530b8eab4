//! Tasks with the request log and the steps that they take.

use fantoccini::Locator;
use fantoccini::key::Key;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::demo::USED;
use crate::journey::{signed_in, with_sample};
use crate::keys::clipboard;
use crate::pages::{Pages, Row, until};

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn two_clicks_show_what_was_called_at_a_minute() {
    with_sample(async |pages: &Pages| {
        // A request of several hours ago.
        let to = Timestamp::now() - SignedDuration::from_hours(7);
        let log = pages
            .demo
            .manage(http::Method::GET, &format!("/log?limit=1&to={to}"), None)
            .await
            .json();
        let request = &log["items"][0];
        let time: Timestamp = request["time"].as_str().unwrap().parse().unwrap();
        pages.open("").await;
        let mut clicks = 0;
        for _ in 0..2 {
            clicks += 1;
            pages
                .leaving(async || click_column(pages, time).await)
                .await;
        }
        assert_eq!(clicks, 2);
        let shown = pages.log().await;
        let id = request["request_id"].as_str().unwrap();
        assert!(shown.iter().any(|row| row["Request ID"] == id), "{shown:?}");
        let minute = |time: Timestamp| time.as_second().div_euclid(60);
        for (at, ..) in pages.times().await {
            assert_eq!(minute(at), minute(time));
        }
    })
    .await;
}

/// Clicks the column of the chart over time that contains a time.
async fn click_column(pages: &Pages, time: Timestamp) {
    const CLICK: &str = "
        const time = Date.parse(arguments[0]);
        const link = [...document.querySelectorAll('.over-time .hits a')].find((it) => {
            const fields = new URL(it.href.baseVal, location).searchParams;
            return Date.parse(fields.get('since')) <= time && time < Date.parse(fields.get('until'));
        });
        link.scrollIntoView({ block: 'center' });
        const { left, right, top, bottom } = link.getBoundingClientRect();
        const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
        if (hit.closest('a') !== link) throw new Error('the column is covered by ' + hit.outerHTML);
        hit.dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true }));";
    pages.ask(CLICK, vec![json!(time.to_string())]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn one_click_filters_by_a_cell_and_another_removes_the_filter() {
    signed_in(async |pages: &Pages| {
        pages.open("/log").await;
        let all = pages.logged().await;
        let row = "return document.querySelector('td.method a[href*=POST]').closest('tr').rowIndex";
        let row = pages.ask(row, vec![]).await;
        for cell in ["method", "endpoint"] {
            let before = pages.logged().await;
            let link = format!("document.querySelector('td.{cell} a').click()");
            let first = format!(
                "document.querySelector('table.log').rows[{row}].querySelector('td.{cell} a').click()"
            );
            let link = if cell == "method" { first } else { link };
            pages.leaving(async || drop(pages.ask(&link, vec![]).await)).await;
            assert!(pages.logged().await <= before);
            let rows = pages.log().await;
            assert!(rows.iter().all(|row| row["Method"] == "POST"), "{rows:?}");
        }
        assert_eq!(pages.filtered_by("HTTP method").await, "POST");
        assert_eq!(pages.filtered_by("API endpoint").await, "/v1/postings");
        // The chips are links, which keyboards reach.
        for chip in ["HTTP method POST", "Endpoint /v1/postings"] {
            let link = pages.link(&format!("Remove filter {chip}")).await;
            pages
                .leaving(async || link.send_keys(&Key::Enter.to_string()).await.unwrap())
                .await;
        }
        assert_eq!(pages.logged().await, all);
    })
    .await;
}

/// A property of the element with the focus.
async fn focused(pages: &Pages, property: &str) -> Value {
    let focused = format!("return document.activeElement.{property}");
    pages.ask(&focused, vec![]).await
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn several_values_are_chosen_with_the_keyboard() {
    signed_in(async |pages: &Pages| {
        pages.open("/log").await;
        let summary = "document.querySelector('.several summary').focus()";
        pages.ask(summary, vec![]).await;
        let is_open = async || {
            let open = "return document.querySelector('.several details').open";
            pages.ask(open, vec![]).await == json!(true)
        };
        pages.press(Key::Enter).await;
        assert!(is_open().await);
        for value in ["completed", "failed"] {
            pages.press(Key::Tab).await;
            assert_eq!(focused(pages, "value").await, value);
            pages.press(Key::Space).await;
        }
        // Escape closes the menu and returns to its button.
        pages.press(Key::Escape).await;
        assert!(!is_open().await);
        let text = focused(pages, "innerText").await;
        assert!(
            text.as_str().unwrap().contains("Completed, Failed"),
            "{text}"
        );
        // It also closes when the focus moves on.
        pages.press(Key::Enter).await;
        for _ in 0..4 {
            pages.press(Key::Tab).await;
        }
        assert!(!is_open().await);
        pages.apply().await;
        assert_eq!(pages.filtered_by("Status").await, "completed,failed");
        let url = pages.url().await;
        let outcomes = url.query_pairs().filter(|(name, _)| name == "outcome");
        assert_eq!(outcomes.count(), 2, "{url}");
        let rows = pages.log().await;
        assert!(rows.iter().all(|row| row["Status"] != "rate limited"));
        // Codes and classes in one field.
        pages.filter("Response status", "404, 5xx").await;
        let rows = pages.log().await;
        let is_wanted = |row: &Row| row["Code"] == "404" || row["Code"].starts_with('5');
        assert!(!rows.is_empty() && rows.iter().all(is_wanted), "{rows:?}");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_request_has_a_page_of_its_own() {
    signed_in(async |pages: &Pages| {
        pages.open("/log?code=404").await;
        let id = pages.log().await[0]["Request ID"].clone();
        let short = pages.rows("Request ID").await[0]["Request ID"].clone();
        assert!(short.chars().count() <= 13, "{short}");
        let copy = Locator::Css("td.id button");
        let copy = pages.browser.client.find(copy).await.unwrap();
        copy.click().await.unwrap();
        until(async || clipboard(pages).await == id).await;
        // Milliseconds in times.
        let time = pages.rows("Request ID").await[0]["Time"].clone();
        let seconds = time.split(':').nth(2).unwrap();
        assert_eq!(seconds.as_bytes()[2], b'.', "{time}");
        let open = "document.querySelector('td.id a').focus()";
        pages.ask(open, vec![]).await;
        pages.leaving(async || pages.press(Key::Enter).await).await;
        let heading = pages.heading().await;
        assert!(heading.starts_with("GET /v1/postings"), "{heading}");
        let text = pages.text().await;
        assert!(text.contains("Not found.") && text.contains(&id), "{text}");
        pages.button("Copy as JSON").await.click().await.unwrap();
        until(async || clipboard(pages).await.starts_with('{')).await;
        let json: Value = serde_json::from_str(&clipboard(pages).await).unwrap();
        assert_eq!(
            (&json["request_id"], &json["status"]),
            (&json!(id), &json!("404"))
        );
        let event = json["id"].as_str().unwrap();
        assert!(pages.url().await.path().ends_with(event));
        pages.follow("Same minute").await;
        assert!(pages.log().await.iter().any(|row| row["Request ID"] == id));
        // The nav item of the log stays current.
        pages.open(&format!("/log/requests/{event}")).await;
        let current = "return document.querySelector('.top nav [aria-current]').textContent";
        assert_eq!(pages.ask(current, vec![]).await, "Request log");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_page_of_a_key_is_short_on_phones() {
    signed_in(async |pages: &Pages| {
        pages.open_key("Usage of", USED).await;
        let page = pages.url().await;
        let size = json!({ "width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": true });
        let resize = "Emulation.setDeviceMetricsOverride";
        pages.browser.devtools(resize, size).await;
        for query in ["", "?outcome=failed"] {
            pages.go(&format!("{page}{query}")).await;
            let height = "return document.documentElement.scrollHeight";
            let height = pages.ask(height, vec![]).await.as_u64().unwrap();
            assert!(height <= 3_500, "{query}: {height} pixels");
            assert_eq!(pages.log().await.len(), 20);
        }
        // Filters are folded, and unfold with the keyboard.
        let is_shown = async || {
            let shown = "return document.querySelector('#log form.filters').checkVisibility()";
            pages.ask(shown, vec![]).await == json!(true)
        };
        assert!(!is_shown().await);
        let summary = "document.querySelector('#log .fold > summary').focus()";
        pages.ask(summary, vec![]).await;
        pages.press(Key::Enter).await;
        assert!(is_shown().await);
        pages.filter("HTTP method", "POST").await;
        assert!(pages.text().await.contains("Filters ("));
        let clear = "Emulation.clearDeviceMetricsOverride";
        pages.browser.devtools(clear, json!({})).await;
        assert!(is_shown().await, "wide screens show the filters");
    })
    .await;
}
