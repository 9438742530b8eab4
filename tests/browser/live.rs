//! Live updates of pages.

use http::Method;
use serde_json::{Value, json};

use crate::browser::Scripts;
use crate::demo::USED;
use crate::journey::{signed_in, visitor};
use crate::pages::Pages;
use crate::until::until;

/// The rows of the log as request ids, newest first.
const ROWS: &str =
    "return [...document.querySelectorAll('table.log tbody tr')].map((row) => row.dataset.row)";

async fn rows(pages: &Pages) -> Vec<Value> {
    pages.ask(ROWS, vec![]).await.as_array().unwrap().clone()
}

async fn is_on(pages: &Pages) -> bool {
    let checked = "return document.querySelector('button.live').getAttribute('aria-checked')";
    pages.ask(checked, vec![]).await == "true"
}

/// Makes the script poll at once, as when a tab is shown again.
async fn poll(pages: &Pages) {
    pages
        .ask(
            "document.dispatchEvent(new Event('visibilitychange'))",
            vec![],
        )
        .await;
}

/// Calls the API until the requests are recorded, with a new key. Returns the secret.
async fn call(pages: &Pages, secret: &str, times: usize) {
    for _ in 0..times {
        pages
            .demo
            .call(Method::GET, "/v1/postings/live", secret)
            .await;
    }
}

async fn secret_of(pages: &Pages) -> String {
    let key = json!({ "name": "Live", "owner": "customer-9" });
    let issued = pages.demo.manage(Method::POST, "/keys", Some(key)).await;
    issued.json()["secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn new_rows_appear_without_a_change_of_focus_or_scroll_position() {
    signed_in(async |pages: &Pages| {
        let secret = secret_of(pages).await;
        pages.open("/log").await;
        assert!(is_on(pages).await);
        let before = rows(pages).await;
        assert_eq!(before.len(), 50);
        // The focus is on a link of the log, in the middle of the window.
        let focus = "
            const link = document.querySelectorAll('table.log tbody tr')[20].querySelector('a');
            link.focus();
            link.scrollIntoView({ block: 'center' });
            window.focused = link;
            return [link.closest('tr').dataset.row, Math.round(link.getBoundingClientRect().top)];
        ";
        let focused = pages.ask(focus, vec![]).await;
        call(pages, &secret, 3).await;
        until(async || {
            poll(pages).await;
            rows(pages).await[3..] == before[..47]
        })
        .await;
        let state = "
            const link = document.activeElement;
            const announced = [...document.querySelectorAll('[role=status]')].map((it) => it.textContent);
            return [
                link === window.focused, link.closest('tr')?.dataset.row,
                Math.round(link.getBoundingClientRect().top), announced.join(),
            ];
        ";
        let state = pages.ask(state, vec![]).await;
        assert_eq!((&state[0], &state[1]), (&json!(true), &focused[0]));
        let moved = state[2].as_i64().unwrap() - focused[1].as_i64().unwrap();
        assert!(moved.abs() <= 2, "the row moved by {moved} pixels");
        let announced = state[3].as_str().unwrap();
        assert!(announced.contains("new request"), "{announced}");
        // New rows look like the others: their times are in the browser's format.
        let times = "
            return [...document.querySelectorAll('table.log time')].every((time) => !time.textContent.endsWith('UTC'))
        ";
        assert_eq!(pages.ask(times, vec![]).await, true);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn tables_follow_while_they_have_the_focus_to_be_scrolled() {
    signed_in(async |pages: &Pages| {
        let secret = secret_of(pages).await;
        pages.open("/owners?range=1h").await;
        let focus = "
            window.region = document.querySelector('.scroll');
            window.region.focus();
            return document.activeElement === window.region;
        ";
        assert_eq!(pages.ask(focus, vec![]).await, true);
        call(pages, &secret, 3).await;
        let count = "
            const rows = [...document.querySelectorAll('tbody tr')];
            const row = rows.find((row) => row.cells[0].textContent.includes('customer-9'));
            return [row?.querySelector('[data-label=Requests]').textContent, document.activeElement === window.region];
        ";
        until(async || {
            poll(pages).await;
            pages.ask(count, vec![]).await == json!(["3", true])
        })
        .await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn cards_and_charts_follow_and_what_is_open_stays_open() {
    signed_in(async |pages: &Pages| {
        let secret = secret_of(pages).await;
        for path in ["?range=1h", "/owners/customer-9?range=1h"] {
            pages.open(path).await;
            let before = pages.card("Total requests").await;
            let open = "
                const details = document.querySelector('.chart.over-time details');
                details.open = true;
                details.querySelector('summary').focus();
                window.table = details;
            ";
            pages.ask(open, vec![]).await;
            call(pages, &secret, 7).await;
            until(async || {
                poll(pages).await;
                pages.card("Total requests").await == before + 7
            })
            .await;
            let kept = "
                const summary = document.activeElement;
                return summary.tagName === 'SUMMARY' && summary.parentElement === window.table && window.table.open;
            ";
            assert_eq!(pages.ask(kept, vec![]).await, true);
            // Once the focus has left, the chart follows too.
            pages.ask("document.activeElement.blur()", vec![]).await;
            call(pages, &secret, 1).await;
            let total = "
                const rows = document.querySelectorAll('.chart.over-time tbody tr');
                const total = [...rows].find((row) => row.cells[0].textContent === 'Total');
                return total.cells[1].textContent;
            ";
            until(async || {
                poll(pages).await;
                pages.ask(total, vec![]).await.as_str() == Some(&*(before + 8).to_string())
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_switch_works_by_keyboard_and_stops_polls() {
    signed_in(async |pages: &Pages| {
        let secret = secret_of(pages).await;
        pages.open_usage(USED, 266).await;
        assert!(is_on(pages).await);
        let log = pages.rows("Request ID").await;
        assert!(!log.is_empty());
        pages
            .ask("document.querySelector('button.live').focus()", vec![])
            .await;
        pages.press(fantoccini::key::Key::Space).await;
        assert!(!is_on(pages).await);
        pages.browser.requests().await;
        call(pages, &secret, 1).await;
        poll(pages).await;
        // Another request ends after a poll would have begun.
        pages
            .ask(
                "return fetch('/admin/assets/icon.svg').then((it) => it.status)",
                vec![],
            )
            .await;
        let sent = pages.browser.requests().await;
        let sent: Vec<_> = sent.iter().map(|it| &it["request"]["url"]).collect();
        assert!(
            sent.iter()
                .all(|url| url.as_str().unwrap().ends_with("icon.svg")),
            "{sent:?}"
        );
        // The choice is kept for the tab.
        pages.open("/log").await;
        assert!(!is_on(pages).await);
        pages.press(fantoccini::key::Key::Tab).await;
        let first = rows(pages).await;
        call(pages, &secret, 1).await;
        pages
            .ask("document.querySelector('button.live').click()", vec![])
            .await;
        assert!(is_on(pages).await);
        until(async || {
            poll(pages).await;
            rows(pages).await[0] != first[0]
        })
        .await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn hidden_tabs_do_not_poll_and_ranges_of_the_past_are_off() {
    signed_in(async |pages: &Pages| {
        pages.open("/log").await;
        let hide = "
            Object.defineProperty(document, 'hidden', { value: arguments[0], configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
            return fetch('/admin/assets/icon.svg').then((it) => it.status);
        ";
        pages.browser.requests().await;
        pages.ask(hide, vec![json!(true)]).await;
        let polls = async || {
            let sent = pages.browser.requests().await;
            let is_poll = |it: &&Value| it["request"]["url"].as_str().unwrap().ends_with("/log");
            sent.iter().filter(is_poll).count()
        };
        assert_eq!(polls().await, 0);
        pages.ask(hide, vec![json!(false)]).await;
        until(async || polls().await == 1).await;
        pages
            .open("?range=custom&from=2026-11-01T10:00:00Z&to=2026-11-01T11:00:00Z")
            .await;
        assert!(!is_on(pages).await);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn polls_stop_when_the_session_has_ended() {
    signed_in(async |pages: &Pages| {
        pages.open("/log").await;
        let status = "document.cookie = 'unrelated=1'; return location.pathname";
        assert_eq!(pages.ask(status, vec![]).await, "/admin/log");
        pages.browser.client.delete_all_cookies().await.unwrap();
        until(async || {
            poll(pages).await;
            !is_on(pages).await
        })
        .await;
        let text = "return document.querySelector('button.live').title";
        let title = pages.ask(text, vec![]).await;
        assert_eq!(title, "Live updates stopped. Reload the page.");
        assert_eq!(rows(pages).await.len(), 50);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn without_scripts_there_is_no_switch() {
    visitor(Scripts::Off, async |pages: &Pages| {
        pages.sign_in().await;
        pages.open("/log").await;
        assert!(!pages.text().await.contains("Live"));
    })
    .await;
}
