//! Times two classes of requests.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dudect_bencher::rand::RngExt;
use dudect_bencher::rand::seq::SliceRandom;
use dudect_bencher::{BenchRng, Class, CtRunner};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use keytally::key::Secret;
use keytally::{ApiKeyLayer, ApiKeyService, PeerAddress};
use tower::{Layer, Service};

/// The number of samples of each class.
pub static SAMPLES: OnceLock<usize> = OnceLock::new();

/// Samples of both classes before the keys are replaced. Kept low, since the timing of a key depends on its
/// location in memory.
const ROUND: usize = 500;
/// The number of keys of each class.
pub const KEYS: usize = 16;

/// The number of past rounds whose memory stays allocated.
const RETAINED: usize = 8;

/// The service behind the layer, which no timed request reaches.
#[derive(Clone)]
pub struct Behind;

impl Service<Request<String>> for Behind {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        ready(Ok(Response::new(String::new())))
    }
}

/// A layer and the secrets of two classes to present to it.
pub struct Round {
    pub layer: ApiKeyLayer,
    pub left: Vec<String>,
    pub right: Vec<String>,
}

/// Times the configured number of rejected requests, with new keys in each round.
pub fn reject(
    runner: &mut CtRunner,
    rng: &mut BenchRng,
    round: impl FnMut(&mut BenchRng) -> Round,
) {
    reject_after(runner, rng, round, |_| ());
}

/// The same with a timed action before each request.
pub fn reject_after(
    runner: &mut CtRunner,
    rng: &mut BenchRng,
    mut round: impl FnMut(&mut BenchRng) -> Round,
    before: impl Fn(bool),
) {
    let mut tally = Tally::default();
    let mut left = 2 * SAMPLES.get().expect("set in main");
    let mut retained = Vec::new();
    while left > 0 {
        let Round {
            layer,
            left: first,
            right: second,
        } = round(rng);
        assert_eq!((first.len(), second.len()), (KEYS, KEYS));
        let service = RefCell::new(layer.layer(Behind));
        let mut presented: Vec<Presented> = Vec::with_capacity(2 * KEYS);
        for (is_left, secrets) in [(true, first), (false, second)] {
            presented.extend(secrets.iter().map(|secret| Presented::new(secret, is_left)));
        }
        // Shuffled before use, so that neither class occupies its own region of memory.
        presented.shuffle(rng);
        // Spreads the cache entries over separate pages, with the same distances for both classes.
        let mut apart: Vec<Vec<u8>> = Vec::with_capacity(presented.len());
        for each in &presented {
            apart.push(vec![0; rng.random_range(4_096..8_192)]);
            let response = drive(&mut service.borrow_mut(), each.request());
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        }
        let count = left.min(ROUND);
        for _ in 0..count {
            let each = &presented[rng.random_range(0..presented.len())];
            let request = Cell::new(Some(each.request()));
            let response = Cell::new(None);
            tally.run_one(runner, each.is_left, || {
                before(each.is_left);
                let request = request.take().expect("runs once");
                response.set(Some(drive(&mut service.borrow_mut(), request)));
            });
            assert!(response.take().is_some());
        }
        left -= count;
        // Keeps the memory of some rounds allocated, so that the memory layout differs between rounds.
        if retained.len() == RETAINED {
            retained.swap_remove(rng.random_range(0..RETAINED));
        }
        retained.push((service, apart));
    }
    tally.print();
}

/// Times a function on inputs of both classes.
pub fn time<T>(
    runner: &mut CtRunner,
    rng: &mut BenchRng,
    mut input: impl FnMut(bool, &mut BenchRng) -> T,
    timed: impl Fn(&T) -> bool,
) {
    let mut tally = Tally::default();
    for _ in 0..2 * SAMPLES.get().expect("set in main") {
        let is_left = rng.random::<bool>();
        let input = input(is_left, rng);
        tally.run_one(runner, is_left, || timed(&input));
    }
    tally.print();
}

/// A credential to present, in a buffer of fixed size.
struct Presented {
    bearer: [u8; 80],
    len: usize,
    is_left: bool,
}

impl Presented {
    fn new(secret: &str, is_left: bool) -> Self {
        let (text, mut bearer) = (format!("Bearer {secret}"), [0; 80]);
        bearer[..text.len()].copy_from_slice(text.as_bytes());
        Self {
            bearer,
            len: text.len(),
            is_left,
        }
    }

    /// Builds a request. Its header is allocated where that of the previous one was.
    fn request(&self) -> Request<String> {
        let value = HeaderValue::from_bytes(&self.bearer[..self.len]).expect("digits");
        let mut request = Request::new(String::new());
        request.headers_mut().insert(AUTHORIZATION, value);
        let peer = PeerAddress([203, 0, 113, 7].into());
        request.extensions_mut().insert(peer);
        request
    }
}

/// Sends a request with the right secret of a key.
pub fn verify(layer: &ApiKeyLayer, secret: &Secret) {
    let request = Presented::new(secret.expose(), true).request();
    let response = drive(&mut layer.layer(Behind), request);
    assert_eq!(response.status(), StatusCode::OK);
}

fn drive(
    service: &mut ApiKeyService<Behind>,
    request: Request<String>,
) -> Response<impl Sized + use<>> {
    let cx = &mut Context::from_waker(Waker::noop());
    match pin!(service.call(request)).poll(cx) {
        Poll::Ready(Ok(response)) => response,
        _ => panic!("the service did not respond immediately"),
    }
}

/// Histograms of the durations in nanoseconds, to estimate the size of an effect.
struct Tally([Vec<u64>; 2]);

impl Default for Tally {
    fn default() -> Self {
        Self([vec![0; Self::MOST + 1], vec![0; Self::MOST + 1]])
    }
}

impl Tally {
    const MOST: usize = 20_000;

    /// Times a function for the statistical test and, within that, for the histogram.
    fn run_one<T>(&mut self, runner: &mut CtRunner, is_left: bool, timed: impl Fn() -> T) {
        let taken = Cell::new(Duration::ZERO);
        let class = if is_left { Class::Left } else { Class::Right };
        runner.run_one(class, || {
            let start = Instant::now();
            let result = timed();
            taken.set(start.elapsed());
            result
        });
        let nanos = usize::try_from(taken.get().as_nanos()).unwrap_or(usize::MAX);
        self.0[usize::from(!is_left)][nanos.min(Self::MOST)] += 1;
    }

    /// Prints the means of the fastest 90% of each class, including the overhead of timing.
    fn print(&self) {
        let [left, right] = self.0.each_ref().map(|counts| {
            let all: u64 = counts.iter().sum();
            let mut left = all / 10 * 9;
            let mut sum = 0;
            for (nanos, &count) in counts.iter().enumerate() {
                let count = count.min(left);
                left -= count;
                sum += count * nanos as u64;
            }
            sum as f64 / (all / 10 * 9) as f64
        });
        print!(
            "{left:.2} ns and {right:.2} ns, difference {:+.2} ns",
            left - right
        );
    }
}
