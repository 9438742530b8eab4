use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use keytally_peers::{
    NoOp, TOKEN, Template, bare_router, drive,
    governor::{self, NEVER_REJECTS, REJECTS},
    keytally::{CHUNK, Keytally, keytally},
    tollgate,
};
use tollgate_auth::{CredentialVerifier, SessionCredential};
use tower::Layer;

/// `case!(group, "name", service, status)`: one request per iteration.
macro_rules! case {
    ($group:expr, $name:expr, $service:expr, $status:expr) => {{
        let template = Template::default();
        let mut service = $service;
        drive(&mut service, template.get()); // Uses up the quota of one request, where there is one.
        $group.bench_function($name, |b| {
            b.iter(|| assert_eq!(drive(&mut service, template.get()), $status))
        });
    }};
}

/// `accounted!(group, "name", keytally, service, template, status)`: one request per iteration. The recorder is
/// flushed between chunks of iterations, which is not measured.
macro_rules! accounted {
    ($group:expr, $name:expr, $keytally:expr, $service:expr, $template:ident, $status:expr) => {{
        let keytally: &Keytally = &$keytally;
        // Provides timers for lookups after a cache entry has expired.
        let _context = keytally.runtime.enter();
        let mut service = $service;
        // The first request looks up the key and uses up the limit of one request.
        for _ in 0..2 {
            keytally.runtime.block_on(async {
                let request = keytally.$template.get();
                tower::Service::call(&mut service, request).await.unwrap();
            });
        }
        $group.bench_function($name, |b| {
            b.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    keytally.drain();
                    let count = left.min(CHUNK);
                    let start = Instant::now();
                    for _ in 0..count {
                        let request = keytally.$template.get();
                        assert_eq!(drive(&mut service, request), $status);
                    }
                    elapsed += start.elapsed();
                    left -= count;
                }
                elapsed
            })
        });
        keytally.assert_nothing_lost();
    }};
}

/// Layers over a service that does nothing.
fn layers(c: &mut Criterion) {
    for (name, content_type) in [("noop_content_type", true), ("noop_no_header", false)] {
        let inner = NoOp { content_type };
        let mut group = c.benchmark_group(name);
        case!(group, "bare", inner, 200);
        case!(
            group,
            "governor",
            governor::plain(NEVER_REJECTS).layer(inner),
            200
        );
        case!(
            group,
            "governor_headers",
            governor::headers(NEVER_REJECTS).layer(inner),
            200
        );
        case!(
            group,
            "governor_bearer_headers",
            governor::bearer_headers(NEVER_REJECTS).layer(inner),
            200
        );
        case!(
            group,
            "governor_rejected",
            governor::plain(REJECTS).layer(inner),
            429
        );
        case!(
            group,
            "governor_headers_rejected",
            governor::headers(REJECTS).layer(inner),
            429
        );
        let keytally = keytally();
        let service = keytally.layer.layer(inner);
        accounted!(group, "keytally", keytally, service.clone(), allowed, 200);
        accounted!(
            group,
            "keytally_limited",
            keytally,
            service.clone(),
            limited,
            429
        );
        accounted!(
            group,
            "keytally_unknown",
            keytally,
            service.clone(),
            unknown,
            401
        );
        accounted!(
            group,
            "keytally_malformed",
            keytally,
            service,
            malformed,
            401
        );
        group.finish();
    }
}

/// A credential check alone, without HTTP.
fn credential(c: &mut Criterion) {
    let registry = tollgate::registry();
    let now = Timestamp::now();
    let token = TOKEN.as_bytes();
    let mut group = c.benchmark_group("credential");
    group.bench_function("tollgate_verify", |b| {
        b.iter(|| registry.verify(black_box(token)).unwrap())
    });
    group.bench_function("tollgate_new_session", |b| {
        b.iter(|| {
            let session = SessionCredential::new();
            session
                .authenticate(black_box(Some(token)), &registry, now)
                .unwrap()
        })
    });
    let session = SessionCredential::new();
    group.bench_function("tollgate_same_session", |b| {
        b.iter(|| {
            session
                .authenticate(black_box(Some(token)), &registry, now)
                .unwrap()
        })
    });
    group.finish();
}

/// Whole axum applications.
fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("axum_route");
    case!(group, "bare", bare_router(), 200);
    case!(
        group,
        "governor_headers",
        bare_router().layer(governor::headers(NEVER_REJECTS)),
        200
    );
    let keytally = keytally();
    let router = bare_router().layer(keytally.layer.clone());
    accounted!(group, "keytally", keytally, router, allowed, 200);

    // The usage writer runs on this thread, and only between chunks: neither
    // its time nor its wake-ups are measured.
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut app = executor.block_on(tollgate::app(tollgate::QUEUE));
    let template = Template::default();
    let chunk = tollgate::QUEUE as u64 / 2;
    group.measurement_time(Duration::from_secs(3));
    let mut bare = bare_router();
    group.bench_function("bare_post", |b| {
        b.iter(|| assert_eq!(drive(&mut bare, app.request(&template)), 200))
    });
    group.bench_function("tollgate_post", |b| {
        b.iter_custom(|iterations| {
            let mut router = app.router.clone();
            let mut elapsed = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                executor.block_on(app.drain());
                let _context = executor.enter();
                let count = left.min(chunk);
                let start = Instant::now();
                for _ in 0..count {
                    assert_eq!(drive(&mut router, app.request(&template)), 200);
                }
                elapsed += start.elapsed();
                left -= count;
            }
            elapsed
        })
    });
    group.finish();
    app.router = bare_router();
    executor.block_on(app.runtime.shutdown()).unwrap();
}

criterion_group!(benches, layers, credential, routes);
criterion_main!(benches);
