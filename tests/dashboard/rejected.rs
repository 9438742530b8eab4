//! Rejections without events on the overview.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, StatusCode};
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Issuer, NewKey};
use keytally::usage::Recorder;
use tower::ServiceExt;

use crate::pages::Pages;

const MISSING: &str = "No key";

/// A dashboard and a service whose rejections it shows.
struct Rejecting {
    pages: Pages,
    service: Router,
}

impl Rejecting {
    fn new(senders: usize) -> Self {
        let backend = MemoryBackend::new();
        let recorder = Recorder::builder(backend.clone()).rejected_senders(senders);
        let recorder = recorder.start();
        let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
        let pages = Pages::with(backend, |dashboard| dashboard.recorder(recorder));
        let service = Router::new().layer(layer);
        Self { pages, service }
    }

    async fn send(&self, times: usize, from: &str, secret: Option<&str>) {
        let peer: SocketAddr = from.parse().unwrap();
        for _ in 0..times {
            let mut request = Request::get("/").extension(ConnectInfo(peer));
            if let Some(secret) = secret {
                request = request.header("x-api-key", secret);
            }
            let request = request.body(Body::empty()).unwrap();
            let response = self.service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        }
    }

    /// The section of the overview.
    async fn section(&self) -> String {
        let page = self.pages.get("/admin?range=1h").await.text;
        let (_, section) = page.split_once("id=\"rejected\"").unwrap();
        section.split("</section>").next().unwrap().to_owned()
    }
}

/// The secret of a key that does not exist, with its id.
fn unknown() -> (String, String) {
    let issuer = Issuer::new("acme_live").unwrap();
    let (secret, record) = issuer.prepare(NewKey::new("Never stored")).unwrap();
    (secret.expose().to_owned(), record.key.id.to_string())
}

#[tokio::test]
async fn rejections_are_shown_over_time_and_by_reason_without_senders() {
    let rejecting = Rejecting::new(0);
    let empty = rejecting.section().await;
    assert!(
        empty.contains("No such requests in this period."),
        "{empty}"
    );
    let (secret, id) = unknown();
    rejecting.send(5, "192.0.2.1:9", None).await;
    rejecting.send(2, "192.0.2.1:9", Some(&secret)).await;
    rejecting.send(1, "192.0.2.1:9", Some("nonsense")).await;
    let section = rejecting.section().await;
    for (reason, count) in [(MISSING, 5), ("Unknown key", 2), ("Malformed key", 1)] {
        let legend = format!("<span>{reason}</span><span class=\"number\">{count}</span>");
        assert!(section.contains(&legend), "{reason} in {section}");
    }
    // They may span two minutes.
    let (_, total) = section.split_once("<th scope=\"row\">Total</th>").unwrap();
    assert!(
        total.starts_with("<td>8</td><td>5</td><td>2</td><td>1</td>"),
        "{total}"
    );
    assert!(section.contains("Client IPs and keys are not kept."));
    assert!(!section.contains("192.0.2.1") && !section.contains(&id));
    // None of them is in the log.
    assert!(!section.contains("href="), "{section}");
}

#[tokio::test]
async fn senders_are_shown_if_the_application_keeps_them() {
    let rejecting = Rejecting::new(3);
    let (secret, id) = unknown();
    rejecting.send(4, "192.0.2.1:9", Some(&secret)).await;
    rejecting.send(2, "[2001:db8::7:8]:9", None).await;
    let section = rejecting.section().await;
    for text in [
        "<code>192.0.2.1</code>",
        "<code>2001:db8::/64</code>",
        &format!("<code>{id}</code>"),
        "Client IPs and keys are kept for 24 hours.",
    ] {
        assert!(section.contains(text), "{text} in {section}");
    }
    assert!(!section.contains(&secret), "{section}");
}

#[tokio::test]
async fn keys_that_exist_are_named() {
    let rejecting = Rejecting::new(3);
    let issuer = Issuer::new("acme_live").unwrap();
    let new = NewKey::new("Leaked <b>");
    let issued = issuer.issue(&rejecting.pages.backend, new, Actor::SYSTEM);
    let issued = issued.await.unwrap();
    let (id, secret) = (issued.key.id, issued.secret.expose());
    let url = format!("/admin/keys/{id}");
    rejecting.pages.send(&format!("{url}/disable"), &[]).await;
    // The first ones are recorded as events of the key.
    rejecting.send(30, "192.0.2.1:9", Some(secret)).await;
    let section = rejecting.section().await;
    assert!(section.contains(&format!("href=\"{url}\"")), "{section}");
    assert!(section.contains("Leaked &lt;b&gt;") && section.contains(&issued.key.hint));
    // Requests for this reason are in the log, unless there are too many.
    assert!(section.contains("/admin/log?since="), "{section}");
    assert!(section.contains("cause=disabled"));
    assert!(!section.contains(secret));
}

#[tokio::test]
async fn pages_without_a_recorder_have_no_such_section() {
    let page = Pages::new().get("/admin").await.text;
    assert!(!page.contains("id=\"rejected\""));
}
