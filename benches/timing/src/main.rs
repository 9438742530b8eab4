//! Rule 3, measured: what the time of a refusal tells.
//!
//! ```text
//! timing [SAMPLES] [CASE]
//! ```
//!
//! Each case refuses requests of two classes, so many of each, and prints the largest t of Welch's
//! test over all crops: below 5 the classes cannot be told apart. `planted_…` are those that must be
//! told apart, and `nothing_to_find` is what the harness shows where there is no difference.
//!
//! - The classes come in random order, and a request is made just before it is timed, in the same
//!   memory for both.
//! - Every round has fresh keys and a fresh cache, so that it is not the places of a few in a table
//!   that are measured; all are asked for once before.
//! - A round's keys are as many of one class as of the other, or the same for both.

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
    // For the timers of look-ups.
    let _context = runtime.enter();
    run_benches_console(options, benches.collect())
}
