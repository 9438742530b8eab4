//! Accepted and rejected requests of keys, and rotated keys.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use keytally::key::{Actor, Key, KeyAdmin, KeyQuery};
use keytally::usage::{Cause, Outcome, RejectionReason, UsageEvent};

use crate::pages::{Answer, Pages};

fn path(key: &Key, page: &str) -> String {
    format!("/admin/keys/{}{page}", key.id)
}

fn reject(event: &mut UsageEvent) {
    event.rejection_reason = Some(RejectionReason::Revoked);
    (event.outcome, event.cause) = (Outcome::Failed, Some(Cause::Rejected));
}

/// The fact with this term.
fn fact<'a>(page: &'a Answer, term: &str) -> &'a str {
    let start = format!("<dt>{term}</dt><dd>");
    let (_, rest) = page.text.split_once(&start).expect(term);
    rest.split("</dd>").next().unwrap()
}

/// Rotates a key with a grace period, and returns the new one.
async fn rotated(pages: &Pages, key: &Key, grace: &str) -> Key {
    let page = pages.send(&path(key, "/rotate"), &[("grace", grace)]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    let id = page.link("View usage").rsplit('/').next().unwrap().parse();
    pages.backend.get(id.unwrap()).await.unwrap().unwrap()
}

#[tokio::test]
async fn rejected_requests_are_counted_apart_from_the_last_accepted_one() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let minutes = SignedDuration::from_mins;
    pages.requests(&key, 3, minutes(20), |_, _| ()).await;
    pages
        .requests(&key, 1_087, minutes(10), |_, event| reject(event))
        .await;
    let accepted = pages.backend.get(key.id).await.unwrap().unwrap();
    let accepted = accepted.last_accepted_at.unwrap();
    assert!(accepted <= Timestamp::now() - minutes(19));
    let shown = format!("<time class=\"minute\" datetime=\"{accepted}\"");
    let since = "<small>Rejected since: 1,087</small>";
    let page = pages.get(&path(&key, "")).await;
    assert!(fact(&page, "Last accepted").starts_with(&shown));
    assert_eq!(fact(&page, "Rejected since"), "1,087");
    for action in ["/disable", "/rotate", "/revoke", "/delete"] {
        let form = pages.get(&path(&key, action)).await;
        let accepted = fact(&form, "Last accepted");
        let expected = format!("<span>{shown}");
        assert!(accepted.starts_with(&expected), "{accepted}");
        assert!(accepted.contains(since), "{accepted}");
    }
    let list = pages.get("/admin/keys").await.text;
    assert!(list.contains(&shown) && list.contains(since), "{list}");
    // A later accepted request resets the number, and an older one does not.
    pages.requests(&key, 1, minutes(60), |_, _| ()).await;
    assert_eq!(
        fact(&pages.get(&path(&key, "")).await, "Rejected since"),
        "1,087"
    );
    pages.requests(&key, 1, minutes(1), |_, _| ()).await;
    assert_eq!(
        fact(&pages.get(&path(&key, "")).await, "Rejected since"),
        "0"
    );
}

#[tokio::test]
async fn old_and_new_keys_refer_to_each_other() {
    let pages = Pages::new();
    let old = pages.key("Courier").await;
    let minutes = SignedDuration::from_mins;
    pages.requests(&old, 5, minutes(90), |_, _| ()).await;
    let new = rotated(&pages, &old, "1h").await;
    pages.requests(&old, 12, minutes(5), |_, _| ()).await;

    let page = pages.get(&path(&old, "")).await;
    assert!(
        page.text
            .contains("<span class=\"badge replaced\">replaced</span>")
    );
    let link = |key: &Key| {
        format!(
            "<a href=\"{}\"><code>{}</code></a>",
            path(key, ""),
            key.hint
        )
    };
    assert_eq!(fact(&page, "Replaced by"), link(&new));
    assert_eq!(fact(&page, "Old secret"), "12 requests in the last hour");
    assert!(fact(&page, "Old secret ends").ends_with(">in 60 min</span>"));
    assert_eq!(fact(&page, "New secret first accepted"), "Not yet");
    assert_eq!(page.link("End it now"), path(&old, "/revoke"));
    assert_eq!(page.count(">Rotate</a>"), 0);

    pages.requests(&new, 1, minutes(2), |_, _| ()).await;
    let first = pages.backend.get(new.id).await.unwrap().unwrap();
    let first = first.first_accepted_at.unwrap();
    pages.requests(&new, 1, minutes(1), |_, _| ()).await;
    for key in [&old, &new] {
        let page = pages.get(&path(key, "")).await;
        let shown = format!("<time class=\"minute\" datetime=\"{first}\"");
        assert!(fact(&page, "New secret first accepted").starts_with(&shown));
        assert_eq!(fact(&page, "Old secret"), "12 requests in the last hour");
        let end = page.link("End it now");
        assert_eq!(end.split('?').next(), Some(&*path(&old, "/revoke")));
    }
    let page = pages.get(&path(&new, "")).await;
    assert_eq!(fact(&page, "Replaces"), link(&old));
    assert_eq!(page.link("Rotate"), path(&new, "/rotate"));

    let list = pages.get("/admin/keys").await;
    assert!(
        list.text
            .contains(&format!("<small>Replaces {}</small>", link(&old)))
    );
    assert!(
        list.text
            .contains(&format!("<small>Replaced by {}</small>", link(&new)))
    );
    assert_eq!(
        list.count("<span class=\"badge replaced\">replaced</span>"),
        1
    );
    assert_eq!(list.count("<small>ends <span title="), 1);
    assert_eq!(list.count("/rotate"), 1);
    assert_eq!(list.count(&path(&new, "/rotate")), 1);

    pages.backend.revoke(old.id, Actor::SYSTEM).await.unwrap();
    let page = pages.get(&path(&new, "")).await;
    assert_eq!(page.count("End it now"), 0);
    assert!(fact(&page, "Old secret ended").starts_with("<time"));
}

#[tokio::test]
async fn a_replaced_key_cannot_be_rotated() {
    let pages = Pages::new();
    let old = pages.key("Courier").await;
    let new = rotated(&pages, &old, "24h").await;
    let token = pages.token(&path(&new, "/rotate")).await;
    let fields = [("token", &*token), ("grace", "1h"), ("once", "again")];
    for page in [
        pages.get(&path(&old, "/rotate")).await,
        pages.post(&path(&old, "/rotate"), &fields, &[]).await,
    ] {
        assert_eq!(page.status, StatusCode::CONFLICT);
        assert!(page.text.contains("A key can be rotated only once."));
        assert_eq!(page.link("Rotate new key"), path(&new, "/rotate"));
    }
    assert_eq!(
        pages
            .backend
            .list(&KeyQuery::new())
            .await
            .unwrap()
            .items
            .len(),
        2
    );

    // Unless the new key was deleted.
    pages.backend.delete(new.id, Actor::SYSTEM).await.unwrap();
    let page = pages.get(&path(&old, "")).await;
    let deleted = format!("<code>{}</code> (deleted)", new.id);
    assert_eq!(fact(&page, "Replaced by"), deleted);
    let list = pages.get("/admin/keys").await;
    assert!(
        list.text
            .contains(&format!("<small>Replaced by {deleted}</small>"))
    );
    assert_eq!(list.count(&path(&old, "/rotate")), 1);
    let again = rotated(&pages, &old, "1h").await;
    assert_eq!(again.rotated_from, Some(old.id));
}
