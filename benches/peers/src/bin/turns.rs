//! The overhead of layers per request, alternating between variants.
//!
//! `turns [rounds] [requests per round]`. Each round runs every variant once, so that other load on the machine
//! affects all of them. Prints the medians over the rounds.

use std::{
    convert::Infallible,
    env,
    time::{Duration, Instant},
};

use ::keytally::usage::Recorder;
use axum::{extract::Request, http::Response};
use keytally_peers::{
    NoOp, Template, bare_router, drive,
    governor::{self, NEVER_REFUSES},
    keytally::{self, Keytally},
    tollgate,
};
use tokio::runtime::Builder;
use tower::{Layer, Service};

struct Variant<'a> {
    name: &'static str,
    round: Box<dyn FnMut(usize) -> Duration + 'a>,
}

fn variant<'a, S, B>(
    name: &'static str,
    mut service: S,
    template: Template,
    status: u16,
    keytally: Option<&'a Keytally>,
) -> Variant<'a>
where
    S: Service<Request, Response = Response<B>, Error = Infallible> + 'a,
    B: axum::body::HttpBody<Error: std::fmt::Debug>,
{
    let round = move |requests| {
        if let Some(keytally) = keytally {
            // Refreshes an expired cache entry and flushes the recorder.
            keytally.runtime.block_on(async {
                let _ = service.call(template.get()).await;
            });
            keytally.drain();
        }
        for _ in 0..requests / 8 {
            drive(&mut service, template.get());
        }
        let start = Instant::now();
        for _ in 0..requests {
            assert_eq!(drive(&mut service, template.get()), status);
        }
        start.elapsed()
    };
    Variant {
        name,
        round: Box::new(round),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn run(group: &str, variants: &mut [Variant<'_>], rounds: usize, requests: usize) {
    let mut times = vec![Vec::new(); variants.len()];
    for _ in 0..rounds {
        for (variant, times) in variants.iter_mut().zip(&mut times) {
            times.push((variant.round)(requests).as_nanos() as f64 / requests as f64);
        }
    }
    let bare = times[0].clone();
    let added = |times: &[f64]| -> Vec<f64> {
        let pairs = times.iter().zip(&bare);
        pairs.map(|(time, bare)| time - bare).collect()
    };
    let governor = added(&times[1]);
    println!("{group:22}   median ns      added   of governor's");
    for (variant, times) in variants.iter().zip(&times) {
        let added = added(times);
        let ratios = added.iter().zip(&governor).map(|(a, g)| a / g).collect();
        println!(
            "  {:20}{:12.0}{:+11.0}{:13.2}",
            variant.name,
            median(times.clone()),
            median(added),
            median(ratios),
        );
    }
}

fn main() {
    let mut args = env::args().skip(1);
    let mut arg = |default: usize| args.next().map_or(default, |arg| arg.parse().unwrap());
    let (rounds, requests) = (arg(200), arg(4_000));
    let keytally = keytally::keytally();
    let _context = keytally.runtime.enter();
    let own = Some(&keytally);
    // The same with a recorder without a sink.
    let mut counting = keytally::keytally();
    counting.layer = counting.layer.recorder(Recorder::counting());
    for (group, content_type) in [("with content-type", true), ("without headers", false)] {
        let inner = NoOp { content_type };
        let service = || keytally.layer.layer(inner);
        let mut variants = [
            variant("bare", inner, Template::default(), 200, None),
            variant(
                "governor_headers",
                governor::headers(NEVER_REFUSES).layer(inner),
                Template::default(),
                200,
                None,
            ),
            variant("keytally", service(), keytally.allowed.clone(), 200, own),
            variant(
                "keytally, counting",
                counting.layer.layer(inner),
                counting.allowed.clone(),
                200,
                Some(&counting),
            ),
            variant("limited", service(), keytally.limited.clone(), 429, own),
            variant("unknown", service(), keytally.unknown.clone(), 401, own),
            variant("malformed", service(), keytally.malformed.clone(), 401, own),
        ];
        run(group, &mut variants, rounds, requests);
    }
    // The usage writer runs on this thread and only between rounds: neither its time nor its
    // wake-ups are measured.
    let executor = Builder::new_current_thread().enable_all().build().unwrap();
    let mut app = executor.block_on(tollgate::app(16 * tollgate::QUEUE));
    let template = Template::default();
    let mut tollgate = |requests| {
        executor.block_on(app.drain());
        let _context = executor.enter();
        let mut router = app.router.clone();
        let start = Instant::now();
        for _ in 0..requests {
            assert_eq!(drive(&mut router, app.request(&template)), 200);
        }
        start.elapsed()
    };
    let mut variants = [
        variant("bare", bare_router(), Template::default(), 200, None),
        variant(
            "governor_headers",
            bare_router().layer(governor::headers(NEVER_REFUSES)),
            Template::default(),
            200,
            None,
        ),
        variant(
            "keytally",
            bare_router().layer(keytally.layer.clone()),
            keytally.allowed.clone(),
            200,
            own,
        ),
        Variant {
            name: "tollgate",
            round: Box::new(&mut tollgate),
        },
    ];
    run("axum route", &mut variants, rounds, requests);
    drop(variants);
    keytally.assert_nothing_lost();
    app.router = bare_router();
    executor.block_on(app.runtime.shutdown()).unwrap();
}
