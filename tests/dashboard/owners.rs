//! Owners: their list, their pages, and files to bill them.

use axum::Router;
use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use keytally::KeyId;
use keytally::backend::{MemoryBackend, MemoryConfig};
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Actor, Key, KeyAdmin};
use keytally::usage::{Batch, Cause, Outcome, UsageEvent, UsageSink};
use serde_json::{Value, json};

use crate::pages::{Answer, Pages, TOKEN, encoded};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// Owners that are hard to put into a path, markup or file name.
pub(crate) fn odd_owners() -> Vec<String> {
    let short = [
        "customer-17",
        " spaced  out ",
        " ",
        "a/b//c",
        "/",
        "..",
        ".",
        "../../admin",
        "~",
        "~..",
        "csv",
        "a+b%2Fc%",
        "\"'><b>&amp;",
        "?owner=acme#log",
        "C:\\temp",
        "ärger 🔑 مفتاح",
        "\u{202e}gnp",
        "=1+1",
    ];
    let long = "🔑".repeat(200);
    short.map(String::from).into_iter().chain([long]).collect()
}

/// The path of an owner's page in a browser.
pub(crate) fn path_of(owner: &str) -> String {
    let mark = match owner {
        "" | "." | ".." => "~",
        _ if owner.starts_with('~') => "~",
        _ => "",
    };
    let plain = encoded(&[("", owner)]).split_off(1);
    let plain = plain.replace("%2D", "-").replace("%2E", ".");
    format!(
        "/admin/owners/{mark}{}",
        plain.replace("%5F", "_").replace("%7E", "~")
    )
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

async fn key_of(pages: &Pages, name: &str, owner: &str) -> Key {
    let set = |key: &mut Key| key.owner = Some(owner.into());
    pages.key_with(name, set).await
}

/// The text between two others.
#[track_caller]
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, after) = text.split_once(start).expect(start);
    after.split_once(end).expect(end).0
}

/// The cells of the rows in a piece of HTML.
fn rows(html: &str) -> Vec<Vec<String>> {
    let text = |html: &str| {
        let pieces = html.split('<').map(|piece| match piece.split_once('>') {
            Some((_, text)) => text,
            None => piece,
        });
        pieces.collect::<Vec<_>>().concat()
    };
    let row = |row: &str| -> Vec<String> {
        let cells = row.split("</th>").flat_map(|part| part.split("</td>"));
        cells.map(text).filter(|cell| !cell.is_empty()).collect()
    };
    html.split("</tr>")
        .map(row)
        .filter(|row| !row.is_empty())
        .collect()
}

async fn get_with(pages: &Pages, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header(AUTHORIZATION, format!("Bearer {TOKEN}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    pages.ask(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn an_owner_of_any_name_has_a_page_that_everything_links_to() {
    for owner in odd_owners() {
        let pages = Pages::new();
        let key = key_of(&pages, "Watched", &owner).await;
        let other = key_of(&pages, "Other", "someone else").await;
        pages.requests(&key, 3, MINUTE, |_, _| ()).await;
        pages.requests(&other, 40, MINUTE, |_, _| ()).await;
        let path = path_of(&owner);
        let shown = match owner.trim() {
            "" => "(blank)".into(),
            _ => escaped(&owner),
        };
        for from in [
            "".to_owned(),
            "/keys".into(),
            format!("/keys/{}", key.id),
            "/log".into(),
            "/owners".into(),
            path.strip_prefix("/admin").unwrap().into(),
        ] {
            let page = pages.get(&format!("/admin{from}")).await;
            assert_eq!(page.status, StatusCode::OK, "{from}");
            let link = page.text.contains(&format!("href=\"{path}\""));
            let is_itself = from.starts_with("/owners/");
            assert!(link || is_itself, "{from} does not link to {path}");
        }
        let page = pages.get(&path).await;
        let head = format!("<h1><bdi>{shown}</bdi></h1>");
        assert!(page.text.contains(&head), "{head} in {}", page.text);
        assert!(page.text.contains("<p>3 requests</p>"), "{owner}");
        assert!(page.text.contains(">3</a></p>") && page.text.contains("Watched"));
        assert!(!page.text.contains("Other") && !page.text.contains("someone"));
        // Links of the page stay on it.
        let failed = pages.get(&format!("{path}?outcome=failed")).await;
        assert!(failed.text.contains("<p>0 requests</p>"), "{owner}");
        let week = page.link("7 days");
        assert_eq!(week, format!("{path}?range=7d"));
        let export = page.link("Export CSV");
        assert!(export.starts_with(&format!("{path}/log/csv?")), "{export}");
        let file = pages.get(&export).await.text;
        assert_eq!(file.lines().count(), 4, "{file}");
        let mut reader = csv::Reader::from_reader(file.as_bytes());
        for row in reader.records().map(Result::unwrap) {
            assert_eq!(row[5].trim_start_matches('\''), owner);
        }
        let month = Timestamp::now().strftime("%B %Y");
        let file = pages.get(&page.link(&format!("{month} CSV"))).await;
        assert_eq!(file.status, StatusCode::OK, "{owner}");
        assert_eq!(file.headers["content-type"], CSV);
    }
}

const CSV: &str = "text/csv; charset=utf-8; header=present";

#[tokio::test]
async fn usage_of_an_empty_owner_and_of_owners_that_are_too_long_is_shown() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let long = "a".repeat(201);
    let set = |n: u64, event: &mut UsageEvent| {
        event.owner = Some(["", &long][n as usize % 2].into());
    };
    pages.requests(&key, 4, MINUTE, set).await;
    let page = pages.get("/admin/owners").await;
    assert_eq!(page.link("<bdi>(blank)</bdi>"), "/admin/owners/~");
    let page = pages.get("/admin/owners/~").await;
    assert!(page.text.contains("<p>2 requests</p>"), "{}", page.text);
    // Longer owners have no page.
    let list = pages.get("/admin/owners").await.text;
    assert!(list.contains(&"a".repeat(100)) && !list.contains("href=\"/admin/owners/a"));
    for missing in [format!("/admin/owners/{long}"), "/admin/owners/".into()] {
        assert_eq!(pages.get(&missing).await.status, StatusCode::NOT_FOUND);
    }
    let invalid = pages.get("/admin/owners/%FF").await;
    assert_eq!(invalid.status, StatusCode::NOT_FOUND);
    // Owners without keys and requests have an empty page.
    let page = pages.get("/admin/owners/nobody").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("No requests in this period"));
}

#[tokio::test]
async fn the_dashboard_may_be_nested_at_a_path_with_an_owner() {
    let backend = MemoryBackend::new();
    let guard = BearerToken::new(TOKEN).unwrap();
    let dashboard = Dashboard::new(backend.clone(), guard).into_router();
    let router = Router::new().nest_service("/{owner}/admin", dashboard);
    let pages = Pages { backend, router };
    let page = pages.get("/tenant/admin/owners/customer-17").await;
    assert!(page.text.contains("<h1><bdi>customer-17</bdi></h1>"));
    assert_eq!(page.link("Back to owners"), "/tenant/admin/owners");
}

#[tokio::test]
async fn the_page_shows_this_month_and_the_last_one_by_key() {
    let zone = TimeZone::get("Pacific/Kiritimati").unwrap();
    let cookie = [("cookie", "keytally_zone=Pacific%2FKiritimati")];
    let first = || {
        let today = zone.to_datetime(Timestamp::now()).date();
        let midnight = today.first_of_month().at(0, 0, 0, 0);
        zone.to_timestamp(midnight).unwrap()
    };
    loop {
        let start = first();
        let pages = Pages::new();
        let (busy, calm) = (
            key_of(&pages, "Busy", "acme").await,
            key_of(&pages, "Calm", "acme").await,
        );
        let gone = key_of(&pages, "Gone", "acme").await;
        let unused = key_of(&pages, "Unused", "acme").await;
        // At the first instant of this month, and at the last one of the month before.
        let this = |n: u64, event: &mut UsageEvent| {
            (event.time, event.cost) = (start, 5);
            if n == 0 {
                (event.outcome, event.cause) = (Outcome::Failed, Some(Cause::ServerError));
                event.billable = false;
            } else if n < 3 {
                event.outcome = Outcome::RateLimited;
                (event.cost, event.billable) = (0, false);
            }
        };
        let last = |_, event: &mut UsageEvent| event.time = start - 1.microsecond();
        pages.requests(&busy, 10, MINUTE, this).await;
        pages.requests(&calm, 1, MINUTE, this).await;
        pages.requests(&busy, 2, MINUTE, last).await;
        pages.requests(&gone, 4, MINUTE, last).await;
        pages.backend.delete(gone.id, Actor::SYSTEM).await.unwrap();
        let page = get_with(&pages, "/admin/owners/acme", &cookie).await;
        let in_utc = get_with(&pages, "/admin/owners/acme?month_zone=UTC", &cookie).await;
        if first() != start {
            continue;
        }
        assert!(
            page.text
                .contains("Calendar months in Pacific/Kiritimati. ")
        );
        let title = |time: Timestamp| zone.to_datetime(time).strftime("%B %Y").to_string();
        let (now, before) = (title(start), title(start - 1.microsecond()));
        let table = |page: &str, title: &str| rows(between(page, title, "</table>"));
        let name = |key: &Key| format!("{}{}active", key.name, key.hint);
        let heads = [
            "Key",
            "Requests",
            "Completed",
            "Failed",
            "Rate limited",
            "Cost",
            "Billable cost",
            "Last accepted",
        ];
        let row = |name: String, amounts: [&str; 6]| {
            let amounts = amounts.map(String::from);
            [vec![name], amounts.into()].concat()
        };
        let accepted = |row: Vec<String>, last: &str| [row, vec![last.into()]].concat();
        let at = zone.to_datetime(start);
        let at = at.strftime("%Y-%m-%d %H:%M +14").to_string();
        let of_now = table(&page.text, &format!("<h3>{now} to date</h3>"));
        assert_eq!(of_now[0][1..], heads[1..]);
        assert_eq!(
            of_now[1..],
            [
                accepted(row(name(&busy), ["10", "7", "1", "2", "40", "35"]), &at),
                accepted(row(name(&calm), ["1", "0", "1", "0", "5", "0"]), &at),
                accepted(row(name(&unused), ["0", "0", "0", "0", "0", "0"]), "Never"),
                row("Total".into(), ["11", "7", "2", "2", "45", "35"]),
            ]
        );
        let of_last = table(&page.text, &format!("<h3>{before}</h3>"));
        let deleted = format!("{} (deleted)", gone.id);
        assert_eq!(of_last[1], row(deleted, ["4", "4", "0", "0", "4", "4"]));
        assert_eq!(of_last[2], row(name(&busy), ["2", "2", "0", "0", "2", "2"]));
        assert_eq!(of_last.len(), 1 + 5);
        // In UTC, the month begins 14 hours later.
        let total = rows(between(&in_utc.text, "<h3>", "</section>"));
        let all: u64 = total
            .iter()
            .filter(|row| row[0] == "Total")
            .map(|row| row[1].parse::<u64>().unwrap())
            .sum();
        assert_eq!(all, 17);
        assert!(in_utc.text.contains("Calendar months in UTC. "));
        assert!(in_utc.text.contains(">Use Pacific/Kiritimati</a>"));
        assert_eq!(
            page.link("Use UTC"),
            "/admin/owners/acme?month_zone=UTC",
            "{}",
            page.text
        );
        // The files have the same numbers.
        let file = get_with(&pages, &page.link(&format!("{before} CSV")), &[]).await;
        let month = zone.to_datetime(start - 1.microsecond()).strftime("%Y-%m");
        assert_eq!(
            file.headers["content-disposition"],
            format!("attachment; filename=\"usage-acme-{month}.csv\"")
        );
        let mut lines: Vec<_> = file.text.lines().collect();
        lines[1..3].sort_unstable();
        let row = |key: Option<KeyId>, name: &str, amounts: &str, accepted: &str| {
            let key = key.map(|id| id.to_string()).unwrap_or_default();
            format!(
                "{month},Pacific/Kiritimati,\"acme\",{key},\"{name}\",{amounts},true,{accepted}"
            )
        };
        let mut expected = [
            row(
                Some(busy.id),
                "Busy",
                "2,2,0,0,2,2,2",
                &format!("{start},0"),
            ),
            row(Some(gone.id), "", "4,4,0,0,4,4,4", ","),
        ];
        expected.sort_unstable();
        let head = "\u{feff}month,time_zone,owner,key,name,requests,completed,failed,rate_limited,\
                    cost,billable_requests,billable_cost,exact,last_accepted_at,rejected_since";
        assert_eq!(lines[0], head);
        assert_eq!(lines[1..3], expected);
        assert_eq!(lines[3], row(None, "Total", "6,6,0,0,6,6,6", ","));
        assert_eq!(lines.len(), 4);
        return;
    }
}

#[tokio::test]
async fn tables_of_many_keys_are_bounded() {
    let pages = Pages::new();
    for n in 0..60 {
        let key = key_of(&pages, &format!("Key {n}"), "acme").await;
        pages.requests(&key, 1, MINUTE, |_, _| ()).await;
    }
    let page = pages.get("/admin/owners/acme").await;
    let months = between(&page.text, "Usage by month", "</section>");
    assert_eq!(months.matches("<tr>").count(), 2 * (1 + 20 + 1));
    assert!(months.contains("And 40 more keys"), "{months}");
    assert!(page.text.len() < 200_000, "{}", page.text.len());
    // This month or, at its start, the last one.
    let now = Timestamp::now();
    let mut lines = 0;
    for time in [now - MINUTE * 2, now] {
        let month = time.strftime("%B %Y");
        let file = pages.get(&page.link(&format!("{month} CSV"))).await;
        lines = lines.max(file.text.lines().count());
    }
    assert_eq!(lines, 1 + 60 + 1);
}

#[tokio::test]
async fn the_list_has_owners_of_requests_and_of_keys() {
    let pages = Pages::new();
    let big = key_of(&pages, "a", "Acme GmbH").await;
    let small = key_of(&pages, "b", "acme labs").await;
    key_of(&pages, "c", "Zed").await;
    key_of(&pages, "d", "Quiet acme").await;
    let none = pages.key("e").await;
    pages.requests(&big, 12, MINUTE, |_, _| ()).await;
    let set = |_, event: &mut UsageEvent| event.cost = 7;
    pages.requests(&small, 3, MINUTE, set).await;
    pages.requests(&none, 5, MINUTE, |_, _| ()).await;
    let table = |page: &Answer| rows(between(&page.text, "<tbody>", "</table>"));
    let page = pages.get("/admin/owners").await;
    let all = table(&page);
    let names: Vec<_> = all.iter().map(|row| &*row[0]).collect();
    let expected = ["Acme GmbH", "acme labs", "Quiet acme", "Zed", "Total"];
    assert_eq!(names, expected);
    assert_eq!(
        all[0][1..],
        ["–", "12", "60.0%", "12", "0", "0", "12", "12"]
    );
    assert_eq!(all[1][1..], ["–", "3", "15.0%", "3", "0", "0", "21", "21"]);
    assert_eq!(all[2][1..], ["–", "0", "0%", "0", "0", "0", "0", "0"]);
    // Without the requests of keys that have no owner.
    assert_eq!(all[4][1..], ["15", "75.0%", "15", "0", "0", "33", "33"]);
    for (name, times) in [("Acme GmbH", 1), ("Zed", 1), ("nobody", 0)] {
        let option = format!("<option value=\"{name}\">");
        assert_eq!(page.count(&option), times, "{name}");
    }
    let page = pages.get("/admin/owners?owner=ACME&range=1h").await;
    let found = table(&page);
    let names: Vec<_> = found.iter().map(|row| &*row[0]).collect();
    assert_eq!(names, ["Acme GmbH", "acme labs", "Quiet acme", "Total"]);
    assert_eq!(found[3][1..3], ["15", "75.0%"]);
    // The range and the filter keep each other.
    assert_eq!(page.link("7 days"), "/admin/owners?owner=ACME&range=7d");
    assert_eq!(page.link("Clear filters"), "/admin/owners?range=1h");
    let page = pages.get("/admin/owners?owner=nobody").await;
    assert!(page.text.contains("No owners match your filter."));
    let page = Pages::new().get("/admin/owners").await;
    assert!(page.text.contains("No owners yet."));
}

#[tokio::test]
async fn the_list_and_suggestions_are_bounded() {
    let pages = Pages::new();
    let mut events = Vec::new();
    for n in 0..300 {
        let key = key_of(&pages, "Key", &format!("customer-{n:03}")).await;
        for _ in 0..=n {
            let mut event = UsageEvent::new(Timestamp::now() - MINUTE);
            (event.key, event.owner) = (Some(key.id), key.owner.clone());
            events.push(event);
        }
    }
    let all = events.len();
    pages.backend.write(&Batch::new(events)).await.unwrap();
    let page = pages.get("/admin/owners").await;
    assert_eq!(page.count("<option "), 200);
    assert_eq!(page.count("<tr>"), 1 + 50 + 1);
    let table = rows(between(&page.text, "<tbody>", "</table>"));
    assert_eq!(table[0][..3], ["customer-299", "–", "300"]);
    assert_eq!(table[50][1], "45,150");
    assert_eq!(all, 45_150);
    assert!(page.text.contains("The 50 owners with the most requests."));
    let page = pages.get("/admin/owners?owner=R-00").await;
    assert_eq!(page.count("<tr>"), 1 + 10 + 1);
    for path in ["/admin/keys", "/admin/log"] {
        assert_eq!(
            pages.get(path).await.count("<option value=\"customer-"),
            200
        );
    }
}

#[tokio::test]
async fn owner_filters_match_parts_in_any_case() {
    let pages = Pages::new();
    for (name, owner) in [
        ("One", "Ärger & Co"),
        ("Two", "ärger ag"),
        ("Three", "Zed"),
        ("Four", "Zed 2"),
    ] {
        let key = key_of(&pages, name, owner).await;
        pages.requests(&key, 2, MINUTE, |_, _| ()).await;
    }
    for (part, names, requests) in [
        ("ÄRGER", &["One", "Two"][..], 4),
        ("r & c", &["One"], 2),
        ("zed", &["Three", "Four"], 4),
        // The full name of an owner is that owner only.
        ("Zed", &["Three"], 2),
        ("ze d", &[], 0),
        ("%", &[], 0),
    ] {
        let query = encoded(&[("owner", part)]);
        let page = pages.get(&format!("/admin/keys?{query}")).await;
        for name in ["One", "Two", "Three", "Four"] {
            let is_found = page.text.contains(&format!("<bdi>{name}</bdi>"));
            assert_eq!(is_found, names.contains(&name), "{part}: {name}");
        }
        let page = pages.get(&format!("/admin/log?{query}")).await;
        let count = format!("<p>{requests} requests</p>");
        assert!(page.text.contains(&count), "{part}: {}", page.text);
        let file = pages.get(&format!("/admin/log/csv?{query}")).await.text;
        assert_eq!(file.lines().count(), 1 + requests, "{part}");
        if part == "Zed" {
            continue;
        }
        let query = encoded(&[("owner_contains", part)]);
        let api = async |path: &str| -> Value {
            let answer = pages.get(&format!("/admin/api{path}?{query}")).await;
            serde_json::from_str(&answer.text).unwrap()
        };
        let keys = api("/keys").await;
        assert_eq!(keys["items"].as_array().unwrap().len(), names.len());
        let count = api("/log/count").await;
        assert_eq!(count, json!({"count": requests, "exact": true}), "{part}");
    }
}

#[tokio::test]
async fn usage_of_a_month_is_exported_by_owner() {
    let pages = Pages::new();
    let (one, two) = (
        key_of(&pages, "One", "=acme").await,
        key_of(&pages, "Two", "b,\"c\"").await,
    );
    let none = pages.key("None").await;
    let at = |time: &str, cost: u32, outcome: Outcome| {
        let time: Timestamp = time.parse().unwrap();
        move |_, event: &mut UsageEvent| {
            (event.time, event.cost, event.outcome) = (time, cost, outcome);
            event.billable = outcome == Outcome::Completed;
        }
    };
    let zero = SignedDuration::ZERO;
    let (done, limited) = (Outcome::Completed, Outcome::RateLimited);
    // In October in Berlin, and in UTC except for the first.
    let set = at("2026-09-30T22:00:00Z", 2, done);
    pages.requests(&one, 3, zero, set).await;
    let set = at("2026-10-31T22:59:59.999999Z", 3, done);
    pages.requests(&one, 4, zero, set).await;
    let set = at("2026-10-15T10:00:00Z", 0, limited);
    pages.requests(&two, 5, zero, set).await;
    let set = at("2026-10-15T10:00:00Z", 1, done);
    pages.requests(&none, 6, zero, set).await;
    // Not in October.
    for time in ["2026-09-30T21:59:59.999999Z", "2026-11-01T00:00:00Z"] {
        pages.requests(&one, 100, zero, at(time, 9, done)).await;
    }
    let path = "/admin/api/usage/by-owner?month=2026-10";
    let answer = pages.get(&format!("{path}&zone=Europe/Berlin")).await;
    let json: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(json["month"], "2026-10");
    assert_eq!(json["zone"], "Europe/Berlin");
    assert_eq!(json["from"], "2026-09-30T22:00:00Z");
    assert_eq!(json["to"], "2026-10-31T23:00:00Z");
    assert_eq!(json["exact"], true);
    let amounts = |row: &Value| {
        let names = [
            "total",
            "completed",
            "rate_limited",
            "cost",
            "billable_cost",
        ];
        names.map(|name| row["totals"][name].as_u64().unwrap())
    };
    assert_eq!(amounts(&json), [18, 13, 5, 24, 24]);
    let owners: Vec<_> = json["owners"].as_array().unwrap().iter().collect();
    let owners: Vec<_> = owners
        .iter()
        .map(|row| (row["owner"].as_str().unwrap(), amounts(row)))
        .collect();
    assert_eq!(
        owners,
        [("=acme", [7, 7, 0, 18, 18]), ("b,\"c\"", [5, 0, 5, 0, 0]),]
    );
    let utc: Value = serde_json::from_str(&pages.get(path).await.text).unwrap();
    assert_eq!(amounts(&utc["owners"][0]), [4, 4, 0, 12, 12]);

    let lines = [
        "month,time_zone,owner,requests,completed,failed,rate_limited,cost,billable_requests,\
         billable_cost,exact",
        "2026-10,Europe/Berlin,\"'=acme\",7,7,0,0,18,7,18,true",
        "2026-10,Europe/Berlin,\"b,\"\"c\"\"\",5,0,0,5,0,0,0,true",
        "",
    ];
    let query = "month=2026-10&zone=Europe/Berlin";
    for (path, mark) in [
        ("/admin/api/usage/by-owner/csv", ""),
        ("/admin/billing/csv", "\u{feff}"),
    ] {
        let file = pages.get(&format!("{path}?{query}")).await;
        assert_eq!(file.text, format!("{mark}{}", lines.join("\r\n")));
        assert_eq!(file.headers["content-type"], CSV);
        let name = "attachment; filename=\"usage-2026-10.csv\"";
        assert_eq!(file.headers["content-disposition"], name);
    }
    for (query, wrong) in [
        ("", "month"),
        ("month=2026-13", "month"),
        ("month=October", "month"),
        ("month=2026-10&zone=Nowhere", "zone"),
        ("month=2026-10&zone=../../etc/passwd", "zone"),
        ("month=2026-10&day=1", "day"),
    ] {
        for path in ["", "/csv"] {
            let answer = pages
                .get(&format!("/admin/api/usage/by-owner{path}?{query}"))
                .await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
            let problem: Value = serde_json::from_str(&answer.text).unwrap();
            assert_eq!(problem["errors"][0]["parameter"], wrong, "{query}");
        }
        if wrong == "day" {
            continue;
        }
        for path in ["/admin/billing/csv", "/admin/owners/acme/csv"] {
            let page = pages.get(&format!("{path}?{query}")).await;
            assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        }
    }
}

#[tokio::test]
async fn the_list_links_to_the_files_of_two_months() {
    let pages = Pages::new();
    let key = key_of(&pages, "One", "acme").await;
    pages
        .requests(&key, 3, SignedDuration::ZERO, |_, _| ())
        .await;
    let before = Timestamp::now();
    let page = pages.get("/admin/owners").await;
    let months = [before, Timestamp::now()].map(|time| time.strftime("%B %Y").to_string());
    let hrefs = months.map(|month| page.text.contains(&format!(">{month} CSV</a>")));
    assert!(hrefs.contains(&true), "{}", page.text);
    let last = TimeZone::UTC.to_datetime(before).date().first_of_month();
    let last = last.yesterday().unwrap().strftime("%B %Y").to_string();
    let file = pages.get(&page.link(&format!("{last} CSV"))).await;
    assert_eq!(file.text.lines().count(), 1);
}

#[tokio::test]
async fn the_cost_is_on_pages_of_keys_and_owners_only() {
    let pages = Pages::new();
    let key = key_of(&pages, "One", "acme").await;
    let set = |n: u64, event: &mut UsageEvent| (event.cost, event.billable) = (3, n < 2);
    pages.requests(&key, 5, MINUTE, set).await;
    for path in [
        format!("/admin/keys/{}", key.id),
        "/admin/owners/acme".into(),
    ] {
        let page = pages.get(&path).await.text;
        let card = between(&page, "<h2>Billable cost</h2>", "</div>");
        assert!(
            card.contains(">6</p>") && card.contains("of a cost of 15"),
            "{card}"
        );
    }
    assert!(!pages.get("/admin").await.text.contains("Billable cost"));
}

#[tokio::test]
async fn the_overview_has_the_top_keys_and_owners() {
    let pages = Pages::new();
    for (n, owner) in (1_u64..).zip(["a", "b", "c", "d", "e", "f", "a"]) {
        let key = key_of(&pages, &format!("Key {n}"), owner).await;
        pages.requests(&key, n, MINUTE, |_, _| ()).await;
    }
    let page = pages.get("/admin").await;
    let table = |title: &str| {
        let table = between(
            &page.text,
            &format!("<caption>{title}</caption>"),
            "</table>",
        );
        rows(table.split_once("<tbody>").unwrap().1)
    };
    let keys = table("Top keys");
    assert_eq!(keys.len(), 5);
    assert_eq!(keys[0], ["Key 7", "7", "25.0%"]);
    let owners = table("Top owners");
    let names: Vec<_> = owners.iter().map(|row| &*row[0]).collect();
    assert_eq!(names, ["a", "f", "e", "d", "c"]);
    assert_eq!(owners[0][1..], ["8", "28.6%"]);
    assert_eq!(page.link("<bdi>f</bdi>"), "/admin/owners/f");
}

#[tokio::test]
async fn a_month_that_starts_within_a_stored_hour_is_approximate() {
    let hour = std::time::Duration::from_secs(3_600);
    let config = MemoryConfig::new().minutes(hour).quarter_hours(hour);
    let pages = Pages::over(MemoryBackend::with_config(config));
    let key = key_of(&pages, "One", "acme").await;
    // In Kathmandu, October ended at 18:15 UTC.
    let time: Timestamp = "2025-10-31T18:10:00Z".parse().unwrap();
    for (many, hours) in [(3, 0), (1, 72)] {
        // Merges the minutes before.
        let set = |_, event: &mut UsageEvent| event.time = time + hours.hours();
        pages.requests(&key, many, SignedDuration::ZERO, set).await;
    }
    for (zone, exact) in [("Asia/Kathmandu", false), ("Europe/Berlin", true)] {
        let query = format!("month=2025-10&zone={zone}");
        let path = format!("/admin/api/usage/by-owner?{query}");
        let month: Value = serde_json::from_str(&pages.get(&path).await.text).unwrap();
        assert_eq!(month["exact"], exact, "{zone}");
        assert_eq!(month["owners"][0]["totals"]["total"], 3, "{zone}");
        for path in ["/admin/owners/acme/csv", "/admin/billing/csv"] {
            let file = pages.get(&format!("{path}?{query}")).await.text;
            let rows: Vec<_> = file.lines().skip(1).collect();
            assert!(!rows.is_empty());
            let is_marked = |row: &&str| row.split(',').any(|cell| cell == exact.to_string());
            assert!(rows.iter().all(is_marked), "{zone}: {file}");
        }
    }
}
