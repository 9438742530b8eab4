//! The request log: filters, pagination and exports.

use axum::body::Body;
use http::header::{AUTHORIZATION, COOKIE};
use http::{Request, StatusCode};
use jiff::SignedDuration;
use keytally::key::Key;
use keytally::usage::{Cause, Method, Outcome, Status, UsageEvent};

use crate::pages::{Answer, Pages, TOKEN, without_links};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// Two keys with 120 requests, one per second.
async fn filled() -> (Pages, Key, Key) {
    let pages = Pages::new();
    let owned = |key: &mut Key| key.owner = Some("customer-17".into());
    let zapier = pages.key_with("Zapier", owned).await;
    let other = pages.key("Other").await;
    let set = |n: u64, event: &mut UsageEvent| {
        event.time += SignedDuration::from_secs(n.cast_signed());
        event.path = format!("/v1/postings/{n}").into();
        event.resource_id = Some(format!("posting-{n}").into());
        event.request_id = Some(format!("wire-{n}").into());
        match n % 10 {
            0 => event.method = Method::Post,
            1 => {
                event.status = Status::Http(404);
                event.outcome = Outcome::Failed;
                event.cause = Some(Cause::ClientError);
            }
            2 => {
                event.status = Status::Http(429);
                event.outcome = Outcome::RateLimited;
            }
            3 => event.endpoint = "/v1/reports".into(),
            _ => {}
        }
    };
    pages.requests(&zapier, 100, MINUTE * 10, set).await;
    pages
        .requests(&other, 20, MINUTE * 5, |_, event| {
            event.request_id = Some("wire-7".into());
        })
        .await;
    (pages, zapier, other)
}

pub(crate) fn found(response: &Answer) -> usize {
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    let numbers = response
        .text
        .split("<p>")
        .filter_map(|it| it.split_once(" request"));
    let mut numbers = numbers.filter_map(|(number, _)| number.parse().ok());
    numbers.next().expect("a number of requests")
}

#[tokio::test]
async fn every_filter_selects_the_matching_requests() {
    let (pages, zapier, other) = filled().await;
    let id = zapier.id;
    let other_id = other.id;
    for (query, expected) in [
        (String::new(), 120),
        ("resource=posting-7".into(), 1),
        (format!("key={id}"), 100),
        (format!("key={other_id}&method=GET"), 20),
        ("owner=customer-17".into(), 100),
        ("outcome=failed".into(), 10),
        ("outcome=rate_limited".into(), 10),
        ("outcome=completed".into(), 100),
        ("method=POST".into(), 10),
        ("method=post&outcome=completed".into(), 10),
        ("endpoint=%2Fv1%2Freports".into(), 10),
        ("code=404".into(), 10),
        ("code=4xx".into(), 20),
        ("code=4XX&outcome=failed".into(), 10),
        ("request=wire-7".into(), 21),
        (format!("request=wire-7&key={id}"), 1),
        ("since=2999-01-01T00:00&until=2999-01-02T00:00".into(), 0),
        ("until=2020-01-01T00:00:00Z".into(), 0),
        ("since=2020-01-01T00:00:00Z".into(), 120),
    ] {
        let response = pages.get(&format!("/admin/log?{query}")).await;
        assert_eq!(found(&response), expected, "{query}");
    }
    // The page of a key only has requests of the key.
    for (query, expected) in [
        ("", 100),
        ("method=POST", 10),
        ("request=wire-7", 1),
        ("range=15m&code=4xx", 20),
        ("range=custom&from=2020-01-01T00:00&to=2020-01-02T00:00", 0),
        // The time fields of the log override the range of the page.
        (
            "range=custom&from=2020-01-01T00:00&to=2020-01-02T00:00&until=2999-01-01T00:00",
            100,
        ),
    ] {
        let response = pages.get(&format!("/admin/keys/{id}?{query}")).await;
        assert_eq!(found(&response), expected, "{query}");
        let other = format!("key={id}&owner=nobody&{query}");
        let response = pages.get(&format!("/admin/keys/{id}?{other}")).await;
        assert_eq!(found(&response), expected, "{other}");
    }
}

#[tokio::test]
async fn an_invalid_filter_has_an_error_and_shows_no_requests() {
    let (pages, zapier, _) = filled().await;
    for (name, value) in [
        ("since", "yesterday"),
        ("since", "-009999-01-02T00:00:00Z"),
        ("until", "2026-13-01T00:00"),
        ("until", "0001-01-01T00:00"),
        ("outcome", "odd"),
        ("method", "STEAL"),
        ("code", "999999"),
        ("code", "7xx"),
        ("after", "nonsense"),
        ("after", "1.nonsense"),
    ] {
        let since = match name {
            "until" => "since=2020-01-01T00:00:00Z&",
            _ => "",
        };
        for at in [
            "/admin/log".to_owned(),
            format!("/admin/keys/{}", zapier.id),
        ] {
            let response = pages.get(&format!("{at}?{since}{name}={value}")).await;
            assert_eq!(response.status, StatusCode::OK);
            let (_, log) = response.text.split_once("id=\"log\"").unwrap();
            assert!(log.contains("role=\"alert\""), "{name}={value}");
            assert!(!log.contains("<tbody>"), "{name}={value}");
            let has_error = name == "after" || log.contains(&format!("id=\"{name}-wrong\""));
            assert!(has_error, "{name}={value} {log}");
        }
        let file = pages
            .get(&format!("/admin/log/csv?{since}{name}={value}"))
            .await;
        // Exports ignore the page token.
        let expected = match name {
            "after" => StatusCode::OK,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        assert_eq!(file.status, expected, "{name}={value}");
    }
    let response = pages.get("/admin/log?key=x").await;
    assert!(response.text.contains("id=\"key-wrong\""));
}

#[tokio::test]
async fn pagination_works_both_ways_and_is_stable() {
    let (pages, _, other) = filled().await;
    let first = pages.get("/admin/log?method=GET").await;
    assert_eq!((found(&first), first.count("<tr")), (110, 51));
    assert!(!first.text.contains(">Newer</a>"));
    let second = pages.get(&first.link("Older")).await;
    let third = pages.get(&second.link("Older")).await;
    assert_eq!((second.count("<tr"), third.count("<tr")), (51, 11));
    assert!(!third.text.contains(">Older</a>"));
    let rows = |response: &Answer| {
        let (_, rows) = response.text.split_once("<tbody>").unwrap();
        // Their links keep the filters of the page.
        without_links(rows.split_once("</tbody>").unwrap().0)
    };
    // Later requests are on none of these pages.
    pages
        .requests(&other, 9, -SignedDuration::from_secs(30), |_, _| ())
        .await;
    for (page, link, expected) in [
        (&third, "Newer", &second),
        (&second, "Newer", &first),
        (&third, "Newest", &first),
        (&second, "Link to these rows", &first),
        (&first, "Link to these rows", &first),
    ] {
        let linked = pages.get(&page.link(link)).await;
        assert_eq!(rows(&linked), rows(expected), "{link}");
        assert_eq!(found(&linked), 110, "{link}");
    }
}

#[tokio::test]
async fn exports_contain_the_filtered_requests() {
    let (pages, zapier, _) = filled().await;
    let of_key = format!("/admin/keys/{}?method=POST", zapier.id);
    for (path, expected) in [
        ("/admin/log?code=4xx", 20),
        (&of_key, 10),
        ("/admin/log", 120),
    ] {
        let page = pages.get(path).await;
        let csv = pages.get(&page.link("Export CSV")).await;
        assert_eq!(csv.text.lines().count(), expected + 1, "{path}");
        assert!(
            csv.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/csv")
        );
        assert_eq!(csv.headers["cache-control"], "no-store");
        let lines = pages.get(&page.link("Export JSON Lines")).await;
        assert_eq!(lines.text.lines().count(), expected, "{path}");
        assert!(
            lines
                .text
                .lines()
                .all(|line| serde_json::from_str::<UsageEvent>(line).is_ok())
        );
    }
    assert_eq!(
        pages.get("/admin/log/xlsx").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn times_in_a_url_are_in_the_zone_of_the_url() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let at = "2026-11-01T10:30:00Z".parse::<jiff::Timestamp>().unwrap();
    pages
        .requests(&key, 1, MINUTE, |_, event| event.time = at)
        .await;
    // Berlin is an hour ahead of UTC.
    let berlin = "since=2026-11-01T11:00&until=2026-11-01T12:00&zone=Europe%2FBerlin";
    assert_eq!(found(&pages.get(&format!("/admin/log?{berlin}")).await), 1);
    let utc = "since=2026-11-01T11:00&until=2026-11-01T12:00";
    assert_eq!(found(&pages.get(&format!("/admin/log?{utc}")).await), 0);
    // The form shows them in the browser's time zone.
    let page = pages.get(&format!("/admin/log?{berlin}")).await.text;
    assert!(page.contains("value=\"2026-11-01T10:00:00\""), "{page}");
}

#[tokio::test]
async fn errors_name_unknown_time_zones() {
    let pages = Pages::new();
    let local = "2026-11-01T11:00";
    for unknown in ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "CEST"] {
        let error = format!("Unknown time zone: {unknown}");
        for path in [
            format!("/admin/log?since={local}&zone={unknown}"),
            format!("/admin?range=custom&from={local}&zone={unknown}"),
        ] {
            let page = pages.get(&path).await;
            assert!(page.text.contains(&error), "{path}: {}", page.text);
        }
    }
    for (cookie, is_known) in [("Europe%2FBerlin", true), ("Mars%2FOlympus", false)] {
        let request = Request::get("/admin/keys")
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(COOKIE, format!("keytally_zone={cookie}"));
        let page = pages.ask(request.body(Body::empty()).unwrap()).await.text;
        let warns = page.contains("Times are shown in UTC");
        assert_eq!(warns, !is_known, "{page}");
        assert_eq!(page.contains("Mars/Olympus"), !is_known);
    }
}

#[tokio::test]
async fn chart_columns_link_to_their_requests() {
    let (pages, zapier, _) = filled().await;
    let of_key = format!("/admin/keys/{}?range=1h&method=POST", zapier.id);
    for (page, expected) in [("/admin?range=1h", 120), (&of_key, 10)] {
        let page = pages.get(page).await;
        let (_, chart) = page.text.split_once("class=\"hits\"").unwrap();
        let (chart, _) = chart.split_once("</svg>").unwrap();
        let mut sum = 0;
        for link in chart.split("href=\"").skip(1) {
            let href = link.split('"').next().unwrap().replace("&amp;", "&");
            let (href, place) = href.split_once('#').unwrap();
            assert_eq!(place, "log");
            sum += found(&pages.get(href).await);
        }
        assert_eq!(sum, expected);
    }
}
