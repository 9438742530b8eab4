//! Heap allocations per request, and those that a layer adds to the bare service.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ops::Sub,
};

use axum::extract::Request;
use jiff::Timestamp;
use keytally_peers::{
    NoOp, TOKEN, Template, bare_router, drive,
    governor::{self, NEVER_REJECTS, REJECTS},
    keytally, tollgate,
};
use tower::Layer;

/// Counts the calling thread's allocations only.
struct Counting;

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count::ZERO) };
}

fn count(reallocs: i64, bytes: usize) {
    COUNT.with(|count| {
        let mut now = count.get();
        now.calls += 1;
        now.reallocs += reallocs;
        now.bytes += bytes as i64;
        count.set(now);
    });
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of `alloc`, `alloc_zeroed` and `realloc`, how many of them were
/// `realloc`, and the bytes requested.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Count {
    calls: i64,
    reallocs: i64,
    bytes: i64,
}

impl Count {
    const ZERO: Self = Self {
        calls: 0,
        reallocs: 0,
        bytes: 0,
    };
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            calls: self.calls - other.calls,
            reallocs: self.reallocs - other.reallocs,
            bytes: self.bytes - other.bytes,
        }
    }
}

/// The minimum and maximum allocations of 1,000 calls after a warm-up.
fn measure(mut call: impl FnMut()) -> (Count, Count) {
    (0..100).for_each(|_| call());
    let counts: Vec<Count> = (0..1_000)
        .map(|_| {
            let before = COUNT.get();
            call();
            COUNT.get() - before
        })
        .collect();
    (*counts.iter().min().unwrap(), *counts.iter().max().unwrap())
}

fn print(name: &str, (least, most): (Count, Count), bare: Count) {
    let added = least - bare;
    let note = if least == most {
        String::from("same for every request")
    } else {
        format!("at most {} calls, {} bytes", most.calls, most.bytes)
    };
    println!(
        "  {name:26}{:>6}{:>9}{:>7}{:>+9}{:>+9}{:>+7}   {note}",
        least.calls, least.reallocs, least.bytes, added.calls, added.reallocs, added.bytes
    );
}

fn main() {
    let template = Template::default();
    let get = || template.get();
    println!(
        "  {:26} calls reallocs  bytes   added to bare: the same columns",
        ""
    );
    for content_type in [true, false] {
        println!("no-op service, content-type header: {content_type}");
        let inner = NoOp { content_type };
        let bare = service(inner, get, 200);
        let case = |name, counts| print(name, counts, bare.0);
        case("bare", bare);
        let quota = NEVER_REJECTS;
        case(
            "governor",
            service(governor::plain(quota).layer(inner), get, 200),
        );
        case(
            "governor_headers",
            service(governor::headers(quota).layer(inner), get, 200),
        );
        case(
            "governor_bearer_headers",
            service(governor::bearer_headers(quota).layer(inner), get, 200),
        );
        case(
            "governor_rejected",
            service(governor::plain(REJECTS).layer(inner), get, 429),
        );
        case(
            "governor_headers_rejected",
            service(governor::headers(REJECTS).layer(inner), get, 429),
        );
        let keytally = keytally::keytally();
        let mut service = keytally.layer.layer(inner);
        keytally.runtime.block_on(async {
            // The first request looks up the key.
            tower::Service::call(&mut service, keytally.allowed.get())
                .await
                .unwrap();
        });
        let allowed = || assert_eq!(drive(&mut service, keytally.allowed.get()), 200);
        case("keytally", measure(allowed));
    }

    println!("credential check");
    let registry = tollgate::registry();
    let session = tollgate::SessionCredential::new();
    let now = Timestamp::now();
    let same = || {
        let principal = session.authenticate(Some(TOKEN.as_bytes()), &registry, now);
        assert!(principal.is_some());
    };
    print("tollgate_same_session", measure(same), Count::ZERO);
    let new = || {
        let session = tollgate::SessionCredential::new();
        let principal = session.authenticate(Some(TOKEN.as_bytes()), &registry, now);
        assert!(principal.is_some());
    };
    print("tollgate_new_session", measure(new), Count::ZERO);

    println!("axum application");
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let app = executor.block_on(tollgate::app(tollgate::QUEUE));
    let post = || app.request(&template);
    let bare = service(bare_router(), post, 200);
    print("bare_post", bare, bare.0);
    let context = executor.enter();
    print(
        "tollgate_post",
        service(app.router.clone(), post, 200),
        bare.0,
    );
    drop(context);
}

fn service<S>(mut service: S, request: impl Fn() -> Request, status: u16) -> (Count, Count)
where
    S: tower::Service<
            Request,
            Response = axum::response::Response,
            Error = std::convert::Infallible,
        >,
{
    let _ = drive(&mut service, request()); // Uses up the quota of one request, where there is one.
    measure(|| assert_eq!(drive(&mut service, request()), status))
}
