//! A protected in-process service.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::collections::BTreeSet;
use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use keytally::key::{Actor, Issued, Issuer, KeyAdmin, NewKey};
use keytally::usage::UsageReader;
use keytally::{ApiKeyLayer, PageRequest};
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use uuid::Uuid;

/// A service that responds to every admitted request.
#[derive(Clone)]
pub struct Service(BoxCloneSyncService<String, (StatusCode, Uuid), Infallible>);

impl Service {
    pub fn behind(layer: ApiKeyLayer) -> Self {
        let service = ServiceBuilder::new()
            .layer(layer)
            .service_fn(async |_: Request<String>| {
                Ok::<_, Infallible>(Response::new(String::from("ok")))
            });
        Self(BoxCloneSyncService::new(service_fn(
            move |secret: String| {
                let service = service.clone();
                async move {
                    let request = Request::get("/v1/postings").header("x-api-key", secret);
                    let request = request.body(String::new()).unwrap();
                    let (head, body) = service.oneshot(request).await?.into_parts();
                    body.collect().await.unwrap();
                    let id = head.headers.get("x-request-id").unwrap();
                    Ok((head.status, id.to_str().unwrap().parse().unwrap()))
                }
            },
        )))
    }

    /// Sends a request with this secret; returns the response's status and the request id.
    pub async fn ask(&self, secret: &str) -> (StatusCode, Uuid) {
        match self.0.clone().oneshot(secret.into()).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

pub async fn issue(backend: &impl KeyAdmin, name: &str) -> Issued {
    let issuer = Issuer::new("test").unwrap();
    issuer
        .issue(backend, NewKey::new(name), Actor::SYSTEM)
        .await
        .unwrap()
}

/// The ids of all requests in the log. Panics if one is there twice or rollups have another total.
pub async fn logged_once(backend: &impl UsageReader) -> BTreeSet<Uuid> {
    use keytally::usage::{LogQuery, Summary, SummaryQuery, UsageRange, summary::totals};

    let (mut ids, mut rows, mut after) = (BTreeSet::new(), 0, None);
    loop {
        let mut query = LogQuery::default().limit(PageRequest::MAX_LIMIT);
        query.page.after = after;
        let page = backend.requests(&query).await.unwrap();
        rows += page.items.len();
        ids.extend(page.items.iter().map(|event| event.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(rows, ids.len(), "a request is in the log more than once");
    // The summary is read from hours, the rollups are minutes.
    let summary: Summary = backend.summary(&SummaryQuery::default()).await.unwrap();
    let minutes = backend.rollups(&UsageRange::new()).await.unwrap();
    for (source, count) in [
        ("hours", summary.totals.total()),
        ("minutes", totals(&minutes).total()),
    ] {
        assert_eq!(count, rows as u64, "{source} differ from the log");
    }
    ids
}
