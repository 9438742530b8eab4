//! Idempotent creation and rotation of keys.

use std::sync::Arc;

use http::Method;
use keytally::PageRequest;
use keytally::key::{KeyAdmin, KeyQuery, NewKey};
use serde_json::Value;

use super::{Answer, Api};

impl Api {
    async fn once(&self, path: &str, key: &str, body: &str) -> Answer {
        let headers = [("idempotency-key", key)];
        self.send(Method::POST, path, &headers, body).await
    }

    async fn keys(&self) -> usize {
        let all = self.backend.list(&KeyQuery::new()).await.unwrap();
        all.items.len()
    }
}

const BODY: &str = r#"{"name":"a"}"#;

#[tokio::test]
async fn a_retry_receives_the_first_response() {
    let api = Api::new();
    let first = api.once("/keys", "try-1", BODY).await.with(201);
    // Also with the quotes of a structured field.
    for again in ["try-1", r#""try-1""#] {
        assert_eq!(api.once("/keys", again, BODY).await.with(201), first);
    }
    assert_eq!(api.keys().await, 1);
    let other = api.once("/keys", "try-2", BODY).await.with(201);
    assert_ne!(other["key"]["id"], first["key"]["id"]);
    for _ in 0..2 {
        api.post("/keys", BODY).await.with(201);
    }
    assert_eq!(api.keys().await, 4);
}

#[tokio::test]
async fn concurrent_requests_create_one_key() {
    let api = Api::new();
    let api = Arc::new(api);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let api = api.clone();
        requests.spawn(async move { api.once("/keys", "try-1", BODY).await });
    }
    let responses = requests.join_all().await;
    let created: Vec<Value> = responses
        .iter()
        .filter(|response| response.status == 201)
        .map(Answer::json)
        .collect();
    assert!(created.iter().all(|response| *response == created[0]));
    assert!(
        responses
            .iter()
            .all(|it| [201, 409].contains(&it.status.as_u16()))
    );
    assert_eq!(api.keys().await, 1);
}

#[tokio::test]
async fn a_retry_at_another_process_names_the_created_key() {
    let first = Api::new();
    let created = first.once("/keys", "try-1", BODY).await.with(201);
    let id = created["key"]["id"].as_str().unwrap();
    let rotate = format!("/keys/{id}/rotate");
    let grace = r#"{"grace_seconds":60}"#;
    let new = first.once(&rotate, "try-1", grace).await.with(201);

    // Another process with the same store has no stored responses.
    let second = Api::over(first.backend.clone());
    let (detail, _) = second.once("/keys", "try-1", BODY).await.problem(409);
    assert!(detail.contains(id), "{detail}");
    let (detail, _) = second.once(&rotate, "try-1", grace).await.problem(409);
    assert!(
        detail.contains(new["key"]["id"].as_str().unwrap()),
        "{detail}"
    );
    assert_eq!(first.keys().await, 2);
}

#[tokio::test]
async fn a_rotation_without_grace_can_be_retried() {
    let api = Api::new();
    let id = api.issue(NewKey::new("a")).await.key.id;
    let rotate = format!("/keys/{id}/rotate");
    let now = r#"{"grace_seconds":0}"#;
    let first = api.once(&rotate, "try-1", now).await.with(201);
    assert_eq!(api.once(&rotate, "try-1", now).await.with(201), first);
    let (detail, _) = Api::over(api.backend.clone())
        .once(&rotate, "try-1", now)
        .await
        .problem(409);
    assert!(detail.contains("already created"), "{detail}");
}

#[tokio::test]
async fn a_retry_after_a_disconnect_receives_the_response() {
    let api = Api::new();
    let mut request = Box::pin(api.once("/keys", "try-1", BODY));
    let is_pending = std::future::poll_fn(|context| {
        let poll = request.as_mut().poll(context);
        std::task::Poll::Ready(poll.is_pending())
    });
    assert!(is_pending.await);
    drop(request);
    tokio::task::yield_now().await;
    let created = api.once("/keys", "try-1", BODY).await.with(201);
    assert_eq!(api.once("/keys", "try-1", BODY).await.with(201), created);
    assert_eq!(api.keys().await, 1);
}

#[tokio::test]
async fn evicted_responses_do_not_allow_duplicates() {
    let api = Api::new();
    let first = api.once("/keys", "try-0", BODY).await.with(201);
    for n in 1..1_030 {
        api.once("/keys", &format!("try-{n}"), BODY).await.with(201);
    }
    api.once("/keys", "try-1029", BODY).await.with(201);
    // The first responses have been evicted.
    let (detail, _) = api.once("/keys", "try-0", BODY).await.problem(409);
    assert!(detail.contains(first["key"]["id"].as_str().unwrap()));
    assert!(!detail.contains(first["secret"].as_str().unwrap()));
    api.once("/keys", "try-1030", BODY).await.with(201);
    let query = KeyQuery::new().limit(PageRequest::MAX_LIMIT);
    let page = api.backend.list(&query).await.unwrap();
    let mut rest = query.clone();
    rest.page.after = page.next;
    let rest = api.backend.list(&rest).await.unwrap();
    assert_eq!(page.items.len() + rest.items.len(), 1_031);
}

#[tokio::test]
async fn failed_requests_can_be_retried() {
    let api = Api::new();
    api.once("/keys", "try-1", r#"{"name":""}"#)
        .await
        .problem(422);
    api.once("/keys", "try-1", BODY).await.with(201);
    let (_, wrong) = api
        .once("/keys", "try-1", r#"{"name":"b"}"#)
        .await
        .problem(422);
    assert_eq!(wrong["header"], "Idempotency-Key");
    assert_eq!(api.keys().await, 1);
}

#[tokio::test]
async fn malformed_idempotency_keys_are_rejected() {
    let api = Api::new();
    let long = "a".repeat(256);
    for key in ["", "\"\"", " ", "a b", "\"a", "a\\b", "a\"b", "ä", &long] {
        let (_, wrong) = api.once("/keys", key, BODY).await.problem(400);
        assert_eq!(wrong["header"], "Idempotency-Key", "{key}");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    api.send(Method::POST, "/keys", &twice, BODY)
        .await
        .problem(400);
    assert_eq!(api.keys().await, 0);
}

#[tokio::test]
async fn a_retry_does_not_recreate_a_deleted_key() {
    let api = Api::new();
    let created = api.once("/keys", "try-1", BODY).await.with(201);
    let id = created["key"]["id"].as_str().unwrap();
    api.delete(&format!("/keys/{id}")).await.with(204);
    // At a process without the stored response.
    let other = Api::over(api.backend.clone());
    let (detail, _) = other.once("/keys", "try-1", BODY).await.problem(409);
    assert!(detail.contains("deleted"), "{detail}");
    assert_eq!(api.keys().await, 0);
}
