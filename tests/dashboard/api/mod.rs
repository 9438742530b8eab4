//! The dashboard's JSON API and the self-service API.

mod document;
mod idempotency;
mod keys;
mod owners;
mod problems;
mod self_service;
mod usage;

use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use keytally::backend::MemoryBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{Actor, Issued, Issuer, NewKey};
use keytally::usage::Recorder;
use serde_json::Value;
use tower::ServiceExt;

const TOKEN: &str = "a token of sixteen or more";

struct Api {
    backend: MemoryBackend,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// Asserts the status and returns the JSON body.
    #[track_caller]
    fn with(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        match &*self.text {
            "" => Value::Null,
            _ => self.json(),
        }
    }

    /// Asserts a problem with this status. Returns its detail and first error.
    #[track_caller]
    fn problem(&self, status: u16) -> (String, Value) {
        let problem = self.with(status);
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        let detail = problem["detail"].as_str().expect("a detail").into();
        (detail, problem["errors"][0].clone())
    }
}

impl Api {
    fn new() -> Self {
        Self::over(MemoryBackend::new())
    }

    fn over(backend: MemoryBackend) -> Self {
        Self::with(backend, Issuer::new("acme_live").unwrap())
    }

    fn with(backend: MemoryBackend, issuer: Issuer) -> Self {
        Self::of(backend, issuer, Recorder::counting())
    }

    fn recording(backend: MemoryBackend, recorder: Recorder) -> Self {
        Self::of(backend, Issuer::new("acme_live").unwrap(), recorder)
    }

    fn of(backend: MemoryBackend, issuer: Issuer, recorder: Recorder) -> Self {
        let guard = BearerToken::new(TOKEN).unwrap().with_admin_name("Ada");
        let dashboard = Dashboard::new(backend.clone(), guard);
        let dashboard = dashboard.issuer(issuer).recorder(recorder);
        let router = Router::new().nest("/admin", dashboard.into_router());
        Self { backend, router }
    }

    async fn issue(&self, new: NewKey) -> Issued {
        let issuer = Issuer::new("acme_live").unwrap();
        issuer
            .issue(&self.backend, new, Actor::SYSTEM)
            .await
            .unwrap()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/admin/api{path}"))
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        if !body.is_empty() && headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        ask(
            &self.router,
            request.body(Body::from(body.to_owned())).unwrap(),
        )
        .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, &[], body).await
    }

    async fn patch(&self, path: &str, body: &str) -> Answer {
        self.send(Method::PATCH, path, &[], body).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }
}

async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.into()).unwrap(),
    }
}
