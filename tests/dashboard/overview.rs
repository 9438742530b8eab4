//! All keys at a glance.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use keytally::backend::MemoryBackend;
use keytally::key::KeyAdmin;
use keytally::usage::{Cause, Outcome, Recorder, Status};

use crate::pages::Pages;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

#[tokio::test]
async fn what_the_recorder_has_written_is_told() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let pages = Pages::with(backend, |dashboard| dashboard.recorder(recorder));
    let page = pages.get("/admin").await;
    for told in [
        "<dt>Written</dt><dd>0</dd>",
        "<dt>In the queue</dt><dd>0</dd>",
        "<dt>Lost</dt><dd>0</dd>",
        "<dt>Last success</dt><dd>none yet</dd>",
    ] {
        assert!(page.text.contains(told), "{told} in {}", page.text);
    }
    // Without an issuer, nothing offers what cannot be done.
    assert!(!page.text.contains("Generate"));
}

#[tokio::test]
async fn where_nothing_is_yet_the_first_step_is_told() {
    let pages = Pages::new();
    for path in ["/admin", "/admin/"] {
        let page = pages.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert_eq!(page.link("Generate an API key"), "/admin/keys/new");
    }
    pages.key("First").await;
    let page = pages.get("/admin").await;
    assert!(!page.text.contains("There are no keys yet"));
    assert!(
        page.text
            .contains("has not told the dashboard of its recorder")
    );
}

#[tokio::test]
async fn cards_charts_and_keys_by_traffic_are_of_all_keys() {
    let pages = Pages::new();
    let (busy, calm) = (pages.key("Busy").await, pages.key("Calm").await);
    let gone = pages.key("Gone").await;
    pages.requests(&busy, 30, MINUTE, |_, _| ()).await;
    pages.requests(&calm, 12, MINUTE, |_, _| ()).await;
    pages.requests(&gone, 6, MINUTE, |_, _| ()).await;
    // Before the range, and so only in what it is compared with.
    pages.requests(&calm, 24, days(1) + MINUTE, |_, _| ()).await;
    pages.backend.delete(gone.id).await.unwrap();
    let page = pages.get("/admin").await;
    assert!(page.text.contains(">48</a></p>"), "{}", page.text);
    assert!(page.text.contains("+100\u{a0}%"));
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
    // What is clicked leads to its requests, and to those of this range alone.
    let log = pages.get(&page.link("<bdi>/v1/postings</bdi>")).await;
    assert!(log.text.contains("<p>48 requests</p>"), "{}", log.text);
    let log = pages
        .get(&page.link(&format!("<bdi>{gone_label}</bdi>")))
        .await;
    assert!(log.text.contains("<p>6 requests</p>"), "{}", log.text);
}

#[tokio::test]
async fn keys_that_fare_worse_are_told_and_the_rule_too() {
    let pages = Pages::new();
    let (broken, fine) = (pages.key("Broken").await, pages.key("Fine").await);
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
    // As bad as it was before.
    pages.requests(&fine, 50, MINUTE, fail).await;
    pages.requests(&fine, 50, days(1) + MINUTE, fail).await;
    let page = pages.get("/admin").await.text;
    let (_, section) = page
        .split_once("More failures or refusals than before")
        .unwrap();
    let (section, _) = section.split_once("</section>").unwrap();
    assert!(
        section.contains("Broken") && !section.contains("Fine"),
        "{section}"
    );
    assert!(section.contains("25 of 50 (50.0\u{a0}%)"), "{section}");
    assert!(section.contains("0 of 50 (0\u{a0}%)"), "{section}");
    assert!(section.contains("at least 20 requests") && section.contains("5 percentage points"));
}

#[tokio::test]
async fn unused_keys_can_be_disabled_from_there() {
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
    let shown = section("Not used for 90 days").await;
    assert!(shown.contains("Forgotten"), "{shown}");
    assert!(
        !shown.contains("Young") && !shown.contains("Used<"),
        "{shown}"
    );
    let at = format!("/admin/keys/{}/disable?back=overview", unused.id);
    assert!(shown.contains(&at), "{shown}");
    let answer = pages.change(&at, &[]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.headers["location"], "/admin");
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
        section("Not used for 90 days")
            .await
            .contains("Every key that works")
    );
}

#[tokio::test]
async fn keys_expiring_soon_stand_in_the_order_of_their_ends() {
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
    let (_, section) = page.split_once("Expiring in 30 days").unwrap();
    let (section, _) = section.split_once("</section>").unwrap();
    let names: Vec<_> = section
        .split("<bdi>")
        .skip(1)
        .map(|it| it.split('<').next().unwrap())
        .collect();
    assert_eq!(names, ["First", "Second", "Third"]);
    // Where there are more than are shown, all of them are one click away.
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
