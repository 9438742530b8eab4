//! The CPU time that layers add per request, alternating between variants.
//!
//! `turns [rounds] [requests per round]`. Each round runs every variant once, so that other load on the machine affects
//! all of them. Prints medians over the rounds: the CPU time of the thread that serves the requests, and that of the
//! process, which includes the work of recorders in the background.

use std::{convert::Infallible, env};

use ::keytally::usage::Recorder;
use axum::{Router, extract::Request, http::Response};
use keytally_peers::{
    NoOp, Template, bare_router, drive,
    governor::{self, NEVER_REJECTS},
    keytally::{self, Keytally},
    tollgate,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;
use tower::{Layer, Service};

/// CPU times in nanoseconds.
#[derive(Clone, Copy)]
struct CpuTime {
    thread: f64,
    process: f64,
}

impl CpuTime {
    fn now() -> Self {
        let nanos = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
        };
        Self {
            thread: nanos(ClockId::ThreadCPUTime),
            process: nanos(ClockId::ProcessCPUTime),
        }
    }
}

/// Runs `requests`, then `finish`, and returns the CPU times of each request. The time of the thread does not include
/// `finish`.
fn measured(count: usize, requests: impl FnOnce(), finish: impl FnOnce()) -> CpuTime {
    let start = CpuTime::now();
    requests();
    let thread = CpuTime::now().thread;
    finish();
    let process = CpuTime::now().process;
    CpuTime {
        thread: (thread - start.thread) / count as f64,
        process: (process - start.process) / count as f64,
    }
}

struct Variant<'a> {
    name: &'static str,
    round: Box<dyn FnMut(usize) -> CpuTime + 'a>,
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
    let drain = move || keytally.into_iter().for_each(Keytally::drain);
    let round = move |count| {
        if let Some(keytally) = keytally {
            // Refreshes an expired cache entry.
            keytally.runtime.block_on(async {
                let _ = service.call(template.get()).await;
            });
        }
        for _ in 0..count / 8 {
            drive(&mut service, template.get());
        }
        drain();
        let requests = || {
            for _ in 0..count {
                assert_eq!(drive(&mut service, template.get()), status);
            }
        };
        measured(count, requests, drain)
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
            times.push((variant.round)(requests));
        }
    }
    println!("{group:22}  thread ns   added  of governor's   process ns   added  of governor's");
    for (variant, samples) in variants.iter().zip(&times) {
        print!("  {:20}", variant.name);
        for of in [|time: &CpuTime| time.thread, |time: &CpuTime| time.process] {
            let added = |samples: &[CpuTime]| -> Vec<f64> {
                let pairs = samples.iter().zip(&times[0]);
                pairs.map(|(time, bare)| of(time) - of(bare)).collect()
            };
            let ratios = added(samples)
                .iter()
                .zip(added(&times[1]))
                .map(|(added, governor)| added / governor)
                .collect();
            print!(
                "{:11.0}{:+8.0}{:15.2}",
                median(samples.iter().map(of).collect()),
                median(added(samples)),
                median(ratios),
            );
        }
        println!();
    }
}

/// Calls `with_state`, without which axum reapplies the layers of a router on each request.
fn ready(router: Router) -> Router {
    router.with_state(())
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
                governor::headers(NEVER_REJECTS).layer(inner),
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
    // The usage writer runs on this thread, after the requests.
    let executor = Builder::new_current_thread().enable_all().build().unwrap();
    let mut app = executor.block_on(tollgate::app(16 * tollgate::QUEUE));
    let template = Template::default();
    let mut tollgate = |count| {
        executor.block_on(app.drain());
        let _context = executor.enter();
        let mut router = ready(app.router.clone());
        let requests = || {
            for _ in 0..count {
                assert_eq!(drive(&mut router, app.request(&template)), 200);
            }
        };
        measured(count, requests, || executor.block_on(app.drain()))
    };
    let mut variants = [
        variant("bare", ready(bare_router()), Template::default(), 200, None),
        variant(
            "governor_headers",
            ready(bare_router().layer(governor::headers(NEVER_REJECTS))),
            Template::default(),
            200,
            None,
        ),
        variant(
            "keytally",
            ready(bare_router().layer(keytally.layer.clone())),
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
