//! The layer in front of axum, over sockets.
use crate::secrets;
use crate::support;

use std::collections::HashSet;
use std::time::Duration;

use axum::Router;
use axum::extract::OriginalUri;
use axum::routing::{get, post};
use http::{Request, StatusCode};
use keytally::key::{
    Actor, AddressList, Digest, ImportedKey, KeyAdmin, KeyRecord, KeyStore, NewKey, OwnerAdmin,
    Secret, StoreError,
};
use keytally::limit::RateLimit;
use keytally::usage::{
    Cause, LogFilter, Method, OTHER_ENDPOINTS, Outcome, RejectionReason, Status, StatusClass,
};
use keytally::{
    ApiKeyLayer, Caller, CredentialSource, ForwardedHeader, HeaderStyle, KeyId, Rejection,
    RequireScope, StoreFailure, Unverified,
};
use support::{Answer, Service};
use tower::{Layer, ServiceExt};

fn routes() -> Router {
    Router::new()
        .route("/v1/postings/{id}", get(|| async { "a posting" }))
        .route("/v1/postings", post(|body: String| async move { body }))
        .route(
            "/me",
            get(|caller: Caller| async move { caller.name.clone() }),
        )
        .route(
            "/headers",
            get(
                |headers: http::HeaderMap, uri: http::Uri, original: OriginalUri| async move {
                    format!("{uri} {} {headers:?}", original.0)
                },
            ),
        )
        .route(
            "/broken",
            get(|| async { StatusCode::INTERNAL_SERVER_ERROR }),
        )
        .route("/panic", get(panics))
        .route(
            "/scoped",
            get(|| async { "scoped" }).route_layer(RequireScope::new("postings:read")),
        )
}

async fn panics() -> &'static str {
    panic!("simulated handler panic")
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn problem(response: &Answer) -> serde_json::Value {
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    response.json()
}

#[tokio::test]
async fn valid_key_is_admitted_and_its_request_recorded() {
    let service = Service::plain(routes()).await;
    let issued = service.key().await;
    let response = service
        .get("/v1/postings/42?q=1", issued.secret.expose())
        .await;
    assert_eq!(
        (response.status, &*response.body),
        (StatusCode::OK, &b"a posting"[..])
    );
    let [event] = &*service.events().await else {
        panic!("one event")
    };
    assert_eq!(event.key, Some(issued.key.id));
    assert_eq!(event.owner.as_deref(), Some("tests"));
    assert_eq!(
        (event.method, &*event.endpoint),
        (Method::Get, "/v1/postings/{id}")
    );
    assert_eq!(
        (&*event.path, event.status),
        ("/v1/postings/42", Status::Http(200))
    );
    assert_eq!(
        (event.outcome, event.cause, event.rejection_reason),
        (Outcome::Completed, None, None)
    );
    assert_eq!((event.response_bytes, event.cost), (9, 1));
    assert_eq!(event.client_ip.unwrap().to_string(), "127.0.0.1");
    assert_eq!(
        response.header("x-request-id"),
        Some(&*event.id.to_string())
    );
    let key = service.backend.get(issued.key.id).await.unwrap().unwrap();
    assert_eq!(key.last_accepted_at, Some(event.time));
}

#[tokio::test]
async fn handler_can_extract_the_caller() {
    let service = Service::plain(routes()).await;
    let issued = service.issue(NewKey::new("Zapier")).await;
    assert_eq!(
        service.get("/me", issued.secret.expose()).await.body,
        "Zapier"
    );
    let name = |caller: Caller| async move { format!("{} {}", caller.event_id(), caller.key().id) };
    let routes = Router::new().route("/event", get(name));
    let service = Service::plain(routes.clone()).await;
    let issued = service.key().await;
    let response = service.get("/event", issued.secret.expose()).await;
    let events = service.events().await;
    assert_eq!(response.body, format!("{} {}", events[0].id, issued.key.id));
    // Anonymous requests are rejected.
    let anonymous = Service::start(routes, ApiKeyLayer::allow_anonymous).await;
    let response = anonymous.send(Request::get("/event")).await;
    assert_eq!(response.status, StatusCode::UNAUTHORIZED);
    assert_eq!(problem(&response)["status"], 401);
    assert!(response.header("www-authenticate").is_some());
}

#[tokio::test]
async fn events_of_nested_routers_have_the_original_path() {
    let backend = keytally::backend::MemoryBackend::new();
    let recorder = keytally::usage::Recorder::new(backend.clone());
    let layer = ApiKeyLayer::new(backend.clone()).recorder(recorder.clone());
    let inner = Router::new().route("/postings/{id}", get(|| async { "found" }));
    let inner = inner
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(layer);
    let address = support::serve(Router::new().nest("/api/v1", inner)).await;
    let service = Service {
        backend,
        recorder,
        address,
        client: Service::plain(routes()).await.client,
    };
    let key = service.key().await;
    for (path, endpoint) in [
        ("/api/v1/postings/17", "/api/v1/postings/{id}"),
        ("/api/v1/other", keytally::usage::UNMATCHED),
    ] {
        service.get(path, key.secret.expose()).await;
        let event = service.events().await.remove(0);
        assert_eq!((&*event.path, &*event.endpoint), (path, endpoint));
    }
}

/// A route that needs a key, but is not behind a layer, is an error of the server.
#[tokio::test]
async fn a_forgotten_layer_is_a_server_error() {
    let client = Service::plain(routes()).await;
    let address = support::serve(routes()).await;
    let forgotten = Service { address, ..client };
    let key = forgotten.key().await;
    for path in ["/me", "/scoped"] {
        let response = forgotten.get(path, key.secret.expose()).await;
        assert_eq!(response.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        assert_eq!(problem(&response)["status"], 500);
        assert!(response.header("www-authenticate").is_none());
    }
}

/// Not a mistake of the server: clients can send preflights to any path.
#[tokio::test]
async fn exempt_requests_without_a_caller_are_401() {
    let configure = |layer: ApiKeyLayer| layer.exempt("/me").exempt("/scoped").allow_preflights();
    let any = Router::new().route(
        "/any",
        axum::routing::any(|caller: Caller| async move { caller.name.clone() }),
    );
    let service = Service::start(routes().merge(any), configure).await;
    let key = service.key().await;
    for path in ["/me", "/scoped"] {
        let response = service.get(path, key.secret.expose()).await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let preflight = Request::options("/any")
        .header("origin", "https://example.com")
        .header("access-control-request-method", "GET");
    assert_eq!(
        service.send(preflight).await.status,
        StatusCode::UNAUTHORIZED
    );
}

mod secret_confidentiality {
    use super::*;

    #[tokio::test]
    async fn secret_is_removed_before_the_inner_service() {
        let service = Service::start(routes(), |layer| {
            let query = CredentialSource::insecure_query_parameter("key");
            layer.credential_sources(CredentialSource::DEFAULT.into_iter().chain([query]))
        })
        .await;
        let secret = service.key().await.secret.expose().to_owned();
        let request = Request::get(format!("/headers?a=1&key={secret}"))
            .header("authorization", format!("Bearer {secret}"))
            .header("x-api-key", &secret);
        let response = service.send(request).await;
        assert_eq!(response.status, StatusCode::OK);
        let seen = String::from_utf8(response.body.to_vec()).unwrap();
        assert!(
            !seen.contains(&secret) && seen.starts_with("/headers?a=1 /headers?a=1 "),
            "{seen}"
        );
        // A secret in the path or the request id is redacted.
        let request = Request::get(format!("/v1/postings/{secret}"))
            .header("x-api-key", &secret)
            .header("x-request-id", &secret);
        let response = service.send(request).await;
        assert_eq!(response.status, StatusCode::OK);
        assert_ne!(response.headers["x-request-id"], secret);
        let events = service.events().await;
        let hint = Secret::parse(&secret).unwrap().hint();
        assert!(
            events
                .iter()
                .any(|event| *event.path == format!("/v1/postings/{hint}")),
            "{events:?}"
        );
        let events = format!("{events:?}");
        assert!(!events.contains(&secret), "{events}");

        let keep_credential = Service::start(routes(), ApiKeyLayer::keep_credential).await;
        let secret = keep_credential.key().await.secret.expose().to_owned();
        let response = keep_credential.get("/headers", &secret).await;
        assert!(
            String::from_utf8(response.body.to_vec())
                .unwrap()
                .contains(&secret)
        );
    }

    #[tokio::test]
    async fn secrets_in_other_authorization_schemes_are_removed() {
        let basic = |text: String| format!("Basic {}", base64(text.as_bytes()));
        let anonymous = Service::start(routes(), ApiKeyLayer::allow_anonymous).await;
        let reading = Service::start(routes(), |layer| {
            let schemes = [CredentialSource::Basic, CredentialSource::scheme("Token")];
            let sources = CredentialSource::DEFAULT.into_iter().chain(schemes);
            layer.credential_sources(sources).allow_anonymous()
        });
        let reading = reading.await;
        for (service, reads) in [(&anonymous, false), (&reading, true)] {
            let secret = service.key().await.secret.expose().to_owned();
            for (value, is_source) in [
                (format!("Token {secret}"), true),
                (basic(format!("{secret}:")), true),
                (basic(format!("{secret}:x")), true),
                (format!("Api-Key {secret}"), false),
                (basic(format!("user:{secret}")), false),
                (secret.clone(), false),
                (format!("Bearer\t{secret}"), false),
            ] {
                let request = Request::get("/headers").header("authorization", &value);
                let response = service.send(request).await;
                let passes = reads && is_source;
                assert_eq!(response.status, if passes { 200 } else { 401 }, "{value}");
                let seen = String::from_utf8(response.body.to_vec()).unwrap();
                assert!(!seen.contains("authorization"), "{seen}");
            }
            // Credentials that are no API keys belong to another scheme.
            for value in ["Token abc", &basic("user:password".into())] {
                let request = Request::get("/headers").header("authorization", value);
                let response = service.send(request).await;
                let passes = !reads;
                assert_eq!(response.status, if passes { 200 } else { 401 }, "{value}");
            }
        }
    }
}

mod indistinguishable_rejections {
    use super::*;

    #[tokio::test]
    async fn rejected_credentials_are_indistinguishable() {
        let service = Service::plain(routes()).await;
        let issue = || service.issue(NewKey::new("x"));
        let (good, disabled, revoked, deleted) =
            (issue().await, issue().await, issue().await, issue().await);
        let expired = NewKey::new("x").expires_at(jiff::Timestamp::UNIX_EPOCH);
        let expired = service.issue(expired).await;
        service
            .backend
            .disable(disabled.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        service
            .backend
            .revoke(revoked.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        service
            .backend
            .delete(deleted.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        // The id of one key with the secret part and checksum of another.
        let mixed = format!(
            "{}{}",
            &good.secret.expose()[..26],
            &disabled.secret.expose()[26..]
        );
        let wrong = secrets::with_a_wrong_secret(good.secret.expose());
        let suspended = service.issue(NewKey::new("x").owner("suspended")).await;
        let suspends = service.backend.suspend_owner("suspended", Actor::SYSTEM);
        suspends.await.unwrap();
        let mut responses = Vec::new();
        for secret in [
            "nonsense",
            &mixed,
            // Looked up once, then cached.
            &wrong,
            &wrong,
            disabled.secret.expose(),
            revoked.secret.expose(),
            expired.secret.expose(),
            suspended.secret.expose(),
            deleted.secret.expose(),
        ] {
            let mut response = service.get("/v1/postings/1", secret).await;
            for name in ["x-request-id", "date"] {
                assert!(response.headers.remove(name).is_some());
            }
            responses.push(response);
        }
        assert!(
            responses.iter().all(|response| *response == responses[0]),
            "{responses:?}"
        );
        assert_eq!(responses[0].status, StatusCode::UNAUTHORIZED);
        assert_eq!(
            responses[0].header("www-authenticate"),
            Some(r#"Bearer realm="api", error="invalid_token""#)
        );
        assert_eq!(problem(&responses[0])["status"], 401);

        // Rejections of known keys are events; all others are only counted.
        let events = service.events().await;
        let reasons: HashSet<_> = events
            .iter()
            .map(|event| event.rejection_reason.unwrap())
            .collect();
        assert_eq!(events.len(), 4);
        assert_eq!(
            reasons,
            HashSet::from([
                RejectionReason::Disabled,
                RejectionReason::Revoked,
                RejectionReason::Expired,
                RejectionReason::OwnerSuspended
            ])
        );
        assert!(
            events
                .iter()
                .all(|event| event.cause == Some(Cause::Rejected))
        );
        let stats = service.recorder.stats();
        assert_eq!(stats.rejected_for(RejectionReason::Malformed), 2);
        assert_eq!(stats.rejected_for(RejectionReason::Unknown), 1);
        assert_eq!(stats.rejected_for(RejectionReason::WrongSecret), 2);
        assert_eq!(stats.in_flight, 0);
        let response = service.get("/v1/postings/1", good.secret.expose()).await;
        assert_eq!(response.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn missing_key_gets_a_challenge_without_an_error_code() {
    let service = Service::plain(routes()).await;
    let response = service.send(Request::get("/v1/postings/1")).await;
    assert_eq!(response.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        response.header("www-authenticate"),
        Some(r#"Bearer realm="api""#)
    );
    assert!(response.header("x-request-id").is_some());
    assert_eq!(
        service
            .recorder
            .stats()
            .rejected_for(RejectionReason::Missing),
        1
    );
}

#[tokio::test]
async fn two_different_keys_in_one_request_are_rejected() {
    let service = Service::plain(routes()).await;
    let (one, two) = (service.key().await, service.key().await);
    let both = support::get("/v1/postings/1", one.secret.expose());
    let same = both.header("x-api-key", one.secret.expose());
    assert_eq!(service.send(same).await.status, StatusCode::OK);
    let both = support::get("/v1/postings/1", one.secret.expose());
    let different = both.header("x-api-key", two.secret.expose());
    assert_eq!(
        service.send(different).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        service
            .recorder
            .stats()
            .rejected_for(RejectionReason::Ambiguous),
        1
    );
}

mod prompt_revocation {
    use super::*;

    #[tokio::test]
    async fn revocation_is_immediate_in_the_revoking_process() {
        let service = Service::plain(routes()).await;
        let issued = service.key().await;
        let secret = issued.secret.expose();
        assert_eq!(
            service.get("/v1/postings/1", secret).await.status,
            StatusCode::OK
        );
        service
            .backend
            .revoke(issued.key.id, Actor::SYSTEM)
            .await
            .unwrap();
        assert_eq!(
            service.get("/v1/postings/1", secret).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
}

#[tokio::test]
async fn rate_limits_are_enforced_and_reported_in_headers() {
    let service = Service::plain(routes()).await;
    let new = NewKey::new("x")
        .limit(RateLimit::per_minute(60).with_burst(2).with_name("burst"))
        .limit(RateLimit::per_hour(100).with_name("hourly"));
    let issued = service.issue(new).await;
    let first = service.get("/v1/postings/1", issued.secret.expose()).await;
    assert_eq!(
        first.header("ratelimit-policy"),
        Some(r#""burst";q=2;w=2, "hourly";q=100;w=3600"#)
    );
    assert_eq!(
        first.header("ratelimit"),
        Some(r#""burst";r=1;t=1, "hourly";r=99;t=36"#)
    );
    service.get("/v1/postings/1", issued.secret.expose()).await;
    let rejected = service.get("/v1/postings/1", issued.secret.expose()).await;
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(rejected.header("retry-after"), Some("1"));
    let problem = problem(&rejected);
    assert_eq!(problem["violated-policies"], serde_json::json!(["burst"]));
    let hourly = rejected.header("ratelimit").unwrap();
    assert!(
        hourly.starts_with(r#""burst";r=0;"#) && hourly.contains(r#""hourly";r=98;"#),
        "{hourly}"
    );
    let log = service
        .log(LogFilter::new().outcome(Outcome::RateLimited))
        .await;
    assert_eq!(
        (log.len(), log[0].status, log[0].cost),
        (1, Status::Http(429), 0)
    );
}

#[tokio::test]
async fn cost_header_style_and_default_limits_are_configurable() {
    let service = Service::start(routes(), |layer| {
        layer
            .default_limits([RateLimit::per_hour(10)])
            .cost(|head| {
                if head.method() == http::Method::POST {
                    6
                } else {
                    1
                }
            })
            .header_style(HeaderStyle::XRateLimit)
    })
    .await;
    let secret = service.key().await.secret.expose().to_owned();
    let send = || service.send(support::post("/v1/postings", &secret));
    let first = send().await;
    let limits = [
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    ];
    assert_eq!(
        limits.map(|name| first.header(name).unwrap()),
        ["10", "4", "2160"]
    );
    let rejected = send().await;
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        service.get("/v1/postings/1", &secret).await.status,
        StatusCode::OK
    );
    assert_eq!(service.summary().await.totals.cost(), 7);
}

#[tokio::test]
async fn missing_scope_and_disallowed_client_ip_are_403() {
    let service = Service::start(routes(), |layer| {
        let proxies = AddressList::parse(["127.0.0.1"]).unwrap();
        layer.trust_forwarded(ForwardedHeader::XForwardedFor, proxies)
    })
    .await;
    let plain = service.key().await;
    let scoped = service.issue(NewKey::new("x").scope("postings:read")).await;
    let rejected = service.get("/scoped", plain.secret.expose()).await;
    assert_eq!(rejected.status, StatusCode::FORBIDDEN);
    assert_eq!(
        rejected.header("www-authenticate"),
        Some(r#"Bearer realm="api", error="insufficient_scope", scope="postings:read""#)
    );
    assert_eq!(
        service.get("/scoped", scoped.secret.expose()).await.body,
        "scoped"
    );

    let network = AddressList::parse(["203.0.113.0/24"]).unwrap();
    let bound = service.issue(NewKey::new("x").addresses(network)).await;
    let from = |address: &'static str| {
        let request = support::get("/v1/postings/1", bound.secret.expose());
        service.send(request.header("x-forwarded-for", address))
    };
    assert_eq!(from("203.0.113.9").await.status, StatusCode::OK);
    assert_eq!(from("198.51.100.1").await.status, StatusCode::FORBIDDEN);
    // Addresses that the client prepends are ignored.
    assert_eq!(
        from("203.0.113.9, 198.51.100.1").await.status,
        StatusCode::FORBIDDEN
    );
    let reasons: Vec<_> = service
        .events()
        .await
        .iter()
        .filter_map(|event| event.rejection_reason)
        .collect();
    assert_eq!(
        reasons,
        [
            RejectionReason::ClientIp,
            RejectionReason::ClientIp,
            RejectionReason::Scope
        ]
    );
}

#[tokio::test]
async fn request_ids_are_echoed_or_generated_and_searchable() {
    let service = Service::plain(routes()).await;
    let secret = service.key().await.secret.expose().to_owned();
    let with_id = |id: &'static str| {
        service.send(support::get("/v1/postings/1", &secret).header("x-request-id", id))
    };
    assert_eq!(
        with_id("client-7").await.header("x-request-id"),
        Some("client-7")
    );
    let generated = with_id("not sane\"").await;
    let [by_client] = &*service.log(LogFilter::new().request_id("client-7")).await else {
        panic!("one event")
    };
    assert_eq!(by_client.request_id.as_deref(), Some("client-7"));
    let own = by_client.id.to_string();
    assert_eq!(service.log(LogFilter::new().request_id(own)).await.len(), 1);
    let generated = generated.header("x-request-id").unwrap();
    assert_eq!(
        service
            .log(LogFilter::new().request_id(generated))
            .await
            .len(),
        1
    );
    let ids: HashSet<_> = service
        .events()
        .await
        .iter()
        .map(|event| event.id)
        .collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| id.get_version_num() == 7));
}

#[tokio::test]
async fn exempt_paths_pass_without_being_recorded() {
    let service = Service::start(
        routes()
            .route("/health", get(|| async { "ok" }))
            .route("/public/{file}", get(|| async { "file" })),
        |layer| layer.exempt("/health").exempt("/public/*"),
    )
    .await;
    for path in ["/health", "/public/logo.svg"] {
        let response = service.send(Request::get(path)).await;
        assert_eq!(response.status, StatusCode::OK);
        assert!(response.header("x-request-id").is_some());
    }
    for path in [
        "/healthy",
        "/public/../v1/postings/1",
        "/public/%2E%2e/v1/postings/1",
        "/public/..%2fv1/postings/1",
        "/public/..;/v1/postings/1",
        "/public/..%3b/v1/postings/1",
        "/public/%252e%252e/v1/postings/1",
        "/public/..%00/v1/postings/1",
    ] {
        let response = service.send(Request::get(path)).await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(service.recorder.stats().accepted, 0);
}

/// Shared caches do not reuse responses to requests with `Authorization` (RFC 9111 §3.5); other headers need `Vary`.
#[tokio::test]
async fn vary_keeps_keys_apart_in_shared_caches() {
    let varies = || {
        let varies = [("vary", "accept-language")];
        routes().route("/varies", get(move || async move { (varies, "text") }))
    };
    let service = Service::plain(varies()).await;
    let secret = service.key().await.secret.expose().to_owned();
    let vary = |response: &Answer| {
        let values = response.headers.get_all("vary").iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let response = service.get("/v1/postings/1", &secret).await;
    assert_eq!(vary(&response), ["authorization, x-api-key"]);
    assert_eq!(response.header("cache-control"), None);
    let response = service.get("/varies", &secret).await;
    assert_eq!(
        vary(&response),
        ["accept-language", "authorization, x-api-key"]
    );
    let response = service.send(support::post("/v1/postings", &secret)).await;
    assert!(vary(&response).is_empty(), "POST responses need no Vary");
    let rejected = service.get("/v1/postings/1", "nonsense").await;
    assert_eq!(rejected.header("cache-control"), Some("no-store"));

    let custom = Service::start(varies(), |layer| {
        layer.credential_sources([CredentialSource::Header(http::HeaderName::from_static(
            "x-custom",
        ))])
    })
    .await;
    let secret = custom.key().await.secret.expose().to_owned();
    let request = Request::get("/v1/postings/1").header("x-custom", secret);
    assert_eq!(vary(&custom.send(request).await), ["x-custom"]);
}

/// Clients of a plain HTTP service must not influence the status that proxies and metrics see.
#[tokio::test]
async fn http_route_rejects_with_an_http_status_despite_a_grpc_content_type() {
    let routes = || routes().route("/files/{*rest}", post(|| async { "a file" }));
    let plain = Service::plain(routes()).await;
    let without_grpc = Service::start(routes(), ApiKeyLayer::without_grpc).await;
    let call = |path| Request::post(path).header("content-type", "application/grpc");
    for (service, path, status) in [
        (&plain, "/v1/postings", 401),
        // The route may belong to tonic, whose clients need gRPC responses.
        (&plain, "/files/a", 200),
        (&plain, "/nowhere", 200),
        (&without_grpc, "/v1/postings", 401),
        (&without_grpc, "/files/a", 401),
        (&without_grpc, "/nowhere", 401),
    ] {
        let response = service.send(call(path)).await;
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("grpc-status").is_some(), status == 200);
    }
}

#[tokio::test]
async fn key_with_an_address_list_is_rejected_when_the_client_ip_is_unreadable() {
    let networks = AddressList::parse(["127.0.0.0/8", "203.0.113.0/24"]).unwrap();
    let proxies = AddressList::parse(["127.0.0.0/8"]).unwrap();
    let service = Service::start(routes(), |layer| {
        layer.trust_forwarded(ForwardedHeader::XForwardedFor, proxies)
    })
    .await;
    let issued = service.issue(NewKey::new("x").addresses(networks)).await;
    let ask = async |forwarded: Option<&str>| {
        let mut request = support::get("/v1/postings/1", issued.secret.expose());
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-for", forwarded);
        }
        service.send(request).await.status
    };
    assert_eq!(ask(Some("203.0.113.7")).await, 200);
    assert_eq!(ask(Some("198.51.100.1")).await, 403);
    for unreadable in [
        None,
        Some(""),
        Some("unknown"),
        Some("unix:"),
        Some("203.0.113.7, unknown"),
    ] {
        assert_eq!(ask(unreadable).await, 403, "{unreadable:?}");
    }
}

#[tokio::test]
async fn preflights_need_a_key_unless_allowed() {
    let checked = Service::plain(routes()).await;
    let allowed = Service::start(routes(), ApiKeyLayer::allow_preflights).await;
    let secret = allowed.key().await.secret.expose().to_owned();
    let preflight = || {
        Request::options("/v1/postings/1")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET")
    };
    assert_eq!(checked.send(preflight()).await.status, 401);
    // 405: the request reached the route, which has no handler for `OPTIONS`.
    assert_eq!(allowed.send(preflight()).await.status, 405);
    assert_eq!(allowed.recorder.stats().accepted, 0);
    for (request, body) in [
        (Request::options("/v1/postings/1"), ""),
        (
            Request::options("/").header("origin", "https://app.example"),
            "",
        ),
        (
            Request::options("/").header("access-control-request-method", "GET"),
            "",
        ),
        (preflight().method("POST"), ""),
        (preflight(), "a body"),
        (preflight().header("origin", "https://other.example"), ""),
        (
            preflight().header("access-control-request-method", "GET"),
            "",
        ),
        (preflight().header("content-type", "application/grpc"), ""),
        (preflight().header("te", "trailers"), ""),
        // Invalid keys are rejected.
        (preflight().header("x-api-key", "nonsense"), ""),
    ] {
        let shown = format!("{request:?} {body}");
        assert_eq!(
            allowed.send_body(request, body).await.status,
            401,
            "{shown}"
        );
    }
    // A preflight with a valid key is recorded as usual.
    let request = preflight().header("x-api-key", &secret);
    assert_eq!(allowed.send(request).await.status, 405);
    assert_eq!(allowed.events().await.len(), 1);
}

#[tokio::test]
async fn allow_anonymous_admits_requests_without_a_key_but_not_wrong_keys() {
    let caller_name = |caller: Option<Caller>| async move {
        caller.map_or("anonymous".to_owned(), |caller| caller.name.clone())
    };
    let routes = Router::new().route("/", get(caller_name));
    let service = Service::start(routes, ApiKeyLayer::allow_anonymous).await;
    assert_eq!(service.send(Request::get("/")).await.body, "anonymous");
    let issued = service.key().await;
    assert_eq!(service.get("/", issued.secret.expose()).await.body, "test");
    assert_eq!(
        service.get("/", "wrong").await.status,
        StatusCode::UNAUTHORIZED
    );
    let events = service.events().await;
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].key, None);
}

#[tokio::test]
async fn foreign_bearer_token_is_forwarded_beside_a_valid_key_when_allowed() {
    let strict = Service::plain(routes()).await;
    let sharing = Service::start(routes(), ApiKeyLayer::allow_foreign_authorization).await;
    for (service, status) in [(&strict, 401), (&sharing, 200)] {
        let secret = service.key().await.secret.expose().to_owned();
        let request = Request::get("/headers")
            .header("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.x")
            .header("x-api-key", &secret);
        let response = service.send(request).await;
        assert_eq!(response.status, status);
        let seen = String::from_utf8(response.body.to_vec()).unwrap();
        assert_eq!(seen.contains("eyJhbGciOiJub25lIn0"), status == 200);
        assert!(!seen.contains(&secret));
        let alone = Request::get("/headers").header("authorization", "Bearer e30.e30.x");
        assert_eq!(service.send(alone).await.status, 401);
    }
}

#[tokio::test]
async fn private_responses_sets_cache_control_private() {
    let routes = || {
        let cached = [("cache-control", "public, max-age=60")];
        Router::new()
            .route("/", get(|| async { "" }))
            .route("/cached", get(move || async move { (cached, "") }))
    };
    let plain = Service::plain(routes()).await;
    let private = Service::start(routes(), ApiKeyLayer::private_responses).await;
    for (service, expected) in [(&plain, None), (&private, Some("private"))] {
        let secret = service.key().await.secret.expose().to_owned();
        let response = service.get("/", &secret).await;
        assert_eq!(response.header("cache-control"), expected);
        let response = service.get("/cached", &secret).await;
        assert_eq!(response.header("cache-control"), Some("public, max-age=60"));
        let rejected = service.get("/", "wrong").await;
        assert_eq!(rejected.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn anonymous_limit_applies_per_client_ip() {
    let proxies = AddressList::parse(["127.0.0.0/8"]).unwrap();
    let service = Service::start(routes(), |layer| {
        let layer = layer.trust_forwarded(ForwardedHeader::XForwardedFor, proxies);
        let limit = RateLimit::per_hour(3);
        layer.allow_anonymous().anonymous_limit(limit)
    });
    let service = service.await;
    let secret = service.key().await.secret.expose().to_owned();
    let ask = async |client: &str| {
        let request = Request::get("/v1/postings/7").header("x-forwarded-for", client);
        service.send(request).await
    };
    for (client, same_network) in [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::2"),
        // The forwarded address is unreadable, so the client IP is unknown.
        ("unknown", "unknown"),
    ] {
        for _ in 0..3 {
            assert_eq!(ask(client).await.status, 200);
        }
        let rejected = ask(same_network).await;
        assert_eq!(rejected.status, 429, "{client}");
        let wait: u64 = rejected.header("retry-after").unwrap().parse().unwrap();
        assert!((1_100..=1_200).contains(&wait), "{wait}");
        let detail = problem(&rejected)["detail"].to_string();
        assert!(detail.contains("without an API key"), "{detail}");
        let with_key = Request::get("/v1/postings/7")
            .header("x-forwarded-for", client)
            .header("x-api-key", &secret);
        assert_eq!(service.send(with_key).await.status, 200);
    }
    assert_eq!(ask("203.0.113.8").await.status, 200);
    let events = service.events().await;
    assert_eq!(
        events.iter().filter(|event| event.key.is_none()).count(),
        10
    );
    let rejected = service.recorder.stats().rejected;
    assert!(
        rejected.contains(&(RejectionReason::RateLimited, 3)),
        "{rejected:?}"
    );
}

struct FailingStore;

#[keytally::async_trait]
impl KeyStore for FailingStore {
    async fn find(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("password=hunter2 host=db"))
    }
}

mod confined_backend_errors {
    use super::*;

    #[tokio::test]
    async fn store_error_text_never_reaches_clients() {
        let secret = Service::plain(routes())
            .await
            .key()
            .await
            .secret
            .expose()
            .to_owned();
        let layer = ApiKeyLayer::new(FailingStore);
        for content_type in ["application/json", "application/grpc"] {
            let request = support::post("/", &secret).header("content-type", content_type);
            let service = tower::service_fn(|_: Request<String>| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            });
            let request = request.body(String::new()).unwrap();
            let response = layer.layer(service).oneshot(request).await.unwrap();
            // Outer layers see the rejection reason, not the store's error text.
            let head = format!("{:?} {:?}", response.headers(), response.extensions());
            let reason = response.extensions().get::<Rejection>().unwrap();
            let reason = format!("{reason:?} {}", reason.reason);
            let body = Answer::of(response).await.body;
            for text in [&*head, &*reason, &String::from_utf8_lossy(&body)] {
                assert!(!text.contains("hunter2"), "{text}");
            }
        }
    }
}

mod fail_closed {
    use super::*;

    #[tokio::test]
    async fn store_outage_is_503_by_default() {
        let routes = || {
            let marked = |unverified: Option<axum::Extension<Unverified>>| async move {
                if unverified.is_some() {
                    "unverified"
                } else {
                    "verified"
                }
            };
            Router::new().route("/", get(marked))
        };
        let some_key = Service::plain(routes())
            .await
            .key()
            .await
            .secret
            .expose()
            .to_owned();
        let rejecting = ApiKeyLayer::new(FailingStore);
        let address = support::serve(routes().layer(rejecting.clone())).await;
        let service = Service::plain(routes()).await;
        let ask = async |address| {
            let request = support::get(&format!("http://{address}/"), &some_key);
            let request = request.body(http_body_util::Full::default()).unwrap();
            Answer::of(service.client.request(request).await.unwrap()).await
        };
        let response = ask(address).await;
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.header("retry-after"), Some("1"));
        assert_eq!(
            rejecting
                .stats()
                .rejected_for(RejectionReason::StoreUnavailable),
            1
        );

        let passing = ApiKeyLayer::new(FailingStore).on_store_failure(StoreFailure::Admit);
        let address = support::serve(routes().layer(passing.clone())).await;
        assert_eq!(ask(address).await.body, "unverified");
        assert_eq!(passing.stats().unverified, 1);

        // The secret of an unverified key is removed as well.
        let shown =
            |headers: http::HeaderMap| async move { format!("{:?}", headers.get("authorization")) };
        let routes = Router::new().route("/", get(shown));
        let address = support::serve(routes.clone().layer(passing.clone())).await;
        assert_eq!(ask(address).await.body, "None");
        let address = support::serve(routes.layer(passing.keep_credential())).await;
        assert_ne!(ask(address).await.body, "None");
    }
}

#[tokio::test]
async fn imported_keys_authenticate_like_issued_keys() {
    let service = Service::start(routes(), ApiKeyLayer::accept_imported).await;
    let issuer = keytally::key::Issuer::new("acme").unwrap();
    let secret = "sk_live_4eC39HqLyjWDarjtT1zdp7dc";
    let imported = issuer.import(
        &service.backend,
        ImportedKey::from_secret(NewKey::new("old"), secret),
        Actor::SYSTEM,
    );
    let imported = imported.await.unwrap();
    assert_eq!(keytally::KeyId::of_secret(secret), Some(imported.id));
    // Invariant 1: no part of the secret is stored.
    let id = &imported.id.as_str()[..4];
    assert_eq!(imported.hint, format!("imported {id}…"));
    assert_eq!(service.get("/me", secret).await.body, "old");
    // SHA-256 of "another-old-secret-0001".
    let hex = "70f79a201405a075c465d4e68ab1522a4baf1b26e510ca5ee1c42f2a1eb9f742";
    let by_hash = issuer.import(
        &service.backend,
        ImportedKey::from_digest(NewKey::new("hashed"), Digest::from_sha256(hex)),
        Actor::SYSTEM,
    );
    assert_eq!(by_hash.await.unwrap().name, "hashed");
    assert_eq!(
        service.get("/me", "another-old-secret-0001").await.body,
        "hashed"
    );
    assert_eq!(
        service.get("/me", "short").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        service
            .get("/me", "sk_live_4eC39HqLyjWDarjtT1zdp7dd")
            .await
            .status,
        StatusCode::UNAUTHORIZED
    );
    let (issued_elsewhere, _) = issuer.prepare(NewKey::new("elsewhere")).unwrap();
    let new = NewKey::new("moved");
    let moved = issuer.import(
        &service.backend,
        ImportedKey::from_secret(new, issued_elsewhere.expose()),
        Actor::SYSTEM,
    );
    assert_eq!(moved.await.unwrap().id, issued_elsewhere.id());
    assert_eq!(
        service.get("/me", issued_elsewhere.expose()).await.body,
        "moved"
    );
    let plain = Service::plain(routes()).await;
    assert_eq!(
        plain.get("/me", secret).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn rotated_key_shares_rate_limit_state_with_its_predecessor() {
    let service = Service::plain(routes()).await;
    let new = NewKey::new("x").limit(RateLimit::per_hour(3));
    let old = service.issue(new).await;
    let issuer = keytally::key::Issuer::new("acme").unwrap();
    assert_eq!(
        service.get("/me", old.secret.expose()).await.status,
        StatusCode::OK
    );
    let grace = Duration::from_secs(3_600);
    let new = issuer
        .rotate(&service.backend, old.key.id, grace, Actor::SYSTEM)
        .await
        .unwrap();
    assert_eq!(new.key.rotated_from, Some(old.key.id));
    assert_eq!(
        service.get("/me", old.secret.expose()).await.status,
        StatusCode::OK
    );
    assert_eq!(
        service.get("/me", new.secret.expose()).await.status,
        StatusCode::OK
    );
    for issued in [&old, &new] {
        let response = service.get("/me", issued.secret.expose()).await;
        assert_eq!(response.status, StatusCode::TOO_MANY_REQUESTS);
    }
    let at_once = issuer
        .rotate(&service.backend, new.key.id, Duration::ZERO, Actor::SYSTEM)
        .await
        .unwrap();
    assert_eq!(
        service.get("/me", new.secret.expose()).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        service.get("/me", at_once.secret.expose()).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
}

#[tokio::test]
async fn on_rejection_can_replace_the_body_and_status() {
    let service = Service::start(routes(), |layer| {
        layer
            .realm("postings")
            .on_rejection(|rejection, mut response| {
                *response.body_mut() = format!("rejected: {}", rejection.status()).into();
                if rejection.reason == RejectionReason::Disabled {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                response
            })
    })
    .await;
    let response = service.send(Request::get("/me")).await;
    assert_eq!(response.body, "rejected: 401 Unauthorized");
    assert_eq!(
        response.header("www-authenticate"),
        Some(r#"Bearer realm="postings""#)
    );
    // The event has the status and size that the client received.
    let hidden = service.key().await;
    service
        .backend
        .disable(hidden.key.id, Actor::SYSTEM)
        .await
        .unwrap();
    let response = service.get("/me", hidden.secret.expose()).await;
    assert_eq!(response.status, StatusCode::NOT_FOUND);
    let event = &service.events().await[0];
    assert_eq!(event.status, Status::Http(404));
    assert_eq!(event.response_bytes, response.body.len() as u64);
}

mod bounded_cardinality {
    use super::*;

    #[tokio::test]
    async fn client_chosen_paths_and_methods_are_grouped() {
        let service = Service::start(routes(), |layer| {
            layer.endpoint(|head| Some(head.uri().path().into()))
        })
        .await;
        let secret = service.key().await.secret.expose().to_owned();
        for n in 0..1_100 {
            let request = support::get(&format!("/{n}"), &secret);
            let method = http::Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
            service.send(request.method(method)).await;
        }
        let summary = service.summary().await;
        assert_eq!(summary.by_method.len(), 1);
        assert_eq!(summary.by_endpoint.len(), 1_025);
        let other = &summary.by_endpoint[OTHER_ENDPOINTS];
        assert_eq!(other.total(), 76);
        assert_eq!(summary.totals.total(), 1_100);
        let failed = service
            .log(LogFilter::new().status_class(StatusClass::ClientError))
            .await;
        assert_eq!(failed.len(), 1_000);
    }
}
