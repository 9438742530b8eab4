//! Why requests failed: the causes on the pages, their links, and the cause in the log.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use keytally::key::Key;
use keytally::usage::{Cause, Outcome, RejectionReason, Status, UsageEvent};

use crate::pages::{Answer, Pages, without_links};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn fail(event: &mut UsageEvent, status: Status, reason: Option<RejectionReason>) {
    event.status = status;
    event.rejection_reason = reason;
    (event.outcome, event.cause) = match reason {
        Some(RejectionReason::RateLimited) => (Outcome::RateLimited, None),
        Some(_) => (Outcome::Failed, Some(Cause::Rejected)),
        None => Outcome::of(status),
    };
}

/// A status and a rejection reason for each cause, with the number of requests.
const FAILURES: [(Status, Option<RejectionReason>, u64, &str); 7] = [
    (Status::Http(404), None, 9, "Not found (404)"),
    (
        Status::Http(403),
        Some(RejectionReason::ClientIp),
        7,
        "Address not allowed",
    ),
    (
        Status::Http(401),
        Some(RejectionReason::Disabled),
        5,
        "Disabled",
    ),
    (Status::Http(500), None, 4, "Server error (500)"),
    (Status::Grpc(5), None, 3, "Not found (gRPC 5)"),
    (Status::None, None, 2, "Cancelled"),
    (
        Status::Http(403),
        Some(RejectionReason::Scope),
        1,
        "Scope missing",
    ),
];

/// A key of `customer-17` with all [`FAILURES`], rate-limited and completed requests, and a key of another owner.
async fn filled() -> (Pages, Key, Key) {
    let pages = Pages::new();
    let failing = |key: &mut Key| key.owner = Some("customer-17".into());
    let failing = pages.key_with("Failing", failing).await;
    for (status, reason, many, _) in FAILURES {
        let set = |_, event: &mut UsageEvent| fail(event, status, reason);
        pages.requests(&failing, many, MINUTE * 5, set).await;
    }
    let limited = Some(RejectionReason::RateLimited);
    let limit = |_, event: &mut UsageEvent| fail(event, Status::Http(429), limited);
    pages.requests(&failing, 20, MINUTE * 5, limit).await;
    pages.requests(&failing, 30, MINUTE * 5, |_, _| ()).await;
    let other = |key: &mut Key| key.owner = Some("customer-4".into());
    let other = pages.key_with("Other", other).await;
    let set = |_, event: &mut UsageEvent| fail(event, Status::Http(404), None);
    pages.requests(&other, 6, MINUTE * 5, set).await;
    (pages, failing, other)
}

/// Labels and counts of the bars of a panel, and the links of the labels.
fn bars(page: &Answer, title: &str) -> Vec<(String, u64, String)> {
    let (_, panel) = page
        .text
        .split_once(&format!("<caption>{title}</caption>"))
        .expect(title);
    let (_, rows) = panel.split_once("<tbody>").unwrap();
    let (rows, _) = rows.split_once("</tbody>").unwrap();
    let between = |text: &str, start: &str, end: &str| -> String {
        let (_, text) = text.split_once(start).unwrap_or_default();
        text.split(end)
            .next()
            .unwrap_or_default()
            .replace("&amp;", "&")
    };
    rows.split("</tr>")
        .filter(|row| row.contains("<bdi>"))
        .map(|row| {
            let count = between(row, "<td class=\"number\">", "<").replace(',', "");
            let href = between(row, "href=\"", "\"");
            let href = href.split('#').next().unwrap().to_owned();
            (between(row, "<bdi>", "<"), count.parse().unwrap(), href)
        })
        .collect()
}

/// The number of requests in the log of a page.
fn logged(page: &Answer) -> u64 {
    let (_, log) = page.text.split_once("id=\"log\"").unwrap();
    let (_, count) = log.split_once("<p>").unwrap();
    count.split(" request").next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn causes_add_up_to_the_failed_requests_and_lead_to_them() {
    let (pages, failing, _) = filled().await;
    for (path, others) in [
        ("/admin".to_owned(), 6),
        (format!("/admin/keys/{}", failing.id), 0),
    ] {
        let page = pages.get(&path).await;
        let causes = bars(&page, "Why requests failed");
        let expected = FAILURES.map(|(.., many, label)| {
            let many = if label == "Not found (404)" {
                many + others
            } else {
                many
            };
            (label.to_owned(), many)
        });
        let shown: Vec<_> = causes
            .iter()
            .map(|(label, many, _)| (label.clone(), *many))
            .collect();
        assert_eq!(shown, expected, "{path}");
        let sum: u64 = causes.iter().map(|(_, many, _)| many).sum();
        assert!(page.text.contains(&format!(">{sum}</a></p>")), "{path}");
        for (label, many, href) in &causes {
            let log = pages.get(href).await;
            assert_eq!(logged(&log), *many, "{path}: {label}");
        }
    }
}

#[tokio::test]
async fn without_failures_there_is_a_notice() {
    let pages = Pages::new();
    let key = pages.key("Fine").await;
    pages.requests(&key, 3, MINUTE, |_, _| ()).await;
    for path in ["/admin".to_owned(), format!("/admin/keys/{}", key.id)] {
        let page = pages.get(&path).await.text;
        assert!(
            page.contains("No failed requests in this period."),
            "{path}"
        );
    }
}

#[tokio::test]
async fn owners_with_failures_lead_to_their_causes() {
    let (pages, failing, other) = filled().await;
    let overview = pages.get("/admin").await;
    let owners = bars(&overview, "Failed requests by owner");
    let counts: Vec<_> = owners
        .iter()
        .map(|(owner, many, _)| (&**owner, *many))
        .collect();
    assert_eq!(counts, [("customer-17", 31), ("customer-4", 6)]);
    let log = pages.get(&owners[0].2).await;
    assert_eq!(logged(&log), 31);
    let (_, causes) = log.text.split_once("<ul class=\"causes\"").unwrap();
    let (causes, _) = causes.split_once("</ul>").unwrap();
    let mut shown = BTreeMap::new();
    for cause in causes.split("<li>").skip(1) {
        let (_, href) = cause.split_once("href=\"").unwrap();
        let (href, text) = href.split_once('"').unwrap();
        let (_, text) = text.split_once('>').unwrap();
        let (label, many) = text.split_once(" <b>").unwrap();
        let many: u64 = many.split('<').next().unwrap().parse().unwrap();
        let href = href.replace("&amp;", "&");
        let log = pages.get(href.split('#').next().unwrap()).await;
        assert_eq!(logged(&log), many, "{label}");
        // The cause is marked, and the others remain.
        assert_eq!(log.count("aria-current=\"true\""), 1, "{label}");
        assert_eq!(log.count("<li>"), FAILURES.len(), "{label}");
        shown.insert(label.to_owned(), many);
    }
    let expected = FAILURES.map(|(.., many, label)| (label.to_owned(), many));
    assert_eq!(shown, BTreeMap::from(expected));
    // Only if rollups can answer it, and for callers.
    for (query, is_shown) in [
        (format!("key={}", failing.id), true),
        ("owner=customer-4&cause=client_error".into(), true),
        ("owner=customer-17&method=GET".into(), false),
        ("owner=customer-17&endpoint=/v1/postings".into(), false),
        ("owner=customer-17&resource=1".into(), false),
        ("owner=customer-17&request=1".into(), false),
        ("owner=customer-17&outcome=completed".into(), false),
        ("owner=customer-17&code=odd".into(), false),
        ("owner=nobody".into(), false),
        ("outcome=failed".into(), false),
    ] {
        let log = pages.get(&format!("/admin/log?{query}")).await.text;
        assert_eq!(log.contains("Why requests failed"), is_shown, "{query}");
    }
    // The page of a key shows them above the log.
    let page = pages.get(&format!("/admin/keys/{}", other.id)).await;
    assert_eq!(page.count("<caption>Why requests failed</caption>"), 1);
    assert_eq!(page.count("class=\"causes\""), 0);
}

#[tokio::test]
async fn the_log_shows_the_cause_in_plain_words() {
    let (pages, failing, _) = filled().await;
    for path in [
        "/admin/log".to_owned(),
        format!("/admin/keys/{}", failing.id),
    ] {
        let log = pages.get(&format!("{path}?outcome=failed")).await.text;
        let log = without_links(&log);
        let (_, head) = log.split_once("<table class=\"log\"").unwrap();
        assert!(head.contains("<th scope=\"col\">Cause</th>"), "{head}");
        for cause in [
            "Address not allowed",
            "Not found",
            "Server error",
            "Cancelled",
            "Scope missing",
        ] {
            let cell = format!("<td class=\"cause\"><a>{cause}</a></td>");
            assert!(head.contains(&cell), "{cell} in {head}");
        }
        assert!(!head.contains("client_ip") && !head.contains("server_error"));
    }
    let completed = pages.get("/admin/log?outcome=completed").await;
    let none = "<td class=\"cause\"><span class=\"none\">–</span></td>";
    assert_eq!(completed.count(none), 30);
}

#[tokio::test]
async fn the_cause_filter_takes_causes_and_rejection_reasons() {
    let (pages, failing, _) = filled().await;
    for (query, expected) in [
        ("cause=rejected", 13),
        ("cause=client_ip", 7),
        ("cause=disabled&outcome=failed", 5),
        ("cause=client_error", 12),
        ("cause=client_error&code=grpc-5", 3),
        ("cause=rate_limited", 20),
        ("cause=cancelled", 2),
        ("cause=missing", 0),
    ] {
        let path = format!("/admin/keys/{}?{query}", failing.id);
        let page = pages.get(&path).await;
        assert_eq!(logged(&page), expected, "{query}");
        // The form shows it, and a change of the range keeps it.
        let value = query.split(['=', '&']).nth(1).unwrap();
        let option = format!("<option value=\"{value}\" selected>");
        assert!(page.text.contains(&option), "{query}");
        assert!(page.link("7 days").contains(&format!("cause={value}")));
        let csv = pages.get(&page.link("Export CSV")).await;
        assert_eq!(csv.text.lines().count() as u64, expected + 1, "{query}");
    }
    let odd = pages.get("/admin/log?cause=odd").await.text;
    assert!(odd.contains("id=\"cause-wrong\"") && !odd.contains("<tbody>"));
}
