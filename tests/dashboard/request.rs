//! The page of a request.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use keytally::key::{Actor, Key, KeyAdmin};
use keytally::usage::{Cause, Method, Outcome, RejectionReason, Status, UsageEvent};
use serde_json::Value;

use crate::log::found;
use crate::pages::Pages;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A key with a rejected request, and another one in the same minute.
async fn rejected() -> (Pages, Key, Timestamp) {
    let pages = Pages::new();
    let owned = |key: &mut Key| key.owner = Some("customer 17".into());
    let key = pages.key_with("Zapier <b>", owned).await;
    let time: Timestamp = "2026-11-01T10:00:30.123456Z".parse().unwrap();
    let set = |n: u64, event: &mut UsageEvent| {
        event.time = time + SignedDuration::from_secs(n as i64 * 10);
        event.method = Method::Post;
        event.endpoint = "/v1/postings/{id}".into();
        event.path = "/v1/postings/7".into();
        event.client_ip = Some([203, 0, 113, 7].into());
        event.latency_us = 12_345;
        event.request_bytes = 1_024;
        event.response_bytes = 2_048;
        event.cost = 3;
        if n == 0 {
            event.id = ID.parse().unwrap();
            event.request_id = Some("wire \"1\"".into());
            event.resource_id = Some("posting <7>".into());
            event.status = Status::Http(403);
            (event.outcome, event.cause) = (Outcome::Failed, Some(Cause::Rejected));
            event.rejection_reason = Some(RejectionReason::ClientIp);
        }
    };
    pages.requests(&key, 2, MINUTE, set).await;
    (pages, key, time)
}

#[tokio::test]
async fn all_fields_of_a_request_are_shown() {
    let (pages, key, _) = rejected().await;
    let page = pages.get(&format!("/admin/log/requests/{ID}")).await;
    assert_eq!(page.status, StatusCode::OK);
    for text in [
        "<h1><bdi>POST /v1/postings/{id}</bdi>",
        "Address not allowed.</strong>",
        "is unknown or not among the allowed IPs of the API key.",
        "2026-11-01 10:00:30.123 UTC",
        "2026-11-01 10:00:30.123456 UTC",
        "403 Forbidden",
        "<bdi>Zapier &lt;b&gt;</bdi>",
        &format!("href=\"/admin/keys/{}\"", key.id),
        "href=\"/admin/owners/customer%2017\"",
        "/v1/postings/7",
        "posting &lt;7&gt;",
        "203.0.113.7",
        "12 ms",
        "1,024",
        "2,048",
        "<dd>3</dd>",
        "wire &quot;1&quot;",
        ID,
        "Copy as JSON",
    ] {
        assert!(page.text.contains(text), "{text}: {}", page.text);
    }
    // The JSON is that of the API.
    let (_, json) = page.text.split_once("<pre").unwrap();
    let (_, json) = json.split_once("<code>").unwrap();
    let (json, _) = json.split_once("</code>").unwrap();
    let json = json.replace("&quot;", "\"").replace("&lt;", "<");
    let json: Value = serde_json::from_str(&json.replace("&gt;", ">")).unwrap();
    let api = pages.get(&format!("/admin/api/log/{ID}")).await.text;
    assert_eq!(json, serde_json::from_str::<Value>(&api).unwrap());
    assert_eq!(json["resource_id"], "posting <7>");
}

#[tokio::test]
async fn related_requests_are_linked() {
    let (pages, key, _) = rejected().await;
    pages.requests(&key, 3, MINUTE, |_, _| ()).await;
    let page = pages.get(&format!("/admin/log/requests/{ID}")).await;
    for (link, expected) in [
        ("Same resource", 1),
        ("Same client", 2),
        ("Same minute", 2),
        ("Same key", 5),
    ] {
        let linked = pages.get(&page.link(link)).await;
        assert_eq!(found(&linked), expected, "{link}");
    }
}

#[tokio::test]
async fn rows_link_to_their_requests() {
    let (pages, key, _) = rejected().await;
    let at = format!("href=\"/admin/log/requests/{ID}\"");
    let log = pages.get("/admin/log").await;
    assert!(log.text.contains(&at), "{}", log.text);
    let range = "range=custom&from=2026-11-01T00:00&to=2026-11-02T00:00";
    let log = pages.get(&format!("/admin/keys/{}?{range}", key.id)).await;
    assert!(log.text.contains(&at), "{}", log.text);
    // Ids of requests that were not given one are shortened.
    assert_eq!(log.count("Copy request ID"), 2);
    assert!(log.text.contains("<bdi>wire &quot;1&quot;</bdi>"));
}

#[tokio::test]
async fn the_request_of_a_deleted_key_is_shown() {
    let (pages, key, _) = rejected().await;
    pages.backend.delete(key.id, Actor::SYSTEM).await.unwrap();
    let page = pages.get(&format!("/admin/log/requests/{ID}")).await;
    assert!(
        page.text
            .contains(&format!("<code>{}</code> (deleted)", key.id))
    );
    // Requests without a key have none.
    let set = |_, event: &mut UsageEvent| {
        event.id = uuid::Uuid::from_u128(7);
        (event.key, event.owner) = (None, None);
    };
    pages.requests(&key, 1, MINUTE, set).await;
    let id = uuid::Uuid::from_u128(7);
    let page = pages.get(&format!("/admin/log/requests/{id}")).await;
    assert_eq!(page.status, StatusCode::OK);
    for absent in [
        "Same key",
        "Same client",
        "Same resource",
        "class=\"warning\"",
    ] {
        assert!(!page.text.contains(absent), "{absent}");
    }
}

#[tokio::test]
async fn missing_requests_are_not_found() {
    let (pages, _, _) = rejected().await;
    for id in [
        "01890a5d-ac96-774b-bcce-b302099a8058",
        "wire%20%221%22",
        "%3Cscript%3E",
        "%00",
        "7",
    ] {
        let page = pages.get(&format!("/admin/log/requests/{id}")).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{id}");
        assert!(page.text.contains("<h1>Request not found</h1>"), "{id}");
        assert!(!page.text.contains("<script>"), "{id}");
    }
    // Any notation of the id.
    let simple = ID.replace('-', "").to_uppercase();
    let page = pages.get(&format!("/admin/log/requests/{simple}")).await;
    assert_eq!(page.status, StatusCode::OK);
}
