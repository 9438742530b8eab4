//! Snapshots of every page with fixed keys and requests.
//!
//! After an intended change, run with `INSTA_UPDATE=always` and review the diff.

use jiff::{SignedDuration, Timestamp};
use keytally::backend::{MemoryBackend, SqliteBackend};
use keytally::key::{AddressList, Issuer, Key, KeyAdmin, Vault};
use keytally::limit::RateLimit;
use keytally::usage::{
    Batch, Cause, Method, Outcome, Recorder, RejectionReason, Status, UsageEvent, UsageReader,
    UsageSink,
};

use crate::pages::{Answer, Pages};

/// In the past, so that no bucket is unfinished and no expiry is soon.
const START: &str = "2025-03-04T10:00:00Z";
const RANGE: &str = "range=custom&from=2025-03-04T10:00:00Z&to=2025-03-04T10:15:00Z";
const TIMES: &str = "since=2025-03-04T10:00:00Z&until=2025-03-04T10:15:00Z";

const BUSY: &str = "3fK9aB0000zzZZ19";
const LIMITED: &str = "7hTq2c5555yyXX40";
const UNUSED: &str = "9pLm4d7777wwVV63";
const GONE: &str = "1aBc3e8888uuTT86";

fn start() -> Timestamp {
    START.parse().unwrap()
}

fn issuer() -> Issuer {
    let issuer = Issuer::new("acme_live").unwrap();
    issuer.vault(Vault::new([7; 32]))
}

fn over<B: KeyAdmin + UsageReader + Clone>(backend: B) -> Pages<B> {
    Pages::with(backend, |dashboard| dashboard.issuer(issuer()))
}

fn empty() -> Pages {
    over(MemoryBackend::new())
}

type Set = fn(&mut Key);

/// Keys with each status, and 15 minutes of requests.
async fn filled() -> Pages {
    let pages = empty();
    let day = SignedDuration::from_hours(24);
    let keys: [(&str, &str, Set); 6] = [
        (BUSY, "PowerAutomate", |key| {
            key.owner = Some("customer-17".into());
            key.environment = Some("live".into());
            key.scopes = vec!["read".into(), "orders:write".into()];
            key.addresses = AddressList::parse(["203.0.113.0/24"]).unwrap();
        }),
        (LIMITED, "Zapier Integration", |key| {
            key.owner = Some("customer-17".into());
            key.limits = vec![RateLimit::per_minute(60).with_burst(20)];
            key.expires_at = Some("2999-01-01T00:00:00Z".parse().unwrap());
        }),
        (UNUSED, "Nightly export", |_| ()),
        ("5dEf6g9999ssRR08", "Disabled integration", |key| {
            key.disabled = true
        }),
        ("6gHi7j1111qqPP21", "Expired integration", |key| {
            key.expires_at = Some(start())
        }),
        ("8jKl9m2222ooNN43", "Revoked integration", |key| {
            key.revoked_at = Some(start())
        }),
    ];
    for (n, (id, name, set)) in (1..).zip(keys) {
        let created = start() - day * n;
        let set = |key: &mut Key| {
            *key = Key::new(id.parse().unwrap(), name, created);
            key.hint = format!("acme_live_{}", key.hint);
            set(key);
        };
        pages.key_with(name, set).await;
    }
    let batch = Batch::new((0..48).map(event).collect());
    pages.backend.write(&batch).await.unwrap();
    pages
}

fn event(n: i32) -> UsageEvent {
    let mut event = UsageEvent::new(start() + SignedDuration::from_secs(17) * n);
    let (key, owner) = match n {
        20 => (GONE, None),
        _ if n % 3 == 0 => (LIMITED, Some("customer-17")),
        _ => (BUSY, Some("customer-17")),
    };
    event.key = Some(key.parse().unwrap());
    event.owner = owner.map(Into::into);
    event.id = uuid::Uuid::from_u128(n.unsigned_abs().into());
    event.request_id = Some(format!("request-{n:02}").into());
    event.path = "/v1/postings".into();
    event.endpoint = "/v1/postings".into();
    event.latency_us = 1_000 + 100 * n.unsigned_abs() as u64;
    event.response_bytes = 1_234;
    event.client_ip = Some("203.0.113.9".parse().unwrap());
    match n % 8 {
        1 => event.method = Method::Post,
        2 => {
            event.endpoint = "/v1/postings/{id}".into();
            event.path = format!("/v1/postings/{n}").into();
            event.resource_id = Some(n.to_string().into());
        }
        4 => {
            event.status = Status::Http(404);
            event.outcome = Outcome::Failed;
            event.cause = Some(Cause::ClientError);
        }
        5 => {
            event.status = Status::Http(503);
            event.outcome = Outcome::Failed;
            event.cause = Some(Cause::ServerError);
        }
        6 => {
            event.status = Status::Http(429);
            event.outcome = Outcome::RateLimited;
            event.rejection_reason = Some(RejectionReason::RateLimited);
        }
        _ => {}
    }
    event
}

/// Filters for random values and the current month.
const RANDOM: [(&str, &str); 8] = [
    (r#"data-row="[^"]*""#, r#"data-row="[event]""#),
    (r#"data-tag="[^"]*""#, r#"data-tag="[tag]""#),
    (r"\?v=[0-9a-f]{16}", "?v=[version]"),
    (
        r#"name="token" value="[^"]*""#,
        r#"name="token" value="[token]""#,
    ),
    (
        r#"name="once" value="[^"]*""#,
        r#"name="once" value="[once]""#,
    ),
    (r"acme_live_[0-9A-Za-z]{54}", "[secret]"),
    (
        r"(January|February|March|April|May|June|July|August|September|October|November|December) 20\d\d",
        "[month]",
    ),
    (r"month=20\d\d-\d\d", "month=[month]"),
];

/// Filters for ids and times of keys created by the test.
const NEW: [(&str, &str); 2] = [
    (r"\b[0-9A-Za-z]{16}\b", "[id]"),
    (
        r#"datetime="[^"]*" title="[^"]*">[^<]*"#,
        r#"datetime="[time]" title="[time]">[time]"#,
    ),
];

/// Compares a page with its snapshot, one element per line.
#[track_caller]
fn assert_snapshot(name: &str, response: &Answer) {
    assert_filtered_snapshot(name, response, &RANDOM);
}

/// Compares a page about a key created by the test.
#[track_caller]
fn assert_snapshot_with_new_key(name: &str, response: &Answer) {
    assert_filtered_snapshot(name, response, &[&RANDOM[..], &NEW].concat());
}

#[track_caller]
fn assert_filtered_snapshot(name: &str, response: &Answer, filters: &[(&str, &str)]) {
    let page = response.text.replace("><", ">\n<");
    let page = format!("{}\n\n{page}\n", response.status);
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, replacement) in filters {
        settings.add_filter(pattern, *replacement);
    }
    settings.bind(|| insta::assert_snapshot!(name, page));
}

#[tokio::test]
async fn empty_pages() {
    let pages = empty();
    for (name, path) in [
        ("empty-overview", format!("?{RANGE}")),
        ("empty-keys", "/keys".into()),
        ("empty-owners", format!("/owners?{RANGE}")),
        ("empty-owner", format!("/owners/nobody?{RANGE}")),
        ("empty-log", format!("/log?{TIMES}")),
        ("empty-audit", "/audit".into()),
    ] {
        assert_snapshot(name, &pages.get(&format!("/admin{path}")).await);
    }
    let pages = filled().await;
    for (name, path) in [
        ("empty-keys-found", "/keys?name=nobody".into()),
        ("empty-log-found", format!("/log?{TIMES}&method=DELETE")),
        ("empty-audit-found", "/audit?actor=nobody".into()),
        ("empty-usage", format!("/keys/{UNUSED}?{RANGE}")),
    ] {
        assert_snapshot(name, &pages.get(&format!("/admin{path}")).await);
    }
}

#[tokio::test]
async fn keys_and_usage_pages() {
    let pages = filled().await;
    for (name, path) in [
        ("overview", format!("?{RANGE}")),
        ("keys", "/keys".into()),
        ("usage", format!("/keys/{BUSY}?{RANGE}")),
        (
            "usage-filtered",
            format!("/keys/{LIMITED}?{RANGE}&code=4xx"),
        ),
        ("owners", format!("/owners?{RANGE}")),
        ("log", format!("/log?{TIMES}")),
    ] {
        assert_snapshot(name, &pages.get(&format!("/admin{path}")).await);
    }
    // The test creates the record of the owner.
    let created = (r"(<dt>Created</dt>\n<dd>\n)<time [^\n]*", "${1}[time]");
    let owner = format!("/admin/owners/customer-17?{RANGE}");
    let filters = [&RANDOM[..], &[created]].concat();
    assert_filtered_snapshot("owner", &pages.get(&owner).await, &filters);
    for action in ["disable", "enable"] {
        pages
            .send(&format!("/admin/keys/{UNUSED}/{action}"), &[])
            .await;
    }
    let audit = pages.get(&format!("/admin/audit?key={UNUSED}")).await;
    assert_snapshot_with_new_key("audit", &audit);
}

#[tokio::test]
async fn action_pages() {
    let pages = filled().await;
    for (name, path) in [
        ("edit", format!("/keys/{BUSY}/edit")),
        ("rotate", format!("/keys/{BUSY}/rotate")),
        ("disable", format!("/keys/{BUSY}/disable")),
        ("enable", "/keys/5dEf6g9999ssRR08/enable".into()),
        ("revoke", format!("/keys/{BUSY}/revoke")),
        ("delete", format!("/keys/{BUSY}/delete")),
        ("generate", "/keys/new".into()),
        ("sign-in", "/sign-in".into()),
        ("sign-out", "/sign-out".into()),
    ] {
        assert_snapshot(name, &pages.get(&format!("/admin{path}")).await);
    }
}

#[tokio::test]
async fn secret_pages() {
    let pages = empty();
    for (name, recoverable) in [
        ("generated", vec![]),
        ("generated-and-kept", vec![("recoverable", "yes")]),
    ] {
        let fields = [&[("name", "Courier")][..], &recoverable].concat();
        let created = pages.send("/admin/keys/new", &fields).await;
        assert_snapshot_with_new_key(name, &created);
        if recoverable.is_empty() {
            continue;
        }
        let key = created.link("View usage");
        let confirmation = pages.get(&format!("{key}/reveal")).await;
        assert_snapshot_with_new_key("reveal", &confirmation);
        let revealed = pages.send(&format!("{key}/reveal"), &[]).await;
        assert_snapshot_with_new_key("revealed", &revealed);
    }
}

#[tokio::test]
async fn error_pages() {
    let pages = filled().await;
    for (name, path) in [
        (
            "rejected-range",
            format!(
                "/keys/{UNUSED}?range=custom&from=x&to=y&since=2025-03-04T10:00&until=2025-03-04T09:00"
            ),
        ),
        ("rejected-keys", "/keys?status=odd&show=odd&after=x".into()),
        ("rejected-audit", "/audit?key=x&action=odd&after=x".into()),
        (
            "rejected-log",
            format!("/log?{TIMES}&key=x&code=never&method=STEAL&outcome=odd&after=x"),
        ),
        ("rejected-reveal", format!("/keys/{BUSY}/reveal")),
        ("missing-key", format!("/keys/{GONE}")),
        ("missing-page", "/nowhere".into()),
    ] {
        assert_snapshot(name, &pages.get(&format!("/admin{path}")).await);
    }
    let key = |action: &str| format!("/admin/keys/{BUSY}/{action}");
    for (name, path, fields) in [
        (
            "rejected-generate",
            "/admin/keys/new".into(),
            &[
                ("limits", "plenty"),
                ("addresses", "here"),
                ("expires", "later"),
            ][..],
        ),
        (
            "rejected-edit-of-another-form",
            key("edit"),
            &[("name", "a"), ("scopes", "read")],
        ),
        (
            "rejected-rotate",
            key("rotate"),
            &[("grace", "custom"), ("hours", "few")],
        ),
        ("rejected-delete", key("delete"), &[("name", "Zapier")]),
    ] {
        assert_snapshot(name, &pages.send(&path, fields).await);
    }
    let changed = [("name", ""), ("scopes", "not\"this"), ("limits", "0/s")];
    let edited = pages.change(&key("edit"), &changed).await;
    assert_snapshot("rejected-edit", &edited);
    let rejected = pages
        .post("/admin/sign-in", &[("secret", "another")], &[])
        .await;
    assert_snapshot("rejected-sign-in", &rejected);
}

#[tokio::test]
async fn pages_without_a_store_issuer_or_recorder() {
    let pool = sqlx::sqlite::SqlitePool::connect_lazy("sqlite::memory:").unwrap();
    pool.close().await;
    let down = over(SqliteBackend::from_pool(pool));
    assert_snapshot("unavailable", &down.get("/admin/keys").await);

    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let bare = Pages::with(backend, |dashboard| dashboard.recorder(recorder));
    let overview = bare.get(&format!("/admin?{RANGE}")).await;
    assert_snapshot("overview-without-issuer", &overview);
    assert_snapshot(
        "rejected-generate-without-issuer",
        &bare.get("/admin/keys/new").await,
    );
}
