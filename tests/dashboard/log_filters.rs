//! Filters of the request log with several values, parts and presets, and the links that set and remove them.

use http::StatusCode;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use keytally::key::{Actor, Key, KeyAdmin};
use keytally::usage::{Cause, Method, Outcome, RejectionReason, Status, UsageEvent};

use crate::log::found;
use crate::pages::{Answer, Pages};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// A key with twelve requests.
async fn filled() -> (Pages, Key) {
    let pages = Pages::new();
    let owned = |key: &mut Key| key.owner = Some("customer-17".into());
    let key = pages.key_with("Zapier", owned).await;
    let set = |n: u64, event: &mut UsageEvent| {
        event.id = uuid::Uuid::from_u128(u128::from(n) + 1);
        event.method = [Method::Get, Method::Post, Method::Delete][n as usize % 3];
        event.endpoint = ["/v1/postings", "/v1/postings/{id}"][n as usize % 2].into();
        event.path = format!("/v1/postings/{n}").into();
        event.resource_id = Some(format!("posting-{n}").into());
        event.client_ip = Some([203, 0, 113, n as u8 % 4].into());
        (event.status, event.outcome, event.cause) = match n % 6 {
            0 => (Status::Http(429), Outcome::RateLimited, None),
            1 => (Status::Http(503), Outcome::Failed, Some(Cause::ServerError)),
            2 => (Status::Http(403), Outcome::Failed, Some(Cause::Rejected)),
            _ => (Status::Http(200), Outcome::Completed, None),
        };
        event.rejection_reason = (n % 6 == 2).then_some(RejectionReason::ClientIp);
    };
    pages.requests(&key, 12, MINUTE * 10, set).await;
    (pages, key)
}

/// The links of the first cell of a class.
fn cell(page: &Answer, class: &str) -> String {
    let start = format!("<td class=\"{class}\"");
    let (_, cell) = page.text.split_once(&start).expect("a cell");
    let (_, href) = cell.split_once("href=\"").expect("a link");
    href.split('"').next().unwrap().replace("&amp;", "&")
}

/// The labels of the chips, and where they lead to.
fn chips(page: &Answer) -> Vec<(String, String)> {
    let chips = page.text.split("aria-label=\"Remove filter ").skip(1);
    let label = |chip: &str| chip.split('"').next().unwrap().to_owned();
    let starts = page.text.match_indices("aria-label=\"Remove filter ");
    let href = |(at, _): (usize, &str)| {
        let before = &page.text[..at];
        let (_, href) = before.rsplit_once("href=\"").unwrap();
        href.split('"').next().unwrap().replace("&amp;", "&")
    };
    chips.map(label).zip(starts.map(href)).collect()
}

#[tokio::test]
async fn fields_with_several_values_match_any_of_them() {
    let (pages, key) = filled().await;
    for (query, expected) in [
        ("code=429,5xx", 4),
        ("code=%20429%20,%205XX", 4),
        ("code=429&code=503,403", 6),
        ("code=429,429", 2),
        ("method=POST,DELETE", 8),
        ("method=post&method=get", 8),
        ("outcome=failed,rate_limited", 6),
        ("outcome=failed&outcome=completed&method=GET", 2),
        ("outcome=,", 12),
        ("client=203.0.113.1", 3),
        ("endpoint=POSTINGS", 12),
        ("endpoint=%7Bid", 6),
        // The name of an endpoint matches no others.
        ("endpoint=/v1/postings", 6),
        ("endpoint=/v1/postings/7", 6),
        ("endpoint=/v1/postings/7/lines", 0),
        ("endpoint=orders", 0),
    ] {
        for at in ["/admin/log".into(), format!("/admin/keys/{}", key.id)] {
            let response = pages.get(&format!("{at}?{query}")).await;
            assert_eq!(found(&response), expected, "{at}?{query}");
        }
        let file = pages.get(&format!("/admin/log/jsonl?{query}")).await;
        assert_eq!(file.text.lines().count(), expected, "{query}");
    }
    for (name, query) in [
        ("code", "code=429,9xx"),
        ("method", "method=GET,STEAL"),
        ("outcome", "outcome=failed,odd"),
        ("client", "client=localhost"),
    ] {
        let response = pages.get(&format!("/admin/log?{query}")).await;
        let (_, log) = response.text.split_once("id=\"log\"").unwrap();
        assert!(log.contains(&format!("id=\"{name}-wrong\"")), "{query}");
        assert!(
            log.contains("<details class=\"fold\" open data-open"),
            "{query}"
        );
        assert!(!log.contains("<tbody>"), "{query}");
        let file = pages.get(&format!("/admin/log/csv?{query}")).await;
        assert_eq!(file.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
}

#[tokio::test]
async fn known_endpoints_are_suggested() {
    let (pages, _) = filled().await;
    let page = pages.get("/admin/log").await.text;
    let (_, list) = page.split_once("<datalist id=\"endpoints\">").unwrap();
    let (list, _) = list.split_once("</datalist>").unwrap();
    let options: Vec<_> = list.split("value=\"").skip(1).collect();
    let options: Vec<_> = options.iter().map(|it| it.split('"').next()).collect();
    assert_eq!(options, [Some("/v1/postings"), Some("/v1/postings/{id}")]);
    assert!(page.contains("list=\"endpoints\""));
}

#[tokio::test]
async fn cells_filter_by_their_value_and_keep_other_filters() {
    let (pages, key) = filled().await;
    let all =
        "keytally_columns_all=id.when.key.method.endpoint.status.code.cause.owner.resource.client";
    let with_cookie = async |path: &str| {
        let request = http::Request::get(path)
            .header("authorization", format!("Bearer {}", crate::pages::TOKEN))
            .header("cookie", all);
        pages.ask(request.body(Default::default()).unwrap()).await
    };
    // The newest request that matches is the third of its kind: the ninth.
    let at = "/admin/log?code=403&after=&newer=";
    let page = with_cookie(at).await;
    for (class, name, value, count) in [
        ("key", "key", key.id.as_str(), 2),
        ("method", "method", "DELETE", 2),
        ("endpoint", "endpoint", "/v1/postings", 2),
        ("status", "outcome", "failed", 2),
        ("code", "code", "403", 2),
        ("cause", "cause", "client_ip", 2),
    ] {
        let href = cell(&page, class);
        let (href, place) = href.split_once('#').unwrap();
        assert_eq!(place, "log");
        let linked = pages.get(href).await;
        assert_eq!(found(&linked), count, "{href}");
        let query = href.split_once('?').unwrap().1;
        let fields: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        assert!(fields.contains(&(name.into(), value.into())), "{href}");
        assert!(fields.contains(&("code".into(), "403".into())), "{href}");
        assert!(!query.contains("after"), "{href}");
    }
    for (label, count) in [("Owner", 2), ("Resource ID", 1), ("Client IP", 1)] {
        let start = format!("data-label=\"{label}\"");
        let (_, found_cell) = page.text.split_once(&start).expect(label);
        let (_, href) = found_cell.split_once("href=\"").unwrap();
        let href = href.split(['"', '#']).next().unwrap().replace("&amp;", "&");
        assert_eq!(found(&pages.get(&href).await), count, "{label}: {href}");
    }
    // The time leads to the requests of its minute.
    let href = cell(&page, "when");
    let linked = pages.get(href.split('#').next().unwrap()).await;
    let labels: Vec<_> = chips(&linked).into_iter().map(|it| it.0).collect();
    assert_eq!(labels.len(), 3, "{labels:?}");
    assert_eq!(found(&linked), 2);
}

#[tokio::test]
async fn active_filters_are_shown_and_can_be_removed_one_by_one() {
    let (pages, key) = filled().await;
    assert_eq!(chips(&pages.get("/admin/log").await), []);
    let id = key.id;
    let query = format!(
        "key={id}&owner=custom&outcome=failed,completed&method=GET&method=POST&code=2xx&cause=&range=1h&endpoint=POST"
    );
    let page = pages.get(&format!("/admin/log?{query}")).await;
    let shown = chips(&page);
    let labels: Vec<_> = shown.iter().map(|it| &*it.0).collect();
    let key_label = format!("API key Zapier · {}", key.hint);
    let expected = [
        "Time 1 hour",
        &key_label,
        "Owner custom",
        "Status Failed",
        "Status Completed",
        "HTTP method GET",
        "HTTP method POST",
        "Endpoint POST",
        "Response status 2xx",
    ];
    assert_eq!(labels, expected);
    assert!(page.text.contains("Filters (9)"));
    // Each link removes one value.
    for (label, href) in &shown {
        let rest = pages.get(href.split('#').next().unwrap()).await;
        let rest: Vec<_> = chips(&rest).into_iter().map(|it| it.0).collect();
        let expected: Vec<_> = expected.iter().filter(|it| **it != label).collect();
        assert_eq!(rest.iter().collect::<Vec<_>>(), expected, "{label}");
    }
    // What the page fixes cannot be removed.
    let page = pages
        .get(&format!("/admin/keys/{id}?method=GET&range=1h"))
        .await;
    let labels: Vec<_> = chips(&page).into_iter().map(|it| it.0).collect();
    assert_eq!(labels, ["HTTP method GET"]);
    // Hostile and invalid values are shown as text.
    let page = pages
        .get("/admin/log?outcome=%3Cscript%3E&since=nonsense")
        .await;
    let labels: Vec<_> = chips(&page).into_iter().map(|it| it.0).collect();
    assert_eq!(labels, ["From nonsense", "Status &lt;script&gt;"]);
}

#[tokio::test]
async fn presets_select_times_up_to_now_and_whole_days() {
    let (pages, key) = filled().await;
    let now = Timestamp::now();
    let today = TimeZone::UTC.to_datetime(now).date();
    let midnight = |day: jiff::civil::Date| {
        let zoned = TimeZone::UTC.to_timestamp(day.to_datetime(jiff::civil::Time::midnight()));
        zoned.unwrap()
    };
    let yesterday = today.yesterday().unwrap();
    for time in [
        midnight(today),
        midnight(today) - SignedDuration::from_micros(1),
        midnight(yesterday),
        midnight(yesterday) - SignedDuration::from_micros(1),
    ] {
        let set = |_, event: &mut UsageEvent| {
            event.time = time;
            event.resource_id = Some("midnight".into());
        };
        pages.requests(&key, 1, MINUTE, set).await;
    }
    for (range, expected) in [("today", 1), ("yesterday", 2), ("nonsense", 4)] {
        let page = pages
            .get(&format!("/admin/log?resource=midnight&range={range}"))
            .await;
        assert_eq!(found(&page), expected, "{range}");
    }
    let page = pages.get("/admin/log?range=15m&method=GET").await;
    assert_eq!(found(&page), 4);
    let current = "aria-current=\"true\">15 minutes</a>";
    assert!(page.text.contains(current), "{}", page.text);
    // Presets replace the times and keep the other filters.
    let times = "since=2020-01-01T00:00&until=2020-01-02T00:00";
    let page = pages
        .get(&format!("/admin/log?{times}&method=GET&range=1h"))
        .await;
    assert_eq!(found(&page), 0);
    let linked = pages.get(&page.link("15 minutes")).await;
    assert_eq!(found(&linked), 4);
    // The frozen link has absolute times.
    let frozen = linked.link("Link to these rows");
    assert!(!frozen.contains("range="), "{frozen}");
    assert_eq!(found(&pages.get(&frozen).await), 4);
    // Pages of keys have the same ranges.
    let page = pages
        .get(&format!(
            "/admin/keys/{}?range=yesterday&resource=midnight",
            key.id
        ))
        .await;
    assert_eq!(found(&page), 2);
}

#[tokio::test]
async fn short_ranges_have_a_chart_that_leads_to_each_minute() {
    let (pages, _) = filled().await;
    let page = pages.get("/admin/log?range=1h").await;
    let (_, chart) = page.text.split_once("class=\"hits\"").expect("a chart");
    let (_, href) = chart.split_once("href=\"").unwrap();
    let href = href.split(['"', '#']).next().unwrap().replace("&amp;", "&");
    assert_eq!(found(&pages.get(&href).await), 12);
    for query in [
        "",
        "range=7d",
        "range=1h&method=GET",
        "range=1h&code=2xx",
        "range=1h&since=nonsense",
    ] {
        let page = pages.get(&format!("/admin/log?{query}")).await;
        assert!(!page.text.contains("class=\"hits\""), "{query}");
    }
}

#[tokio::test]
async fn csv_has_the_names_of_keys() {
    let (pages, zapier) = filled().await;
    let formula = pages.key("=1+1").await;
    let gone = pages.key("Gone").await;
    for key in [&formula, &gone] {
        pages.requests(key, 1, MINUTE, |_, _| ()).await;
    }
    pages.backend.delete(gone.id, Actor::SYSTEM).await.unwrap();
    for path in [
        "/admin/log/csv",
        "/admin/api/log/export/csv",
        "/admin/api/log/export/csv?after_cursor=0",
    ] {
        let csv = pages.get(path).await.text;
        let mut rows = csv::Reader::from_reader(csv.trim_start_matches('\u{feff}').as_bytes());
        let head = rows.headers().unwrap().clone();
        assert_eq!((&head[3], &head[4], &head[5]), ("key", "key_name", "owner"));
        let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 14);
        for row in rows {
            let expected = match &row[3] {
                id if id == zapier.id.as_str() => "Zapier",
                id if id == formula.id.as_str() => "'=1+1",
                _ => "",
            };
            assert_eq!(&row[4], expected, "{path}");
        }
    }
}
