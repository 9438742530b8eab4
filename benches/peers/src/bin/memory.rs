//! The heap memory of a layer for each key in use: the cache entry, the attached limits and the limiter.
//!
//! `memory [keys]`, 100,000 by default. The keys have a name, an owner and a limit, and their store is not included.

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::http::{Response, StatusCode};
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, CacheConfig, Issuer, NewKey};
use keytally::limit::RateLimit;
use keytally::usage::Recorder;
use keytally_peers::{NoOp, Template};
use tower::{Layer, Service};

/// Counts the bytes in use, as requested.
struct Counting;

static IN_USE: AtomicI64 = AtomicI64::new(0);

fn add(bytes: i64) {
    IN_USE.fetch_add(bytes, Ordering::Relaxed);
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as i64 - layout.size() as i64);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as i64));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let keys = env::args()
        .nth(1)
        .map_or(100_000, |keys| keys.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let backend = MemoryBackend::new();
    let issuer = Issuer::new("acme_live").unwrap();
    let secrets: Vec<String> = (0..keys)
        .map(|number| {
            let new = NewKey::new(format!("key {number}"))
                .owner(format!("customer-{}", number / 4))
                .limit(RateLimit::per_minute(100));
            let issued = runtime.block_on(issuer.issue(&backend, new, Actor::SYSTEM));
            issued.unwrap().secret.expose().to_owned()
        })
        .collect();
    let cache = CacheConfig::new().capacity(2 * keys);
    let layer = ApiKeyLayer::new(backend)
        .cache(cache)
        .recorder(Recorder::counting());
    let mut service = layer.layer(NoOp { content_type: true });
    let send = |service: &mut <ApiKeyLayer as Layer<NoOp>>::Service, secret: &str| {
        let request = Template::presenting(secret).get();
        let response: Response<_> = runtime.block_on(service.call(request)).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    };
    let before = IN_USE.load(Ordering::Relaxed);
    secrets.iter().for_each(|secret| send(&mut service, secret));
    let per_key = (IN_USE.load(Ordering::Relaxed) - before) as f64 / keys as f64;
    println!("{per_key:.0} bytes for each of {keys} keys");
}
