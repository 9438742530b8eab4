//! Measures whether the response time of a rejection reveals what is wrong with a key (invariant 3).
//!
//! ```text
//! timing [SAMPLES] [CASE]
//! ```
//!
//! Each case sends rejected requests of two classes, `SAMPLES` of each, and prints the largest t of Welch's
//! t-test over all percentile crops. Below 5, the classes are indistinguishable. The cases named `leaky_…` must
//! be distinguishable; `control_without_difference` is the control without any difference.
//!
//! - The classes are interleaved at random. A request is built just before it is timed, in the same memory for
//!   both.
//! - Every round has new keys and a new cache, so that the positions of a few keys in a table do not determine the
//!   result. Each key is looked up once before it is timed.
//! - The classes of a round have the same number of keys, or the same keys.

mod cases;
mod harness;
mod secrets;

use dudect_bencher::ctbench::{BenchMetadata, BenchName, BenchOpts, run_benches_console};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let samples = arguments.next().map_or(Ok(100_000), |text| text.parse());
    harness::SAMPLES.get_or_init(|| samples.expect("a number of samples"));
    let options = BenchOpts {
        filter: arguments.next(),
        ..BenchOpts::default()
    };
    let benches = cases::ALL.iter().map(|&(name, benchfn)| BenchMetadata {
        name: BenchName(name),
        seed: Some(1),
        benchfn,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    // Provides timers for lookups.
    let _context = runtime.enter();
    run_benches_console(options, benches.collect())
}
