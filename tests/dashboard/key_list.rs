//! The list of keys: order, count and pages, and what its buttons copy.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use keytally::backend::MemoryBackend;
use keytally::key::{Issuer, Key, Vault};

use crate::pages::{Answer, Pages};

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// The names in the list, in order.
fn names(page: &Answer) -> Vec<&str> {
    let rows = page.text.split("<th class=\"name\" scope=\"row\">").skip(1);
    let names = rows.map(|row| row.split_once("<bdi>").unwrap().1);
    names.map(|name| name.split('<').next().unwrap()).collect()
}

#[tokio::test]
async fn keys_are_sorted_and_counted() {
    let pages = Pages::new();
    let now = Timestamp::now();
    let add = async |name: &str, created, used: Option<i64>, expires: Option<i64>| {
        let set = |key: &mut Key| {
            key.created_at = now - days(created);
            key.last_accepted_at = used.map(|used| now - days(used));
            key.expires_at = expires.map(|expires| now + days(expires));
        };
        pages.key_with(name, set).await
    };
    add("beta", 9, Some(1), None).await;
    add("Alpha", 8, None, Some(5)).await;
    add("gamma", 7, Some(3), Some(2)).await;
    for (sort, expected, direction) in [
        ("", ["gamma", "Alpha", "beta"], "descending"),
        ("?sort=oldest", ["beta", "Alpha", "gamma"], "ascending"),
        ("?sort=name", ["Alpha", "beta", "gamma"], "ascending"),
        (
            "?sort=last-accepted",
            ["beta", "gamma", "Alpha"],
            "descending",
        ),
        (
            "?sort=longest-idle",
            ["Alpha", "gamma", "beta"],
            "ascending",
        ),
        ("?sort=expiry", ["gamma", "Alpha", "beta"], "ascending"),
    ] {
        let page = pages.get(&format!("/admin/keys{sort}")).await;
        assert_eq!(names(&page), expected, "{sort}");
        assert!(page.text.contains("<p>3 API keys</p>"), "{sort}");
        let sorted = format!("aria-sort=\"{direction}\"");
        assert_eq!(page.count("aria-sort"), 1, "{sort}");
        assert!(page.text.contains(&sorted), "{sort}");
    }
    // Column heads sort, and keep the filters.
    let page = pages.get("/admin/keys?status=active").await;
    for (column, sort) in [
        ("Name", "name"),
        ("Created", "oldest"),
        ("Last accepted", "last-accepted"),
        ("Expires", "expiry"),
    ] {
        let link = page.link(column);
        assert_eq!(link, format!("/admin/keys?status=active&sort={sort}"));
    }
    let page = pages.get("/admin/keys?name=a&sort=last-accepted").await;
    assert_eq!(
        page.link("Last accepted"),
        "/admin/keys?name=a&sort=longest-idle"
    );
    let page = pages.get("/admin/keys?name=gamma").await;
    assert!(page.text.contains("<p>1 API key</p>"));
    let page = pages.get("/admin/keys?sort=odd").await;
    assert_eq!((page.status, names(&page).len()), (StatusCode::OK, 0));
    assert!(page.text.contains("Choose an order from the list."));
}

#[tokio::test]
async fn sorted_lists_have_pages_of_50_keys() {
    let pages = Pages::new();
    for n in 0..120 {
        pages.key(&format!("Key {n:03}")).await;
    }
    let mut seen = Vec::new();
    let mut page = pages.get("/admin/keys?sort=name").await;
    assert!(page.text.contains("<p>120 API keys</p>"));
    while page.text.contains(">Next<") {
        seen.extend(names(&page).into_iter().map(String::from));
        page = pages.get(&page.link("Next")).await;
    }
    seen.extend(names(&page).into_iter().map(String::from));
    let expected: Vec<_> = (0..120).map(|n| format!("Key {n:03}")).collect();
    assert_eq!(seen, expected);
    let page = pages.get(&page.link("Previous")).await;
    assert_eq!((names(&page).len(), names(&page)[0]), (50, "Key 050"));
    for page in ["0", "-1", "99", "x"] {
        let page = pages
            .get(&format!("/admin/keys?sort=name&page={page}"))
            .await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(!names(&page).is_empty());
    }
    // By creation, with tokens.
    let newest = pages.get("/admin/keys").await;
    let older = pages.get(&newest.link("Older")).await;
    assert_eq!(
        (names(&newest)[0], names(&older)[0]),
        ("Key 119", "Key 069")
    );
    assert!(older.text.contains("<p>120 API keys</p>"));
}

#[tokio::test]
async fn more_than_1000_keys_are_not_sorted() {
    let pages = Pages::new();
    for n in 0..1_001 {
        let owner = if n < 3 { "acme" } else { "other" };
        let set = |key: &mut Key| key.owner = Some(owner.into());
        pages.key_with(&format!("Key {n:04}"), set).await;
    }
    let page = pages.get("/admin/keys?sort=name").await;
    assert!(page.text.contains("<p>1,000+ API keys</p>"));
    assert!(page.text.contains("Only 1,000 keys can be sorted."));
    assert_eq!(names(&page)[0], "Key 1000");
    assert_eq!(names(&pages.get(&page.link("Older")).await)[0], "Key 0950");
    // Filters reduce them.
    let page = pages.get("/admin/keys?sort=name&owner=acme").await;
    assert!(!page.text.contains("can be sorted"));
    assert_eq!(names(&page), ["Key 0000", "Key 0001", "Key 0002"]);
}

#[tokio::test]
async fn buttons_copy_the_secret_if_it_is_stored_and_else_the_key_id() {
    let vault = Issuer::new("acme_live").unwrap().vault(Vault::new([7; 32]));
    let pages = Pages::with(MemoryBackend::new(), |dashboard| dashboard.issuer(vault));
    let generate = async |name: &str, recoverable: &str| {
        let fields = [("name", name), ("recoverable", recoverable)];
        let page = pages.send("/admin/keys/new", &fields).await;
        page.link("View usage")
            .rsplit_once('/')
            .unwrap()
            .1
            .to_owned()
    };
    let (plain, stored) = (generate("Plain", "").await, generate("Stored", "yes").await);
    let page = pages.get("/admin/keys").await.text;
    let id = format!("data-copy=\"{plain}\" aria-label=\"Copy key ID of Plain\"");
    assert!(page.contains(&id), "{page}");
    let url = format!("/admin/api/keys/{stored}/reveal");
    let secret = format!("data-copy-secret=\"{url}\" aria-label=\"Copy secret of Stored\"");
    assert!(page.contains(&secret), "{page}");
    assert!(!page.contains("acme_live_") || !page.contains(&format!("acme_live_{stored}")));
    // What the script sends.
    let revealed = pages
        .post(&url, &[], &[("sec-fetch-site", "same-origin")])
        .await;
    assert_eq!(revealed.status, StatusCode::OK);
    assert!(
        revealed
            .text
            .contains(&format!("\"secret\":\"acme_live_{stored}"))
    );
    let audit = pages.get("/admin/audit?action=revealed").await;
    assert_eq!(audit.count("<td data-label=\"Action\">revealed</td>"), 1);
}
