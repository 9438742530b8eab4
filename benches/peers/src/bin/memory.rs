//! The heap memory of a layer for each key in use: the cache entry, the attached limits and the limiter.
//!
//! `memory [keys]`, 100,000 by default. The keys have a name, an owner and a limit, and their store is not included.
//! Also prints the sizes of which there is an allocation for at least one key in ten. Larger ones are tables.

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

/// Counts the bytes in use, as requested, and the allocations of each size.
struct Counting;

const MAX_SIZE: usize = 1_024;
static IN_USE: AtomicI64 = AtomicI64::new(0);
static OF_SIZE: [AtomicI64; MAX_SIZE] = [const { AtomicI64::new(0) }; MAX_SIZE];

fn add(size: usize, count: i64) {
    IN_USE.fetch_add(count * size as i64, Ordering::Relaxed);
    if let Some(of_size) = OF_SIZE.get(size) {
        of_size.fetch_add(count, Ordering::Relaxed);
    }
}

fn of_size() -> [i64; MAX_SIZE] {
    std::array::from_fn(|size| OF_SIZE[size].load(Ordering::Relaxed))
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(layout.size(), -1);
        add(size, 1);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(layout.size(), -1);
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
    let (before, before_of_size) = (IN_USE.load(Ordering::Relaxed), of_size());
    secrets.iter().for_each(|secret| send(&mut service, secret));
    let (after, after_of_size) = (IN_USE.load(Ordering::Relaxed), of_size());
    let per_key = |amount: i64| amount as f64 / keys as f64;
    println!(
        "{:.0} bytes for each of {keys} keys",
        per_key(after - before)
    );
    let mut in_tables = after - before;
    for (size, (before, after)) in before_of_size.into_iter().zip(after_of_size).enumerate() {
        let count = after - before;
        if per_key(count) >= 0.1 {
            println!("{:>7.2} allocations of {size} bytes", per_key(count));
            in_tables -= count * size as i64;
        }
    }
    println!("{:>7.0} bytes in tables", per_key(in_tables));
}
