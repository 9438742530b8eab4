//! The API key filter of the request log.

use http::StatusCode;
use http::header::LOCATION;
use jiff::{SignedDuration, Timestamp};
use keytally::key::{Actor, KeyAdmin};

use crate::pages::{Answer, Pages};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// The field of the key with its label.
fn field(page: &Answer) -> &str {
    let (_, field) = page
        .text
        .split_once("<label for=\"key\">")
        .expect("a field");
    field.split_once("</p>").unwrap().0
}

fn rows(page: &Answer) -> usize {
    page.count("<td class=\"when\">")
}

#[track_caller]
fn leads_to(answer: &Answer, url: &str) {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    assert_eq!(answer.headers[LOCATION], *url);
}

#[tokio::test]
async fn keys_are_chosen_by_name_and_hint() {
    let pages = Pages::new();
    let zapier = pages.key("Zapier").await;
    let another = pages.key("another").await;
    let deleted = pages.key("Deleted").await;
    for (key, many) in [(&zapier, 5), (&another, 3), (&deleted, 2)] {
        pages.requests(key, many, MINUTE, |_, _| ()).await;
    }
    pages
        .backend
        .delete(deleted.id, Actor::SYSTEM)
        .await
        .unwrap();
    let option = |key: &keytally::key::Key, selected| {
        let selected = if selected { " selected" } else { "" };
        format!(
            "<option value=\"{}\"{selected}>{} · {}</option>",
            key.id, key.name, key.hint
        )
    };
    let all = pages.get("/admin/log").await;
    let options = format!(
        "<option value=\"\" selected>All keys</option>{}{}</select>",
        option(&another, false),
        option(&zapier, false)
    );
    assert!(field(&all).ends_with(&options), "{}", field(&all));
    assert_eq!(rows(&all), 10);
    let one = pages.get(&format!("/admin/log?key={}", another.id)).await;
    assert!(field(&one).contains(&option(&another, true)));
    assert_eq!(rows(&one), 3);
    // The requests of a deleted key are kept.
    let gone = pages.get(&format!("/admin/log?key={}", deleted.id)).await;
    let option_of_deleted = format!("<option value=\"{0}\" selected>{0} (deleted)", deleted.id);
    assert!(
        field(&gone).contains(&option_of_deleted),
        "{}",
        field(&gone)
    );
    assert_eq!(rows(&gone), 2);
    let unknown = pages.get("/admin/log?key=Zapier").await;
    assert!(field(&unknown).contains("Choose a key from the list."));
    assert_eq!(rows(&unknown), 0);
    // On the page of a key, it is chosen.
    let page = pages.get(&format!("/admin/keys/{}", zapier.id)).await;
    assert!(field(&page).contains(&option(&zapier, true)));
    assert_eq!(rows(&page), 5);
}

#[tokio::test]
async fn another_key_on_the_page_of_a_key_leads_to_its_page_with_the_same_filters() {
    let pages = Pages::new();
    let (zapier, other) = (pages.key("Zapier").await, pages.key("Other").await);
    let at = format!("/admin/keys/{}", zapier.id);
    let filters = "method=GET&code=4xx&since=2026-01-01T00%3A00&zone=Asia%2FKathmandu";
    let ask = async |query: String| pages.get(&format!("{at}?{query}")).await;
    for stays in [
        String::new(),
        filters.into(),
        format!("key={}&{filters}", zapier.id),
    ] {
        assert_eq!(ask(stays).await.status, StatusCode::OK);
    }
    let answer = ask(format!("range=7d&key={}&{filters}", other.id)).await;
    leads_to(
        &answer,
        &format!("/admin/keys/{}?range=7d&{filters}", other.id),
    );
    let answer = ask(format!("key={}", other.id)).await;
    leads_to(&answer, &format!("/admin/keys/{}", other.id));
    // All keys, in the range of the page unless the filter has times.
    let custom = "range=custom&from=2025-03-04T10%3A00%3A00Z&to=2025-03-04T10%3A15%3A00Z";
    let answer = ask(format!("{custom}&key=&method=GET&outcome=")).await;
    let times = "since=2025-03-04T10%3A00%3A00Z&until=2025-03-04T10%3A15%3A00Z";
    leads_to(&answer, &format!("/admin/log?method=GET&{times}"));
    let answer = ask(format!("range=7d&key=&{filters}")).await;
    let filters = "method=GET&code=4xx&zone=Asia%2FKathmandu&since=2026-01-01T00%3A00";
    leads_to(&answer, &format!("/admin/log?{filters}"));
    let answer = ask("range=1h&key=".into()).await;
    let to = answer.headers[LOCATION].to_str().unwrap();
    let since = to
        .strip_prefix("/admin/log?since=")
        .unwrap()
        .replace("%3A", ":");
    let since: Timestamp = since.parse().unwrap();
    let ago = Timestamp::now().duration_since(since);
    assert!((MINUTE * 59..MINUTE * 63).contains(&ago), "{ago:?}");
    // A name is resolved on the page of all keys.
    let answer = ask("key=Other+key&since=2026-01-01T00:00:00Z".into()).await;
    leads_to(
        &answer,
        "/admin/log?key=Other+key&since=2026-01-01T00%3A00%3A00Z",
    );
}

#[tokio::test]
async fn among_many_keys_one_is_entered_by_name_hint_or_id() {
    let pages = Pages::new();
    let oldest = pages
        .key_with("Oldest", |key| key.created_at -= MINUTE)
        .await;
    for n in 0..200 {
        pages.key(&format!("Key {n:03}")).await;
    }
    let deleted = pages.key("Deleted").await;
    for (key, many) in [(&oldest, 5), (&deleted, 2)] {
        pages.requests(key, many, MINUTE, |_, _| ()).await;
    }
    pages
        .backend
        .delete(deleted.id, Actor::SYSTEM)
        .await
        .unwrap();
    let all = pages.get("/admin/log").await;
    assert!(field(&all).contains("list=\"keys\"") && field(&all).contains("Name, hint or ID"));
    let (_, suggestions) = all.text.split_once("<datalist id=\"keys\">").unwrap();
    let (suggestions, _) = suggestions.split_once("</datalist>").unwrap();
    assert_eq!(suggestions.matches("label=\"Key ").count(), 200);
    assert!(!suggestions.contains("Oldest"));
    assert_eq!(rows(&all), 7);
    let hint = oldest.hint.replace('…', "%E2%80%A6");
    for (text, count) in [
        ("oldest", 5),
        (&hint, 5),
        (oldest.id.as_str(), 5),
        (deleted.id.as_str(), 2),
    ] {
        let page = pages
            .get(&format!("/admin/log?key={text}&method=GET"))
            .await;
        assert_eq!(rows(&page), count, "{text}");
        let (id, hint) = match count {
            5 => (oldest.id, format!("Oldest · {}", oldest.hint)),
            _ => (deleted.id, "Name, hint or ID".into()),
        };
        assert!(field(&page).contains(&format!("value=\"{id}\"")), "{text}");
        assert!(field(&page).contains(&hint), "{text}: {}", field(&page));
        // Links have the id.
        let csv = pages.get(&page.link("Export CSV")).await.text;
        assert_eq!(csv.lines().count(), count + 1, "{text}");
    }
    for (text, why) in [
        ("Key 0", "Several keys match. Enter the key ID."),
        ("nobody", "No key has this name, hint or ID."),
    ] {
        let page = pages
            .get(&format!("/admin/log?key={}", text.replace(' ', "+")))
            .await;
        assert!(field(&page).contains(why), "{text}: {}", field(&page));
        assert!(field(&page).contains(&format!("value=\"{text}\"")));
        assert_eq!(rows(&page), 0);
    }
    let page = pages.get(&format!("/admin/keys/{}", oldest.id)).await;
    assert!(field(&page).contains(&format!("value=\"{}\"", oldest.id)));
}
