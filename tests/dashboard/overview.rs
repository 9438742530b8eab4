//! The overview.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, KeyAdmin};
use keytally::usage::{Cause, Outcome, Recorder, Status};

use crate::pages::Pages;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

#[tokio::test]
async fn recorder_statistics_are_shown() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let pages = Pages::with(backend, |dashboard| dashboard.recorder(recorder));
    let page = pages.get("/admin").await;
    for text in [
        "<dt>Written</dt><dd>0</dd>",
        "<dt>Queued</dt><dd>0</dd>",
        "<dt>Lost</dt><dd>0</dd>",
        "<dt>Last written</dt><dd>Never</dd>",
    ] {
        assert!(page.text.contains(text), "{text} in {}", page.text);
    }
    // Without an issuer, keys cannot be generated.
    assert!(!page.text.contains("Generate"));
}

#[tokio::test]
async fn an_empty_overview_shows_how_to_get_started() {
    let pages = Pages::new();
    for path in ["/admin", "/admin/"] {
        let page = pages.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert_eq!(page.link("Generate an API key"), "/admin/keys/new");
    }
    pages.key("First").await;
    let page = pages.get("/admin").await;
    assert!(!page.text.contains("No API keys yet"));
    assert!(page.text.contains("No recorder configured"));
}

#[tokio::test]
async fn cards_and_charts_cover_all_keys() {
    let pages = Pages::new();
    let (busy, calm) = (pages.key("Busy").await, pages.key("Calm").await);
    let gone = pages.key("Gone").await;
    pages.requests(&busy, 30, MINUTE, |_, _| ()).await;
    pages.requests(&calm, 12, MINUTE, |_, _| ()).await;
    pages.requests(&gone, 6, MINUTE, |_, _| ()).await;
    // In the previous period only.
    pages.requests(&calm, 24, days(1) + MINUTE, |_, _| ()).await;
    pages.backend.delete(gone.id, Actor::SYSTEM).await.unwrap();
    let page = pages.get("/admin").await;
    assert!(page.text.contains(">48</a></p>"), "{}", page.text);
    assert!(page.text.contains("+100%"));
    let place = |text: &str| page.text.find(text).expect(text);
    let gone_label = format!("{} (deleted)", gone.id);
    assert!(place("<bdi>Busy</bdi>") < place("<bdi>Calm</bdi>"));
    assert!(place("<bdi>Calm</bdi>") < place(&gone_label));
    assert_eq!(
        page.link("<bdi>Busy</bdi>"),
        format!("/admin/keys/{}", busy.id)
    );
    let log = pages.get(&page.link("48")).await;
    assert!(log.text.contains("<p>48 requests</p>"), "{}", log.text);
    // Chart links lead to the matching requests of this range only.
    let log = pages.get(&page.link("<bdi>/v1/postings</bdi>")).await;
    assert!(log.text.contains("<p>48 requests</p>"), "{}", log.text);
    let log = pages
        .get(&page.link(&format!("<bdi>{gone_label}</bdi>")))
        .await;
    assert!(log.text.contains("<p>6 requests</p>"), "{}", log.text);
}

#[tokio::test]
async fn spikes_and_their_rule_are_shown() {
    let pages = Pages::new();
    let (broken, fine) = (pages.key("Broken").await, pages.key("Fine").await);
    let new = pages.key("New").await;
    let fail = |n: u64, event: &mut keytally::usage::UsageEvent| {
        if n.is_multiple_of(2) {
            event.status = Status::Http(500);
            event.outcome = Outcome::Failed;
            event.cause = Some(Cause::ServerError);
        }
    };
    pages.requests(&broken, 50, MINUTE, fail).await;
    pages
        .requests(&broken, 50, days(1) + MINUTE, |_, _| ())
        .await;
    // The same share of failures as before.
    pages.requests(&fine, 50, MINUTE, fail).await;
    pages.requests(&fine, 50, days(1) + MINUTE, fail).await;
    // Nothing to compare with.
    pages.requests(&new, 50, MINUTE, fail).await;
    let page = pages.get("/admin").await.text;
    let (_, section) = page
        .split_once("Keys doing worse than in the previous period")
        .unwrap();
    let (section, _) = section.split_once("</section>").unwrap();
    assert!(
        section.contains("Broken") && !section.contains("Fine") && !section.contains("New"),
        "{section}"
    );
    assert!(section.contains("25 of 50 (50.0%)"), "{section}");
    assert!(section.contains("0 of 50 (0%)"), "{section}");
    assert!(section.contains("at least 20 requests") && section.contains("5 percentage points"));
}

#[tokio::test]
async fn unused_keys_can_be_disabled_from_the_overview() {
    let pages = Pages::new();
    let now = Timestamp::now();
    pages.key("Young").await;
    let old = |key: &mut keytally::key::Key| key.created_at = now - days(91);
    let unused = pages.key_with("Forgotten", old).await;
    let used = pages.key_with("Used", old).await;
    pages.requests(&used, 1, days(89), |_, _| ()).await;
    let section = async |title: &str| {
        let page = pages.get("/admin").await.text;
        let (_, section) = page.split_once(title).unwrap();
        section.split_once("</section>").unwrap().0.to_owned()
    };
    let shown = section("Unused for 90 days").await;
    assert!(shown.contains("Forgotten"), "{shown}");
    assert!(
        !shown.contains("Young") && !shown.contains("Used<"),
        "{shown}"
    );
    let at = format!("/admin/keys/{}/disable?back=%2F", unused.id);
    assert!(shown.contains(&at), "{shown}");
    let response = pages.change(&at, &[]).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    assert_eq!(response.headers["location"], "/admin");
    assert!(
        pages
            .backend
            .get(unused.id)
            .await
            .unwrap()
            .unwrap()
            .disabled
    );
    assert!(
        section("Unused for 90 days")
            .await
            .contains("No active key")
    );
}

#[tokio::test]
async fn expiring_keys_are_sorted_by_expiry() {
    let pages = Pages::new();
    let now = Timestamp::now();
    for (name, end) in [
        ("Third", 29),
        ("Over", -1),
        ("First", 2),
        ("Far", 31),
        ("Second", 9),
    ] {
        pages
            .key_with(name, |key| key.expires_at = Some(now + days(end)))
            .await;
    }
    let page = pages.get("/admin").await.text;
    let (_, section) = page.split_once("Expiring within 30 days").unwrap();
    let (section, _) = section.split_once("</section>").unwrap();
    let names: Vec<_> = section
        .split("<bdi>")
        .skip(1)
        .map(|it| it.split('<').next().unwrap())
        .collect();
    assert_eq!(names, ["First", "Second", "Third"]);
    // "Show all" links to the full list.
    for n in 0..9 {
        pages
            .key_with(&format!("More {n}"), |key| {
                key.expires_at = Some(now + days(3))
            })
            .await;
    }
    let page = pages.get("/admin").await;
    let all = pages.get(&page.link("Show all")).await;
    assert_eq!((all.count("<tr>"), all.count("More ") > 8), (13, true));
    assert!(!all.text.contains("<bdi>Far</bdi>") && !all.text.contains("<bdi>Over</bdi>"));
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_merge_backlog_is_shown() {
    let options = "sqlite::memory:".parse::<sqlx::sqlite::SqliteConnectOptions>();
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options.unwrap()).await.unwrap();
    let backend = keytally::backend::SqliteBackend::from_pool(pool.clone());
    backend.migrate().await.unwrap();
    let pages = Pages::over(backend);
    let overview = pages.get("/admin").await.text;
    assert!(overview.contains("Unmerged records") && !overview.contains("Merging is behind"));
    // Of a later version, and of a process that wrote an empty record six minutes ago.
    let records =
        "INSERT INTO keytally_rollup_records (format, ready, first, last, written_at, rollups)
        VALUES (9, 0, 0, 0, unixepoch() * 1000000, x''),
            (1, 1, 0, 0, (unixepoch() - 360) * 1000000, x'0100000000')";
    sqlx::query(records).execute(&pool).await.unwrap();
    let overview = pages.get("/admin").await.text;
    for text in ["Merging is behind", "Unreadable records"] {
        assert!(overview.contains(text), "{text}");
    }
    let backlog = pages.get("/admin/api/merge-backlog").await;
    let backlog: serde_json::Value = serde_json::from_str(&backlog.text).unwrap();
    assert_eq!(
        (&backlog["records"], &backlog["unreadable"]),
        (&1.into(), &1.into())
    );
    assert!(backlog["oldest_at"].is_string());
}
