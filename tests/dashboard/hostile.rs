//! User-provided text is escaped everywhere.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use keytally::KeyId;
use keytally::backend::MemoryBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Actor, Issuer, KeyAdmin, NewKey, OwnerAdmin, OwnerUpdate, Plan, Vault};
use keytally::limit::RateLimit;
use keytally::usage::{Batch, Granularity, UsageEvent, UsageSink};
use serde_json::{Value, json};

use crate::markup::{Element, elements, harmless};
use crate::pages::{Answer, Pages, TOKEN, encoded};

/// Texts that end an element or attribute, run a script, override the text direction, are a formula, a link or a
/// template, or are long.
fn hostile() -> Vec<String> {
    let short = [
        "</title></script><script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "\" onfocus=alert(1) autofocus x=\"",
        "' style='color:red",
        "--><!--]]>&lt;script&gt;&#60;b&#62;",
        "\u{202e}gnp.exe\u{2067}",
        "=cmd()|'/C calc'!A0",
        "+1,\"=1+1\"",
        "@SUM(1)",
        "-2+3",
        "javascript:alert(1)//",
        "//evil.example/\\..",
        "{{7*7}}${7*7}<%= 7*7 %>",
    ];
    let long = "<script>\"'".repeat(1_000);
    short.map(String::from).into_iter().chain([long]).collect()
}

/// A dashboard with the text in every field of a key and of requests.
struct Shown {
    pages: Pages,
    key: KeyId,
    gone: KeyId,
}

/// The first `max` characters.
fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

async fn shown(text: &str) -> Shown {
    let backend = MemoryBackend::new();
    let guard = BearerToken::new(TOKEN).unwrap().with_admin_name(text);
    let vault = Vault::new([7; 32]);
    let issuer = Issuer::new("acme_live").unwrap().vault(vault);
    let dashboard = Dashboard::new(backend.clone(), guard);
    let router = dashboard.issuer(issuer.clone()).into_router();
    let pages = Pages {
        backend: backend.clone(),
        router: axum::Router::new().nest_service("/admin", router),
    };
    let actor = Actor::new(text);
    let now = Timestamp::now();
    let mut ids = Vec::new();
    for _ in 0..2 {
        // Replaces the characters that a scope cannot contain.
        let scope = text
            .replace(['"', '\\', ' '], "<")
            .replace(|c: char| !c.is_ascii(), ">");
        let new = NewKey::new(cut(text, 100))
            .owner(cut(text, 200))
            .scope(cut(&scope, 100))
            .metadata(cut(text, 500), json!([cut(text, 500)]))
            .expires_at(now + SignedDuration::from_hours(24))
            .recoverable();
        let (_, mut record) = issuer.prepare(new).unwrap();
        record.key.created_at = now - SignedDuration::from_hours(24 * 91);
        record.key.hint = cut(text, 64);
        ids.push(record.key.id);
        backend.create(record, actor).await.unwrap();
    }
    let mut plan = Plan::new(cut(text, 100), now);
    plan.key_limits = vec![RateLimit::per_second(1)];
    backend.set_plan(plan, actor).await.unwrap();
    let update = OwnerUpdate::new()
        .name(Some(cut(text, 100)))
        .plan(Some(cut(text, 100)));
    let owner = cut(text, 200);
    backend.update_owner(&owner, update, actor).await.unwrap();
    backend.suspend_owner(&owner, actor).await.unwrap();
    let [key, gone] = ids[..] else { unreachable!() };
    backend.delete(gone, actor).await.unwrap();
    // Within a quarter of an hour, which is a column of charts, and long before the current time, so that pages built
    // shortly after each other have the same columns.
    let recent = Granularity::QuarterHour.floor(now) - SignedDuration::from_mins(10);
    let event = |n: i64| {
        let mut event = UsageEvent::new(recent - SignedDuration::from_secs(n));
        event.key = Some(if n < 40 { key } else { gone });
        event.owner = Some(text.into());
        event.endpoint = text.into();
        event.path = text.into();
        event.resource_id = Some(text.into());
        event.request_id = Some(text.into());
        event.outcome = keytally::usage::Outcome::Failed;
        event
    };
    // Requests of the period before, with which the failures are compared. More of one key, since keys with equally many
    // have no order, and the period before may be in another month.
    let before = (25..45).map(|n| {
        let mut event = event(n);
        event.time = recent - SignedDuration::from_hours(25);
        event.outcome = keytally::usage::Outcome::Completed;
        event
    });
    let batch = Batch::new((0..60).map(event).chain(before).collect());
    backend.write(&batch).await.unwrap();
    Shown { pages, key, gone }
}

impl Shown {
    /// Requests every page, also with the text in the query, and submits every form.
    async fn walk(&self, text: &str) -> Vec<(String, Answer)> {
        let names = [
            "name",
            "owner",
            "status",
            "show",
            "actor",
            "key",
            "action",
            "after",
            "newer",
            "resource",
            "endpoint",
            "request",
            "code",
            "method",
            "outcome",
            "since",
            "until",
            "range",
            "from",
            "to",
            "zone",
            "back",
            "cause",
            "statuses",
            "month",
            "month_zone",
            "sort",
            "page",
        ];
        // URLs are limited in length.
        let text = &*cut(text, 300);
        let query = encoded(&names.map(|name| (name, text)));
        let found =
            encoded(&["name", "owner", "resource", "endpoint", "request"].map(|it| (it, text)));
        let of_gone = format!("/log?key={}", self.gone);
        let at = |within: &str| format!("/keys/{}{within}", self.key);
        let mut paths = [
            "",
            "/keys",
            "/keys/new",
            "/plans",
            "/plans/new",
            "/log",
            "/audit",
            "/sign-out",
            "/nowhere",
        ]
        .map(String::from)
        .to_vec();
        paths.push(of_gone);
        paths.extend([
            "/owners".into(),
            format!("/owners/{}", segment(&cut(text, 200))),
        ]);
        for within in ["edit", "suspend", "resume"] {
            paths.push(format!("/owners/{}/{within}", segment(&cut(text, 200))));
        }
        let plan = encoded(&[("plan", &*cut(text, 100))]);
        for within in ["edit", "delete"] {
            paths.push(format!("/plans/{within}?{plan}"));
        }
        paths.push(format!("/keys/disable?key={}", self.key));
        for within in [
            "", "/edit", "/reveal", "/rotate", "/disable", "/enable", "/revoke", "/delete",
        ] {
            paths.push(at(within));
        }
        let mut responses = Vec::new();
        for path in paths {
            let and = if path.contains('?') { '&' } else { '?' };
            for query in ["", &query, &found] {
                let path = format!("/admin{path}{and}{query}");
                responses.push((path.clone(), self.pages.get(&path).await));
            }
        }
        let fields = [
            "name",
            "owner",
            "environment",
            "scopes",
            "limits",
            "limit-1",
            "limit-period-1",
            "limit-burst-1",
            "limit-name-1",
            "addresses",
            "expires",
            "expires-in",
            "zone",
            "grace",
            "hours",
            "back",
            "was-name",
            "was-limits",
        ];
        let fields = fields.map(|name| (name, text));
        for path in [
            "/keys/new".to_owned(),
            at("/edit"),
            at("/rotate"),
            at("/delete"),
        ] {
            let path = format!("/admin{path}");
            // Without the name, which would confirm the deletion.
            let fields: Vec<_> = fields
                .iter()
                .copied()
                .filter(|(name, _)| !(path.ends_with("delete") && *name == "name"))
                .collect();
            responses.push((
                format!("POST {path}"),
                self.pages.send(&path, &fields).await,
            ));
        }
        let name = cut(text, 100);
        for (path, fields) in [
            ("/keys/new".to_owned(), &[("name", &*name)][..]),
            (at("/reveal"), &[]),
            (at("/rotate"), &[("grace", "1h")]),
        ] {
            let path = format!("/admin{path}");
            let done = self.pages.send(&path, fields).await;
            assert_eq!(done.status, StatusCode::OK, "{path}");
            responses.push((format!("POST {path}"), done));
        }
        let wrong = self
            .pages
            .post("/admin/sign-in", &[("secret", text)], &[])
            .await;
        responses.push(("POST /admin/sign-in".into(), wrong));
        responses
    }
}

/// The text as a path segment.
fn segment(text: &str) -> String {
    encoded(&[("", text)]).split_off(1)
}

/// The text as escaped on a page.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[tokio::test]
async fn hostile_text_does_not_change_the_markup() {
    for text in hostile() {
        let same = harmless(&text);
        // Charts of a page have another column once a quarter of an hour begins. Their ranges end at the next second.
        let quarters = || {
            let now = Timestamp::now();
            [now, now + SignedDuration::from_secs(1)].map(|at| Granularity::QuarterHour.floor(at))
        };
        let (hostile, plain) = loop {
            let before = quarters();
            let (hostile, plain) = (shown(&text).await, shown(&same).await);
            let walked = (hostile.walk(&text).await, plain.walk(&same).await);
            if quarters() == before {
                break walked;
            }
        };
        assert_eq!(hostile.len(), plain.len());
        let mut seen = 0;
        for ((path, page), (_, other)) in hostile.iter().zip(&plain) {
            assert!(page.status != StatusCode::INTERNAL_SERVER_ERROR, "{path}");
            assert_eq!(page.status, other.status, "{path}");
            if page.status == StatusCode::SEE_OTHER {
                let to = page.headers["location"].to_str().unwrap();
                assert!(to.starts_with("/admin/log?"), "{path} leads to {to}");
                continue;
            }
            let kind = page.headers["content-type"].to_str().unwrap();
            assert_eq!(kind, "text/html; charset=utf-8", "{path}");
            let (elements, others) = (elements(&page.text), elements(&other.text));
            assert_eq!(elements.len(), others.len(), "{path} of {text}");
            let shapes = elements.iter().map(Element::shape);
            let others = others.iter().map(Element::shape);
            let differs = shapes.zip(others).find(|(one, other)| one != other);
            assert_eq!(differs, None, "{path} of {text}");
            for element in &elements {
                element.leads_within("/admin");
            }
            seen += usize::from(page.text.contains(&escaped(&cut(&text, 60))));
        }
        assert!(seen > 40, "{seen} of {} pages show {text}", hostile.len());
    }
}

#[tokio::test]
async fn hostile_text_is_unchanged_in_json_and_no_formula_in_csv() {
    for text in hostile() {
        let Shown { pages, key, .. } = shown(&text).await;
        let json = async |path: &str| -> Value {
            let response = pages.get(&format!("/admin{path}")).await;
            assert_eq!(response.status, StatusCode::OK, "{path}");
            let kind = response.headers["content-type"].to_str().unwrap();
            assert_eq!(kind, "application/json", "{path}");
            assert_eq!(response.headers["x-content-type-options"], "nosniff");
            serde_json::from_str(&response.text).unwrap()
        };
        let one = json(&format!("/api/keys/{key}")).await;
        assert_eq!(one["name"], cut(&text, 100));
        assert_eq!(one["owner"], cut(&text, 200));
        assert_eq!(one["hint"], cut(&text, 64));
        assert_eq!(one["metadata"][cut(&text, 500)][0], cut(&text, 500));
        assert_eq!(json("/api/keys").await["items"][0], one);
        let audit = json("/api/audit").await;
        assert_eq!(audit["items"][0]["actor"], cut(&text, 200));
        let log = json("/api/log").await;
        for field in ["owner", "endpoint", "path", "resource_id", "request_id"] {
            assert_eq!(log["items"][0][field], *text, "{field}");
        }
        let usage = json("/api/usage").await.to_string();
        assert!(
            usage.contains(&serde_json::to_string(&text).unwrap()),
            "{usage}"
        );
        for path in [
            "/api/usage/spikes?from=2026-01-01T00:00:00Z",
            "/api/usage/over-time?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z",
            "/api/log/count",
        ] {
            json(path).await;
        }

        let query = encoded(&[("method", &*cut(&text, 300))]);
        let rejected = pages.get(&format!("/admin/api/log?{query}")).await;
        assert_eq!(rejected.status, StatusCode::BAD_REQUEST);
        assert_eq!(rejected.headers["content-type"], "application/problem+json");
        assert_eq!(rejected.headers["x-content-type-options"], "nosniff");

        for path in ["/log/jsonl", "/api/log/export/jsonl"] {
            let file = pages.get(&format!("/admin{path}")).await;
            let disposition = file.headers["content-disposition"].to_str().unwrap();
            assert!(disposition.starts_with("attachment"), "{path}");
            let first: Value = serde_json::from_str(file.text.lines().next().unwrap()).unwrap();
            assert_eq!(first["path"], *text);
        }
        let (owner, month) = (
            segment(&cut(&text, 200)),
            Timestamp::now().strftime("%Y-%m"),
        );
        for path in [
            format!("/owners/{owner}/csv?month={month}"),
            format!("/billing/csv?month={month}"),
            format!("/api/usage/by-owner/csv?month={month}"),
        ] {
            let file = pages.get(&format!("/admin{path}")).await;
            let disposition = file.headers["content-disposition"].to_str().unwrap();
            let name = disposition.strip_prefix("attachment; filename=\"usage-");
            let name = name.and_then(|name| name.strip_suffix(".csv\"")).unwrap();
            assert!(!name.contains(['"', ';', '/', '\\']), "{disposition}");
            let mut reader = csv::Reader::from_reader(file.text.as_bytes());
            let head = reader.headers().unwrap().clone();
            for row in reader.records().map(Result::unwrap) {
                for (name, cell) in head.iter().zip(&row) {
                    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
                    assert!(!formula, "{path}: {name} is {cell}");
                }
            }
        }
        for path in ["/log/csv", "/api/log/export/csv"] {
            let file = pages.get(&format!("/admin{path}")).await;
            let disposition = file.headers["content-disposition"].to_str().unwrap();
            assert!(disposition.starts_with("attachment"), "{path}");
            let mut reader = csv::Reader::from_reader(file.text.as_bytes());
            let head = reader.headers().unwrap().clone();
            let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
            assert_eq!(rows.len(), 80, "{path}");
            for row in rows {
                for (name, cell) in head.iter().zip(&row) {
                    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
                    assert!(!formula, "{path}: {name} is {cell}");
                    if ["owner", "endpoint", "path", "resource_id", "request_id"].contains(&name) {
                        let bare = cell.replace('\'', "");
                        assert_eq!(bare, text.replace('\'', ""), "{path}: {name}");
                    }
                }
            }
        }
    }
}
