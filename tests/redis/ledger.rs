//! Four processes share limits in Redis. What they admit, together, never exceeds the limits in any interval, whatever
//! fails meanwhile.

use std::time::{Duration, Instant, SystemTime};

use keytally::limit::RateLimit;

use crate::children::{Process, some};
use crate::server::Server;

const PROCESSES: usize = 4;
const KEYS: usize = 3;
/// The longest interval that is checked. A limit that holds in shorter intervals rarely fails in longer ones.
const LONGEST: u128 = 5_000_000_000;

/// An admitted cost.
struct Admitted {
    key: usize,
    cost: u128,
    requested: u128,
    admitted: u128,
}

impl Admitted {
    fn of(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix("admitted ")?.split(' ');
        let mut next = || parts.next()?.parse().ok();
        Some(Self {
            key: next()? as usize,
            cost: next()?,
            requested: next()?,
            admitted: next()?,
        })
    }
}

/// What the processes share.
struct Limits {
    of_key: RateLimit,
    of_owner: RateLimit,
    leases: bool,
}

fn start(server: &Server, limits: &Limits) -> Process {
    let json = |limit: &RateLimit| serde_json::to_string(&[limit]).unwrap();
    let variables = [
        ("KEYTALLY_TEST_URL", server.url()),
        ("KEYTALLY_TEST_KEY", json(&limits.of_key)),
        ("KEYTALLY_TEST_OWNER", json(&limits.of_owner)),
        ("KEYTALLY_TEST_LEASES", limits.leases.to_string()),
        ("KEYTALLY_TEST_KEYS", KEYS.to_string()),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, &**value));
    Process::start("acquire_until_killed", &variables)
}

/// Checks each interval from a request to an admission: what was requested and admitted in it was also decided in it.
/// After each loss of data, a limit may admit its burst once more. `leased` is the cost that may have been leased before.
fn check(limit: &RateLimit, leased: u32, admitted: &mut [&Admitted], losses: &[u128]) {
    admitted.sort_by_key(|one| one.requested);
    let per_request = limit.period().as_nanos() / u128::from(limit.requests());
    // Of long runs, a part of the intervals.
    let step = 1 + admitted.len() / 20_000;
    let requested = admitted.iter().map(|one| one.requested).enumerate();
    for (first, from) in requested.step_by(step) {
        let later = admitted[first..].iter();
        let mut later: Vec<_> = later
            .take_while(|one| one.requested - from <= LONGEST)
            .collect();
        later.sort_by_key(|one| one.admitted);
        let mut total = 0;
        for one in later {
            total += one.cost;
            let elapsed = one.admitted - from;
            // What was lost before may still be admitted again.
            let before = |time| losses.partition_point(|&at| at < time);
            let lost = before(one.admitted + 1) - before(from.saturating_sub(LONGEST));
            let burst = u128::from(limit.burst() + leased);
            let bursts = burst * (1 + lost as u128);
            assert!(
                total * per_request <= bursts * per_request + elapsed,
                "{limit:?} admitted {total} in {elapsed} ns"
            );
        }
    }
}

fn exact() -> Limits {
    Limits {
        of_key: RateLimit::per_second(60).with_burst(15),
        of_owner: RateLimit::per_second(120).with_burst(30),
        leases: false,
    }
}

/// A tenth of each burst is leased at most.
fn leased() -> Limits {
    Limits {
        of_key: RateLimit::per_second(400).with_burst(500),
        of_owner: RateLimit::per_second(800).with_burst(1_000),
        leases: true,
    }
}

fn run(limits: &Limits, time: Duration, loses_data: bool) {
    let mut server = Server::start();
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start(&server, limits)).collect();
    let (mut lines, mut losses) = (Vec::new(), Vec::new());
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::sleep(some(Duration::from_millis(400)));
        match fastrand::u8(..if loses_data { 8 } else { 5 }) {
            0 => {
                server.command("SCRIPT FLUSH");
            }
            1 => {
                server.command(&format!("CLIENT PAUSE {}", fastrand::u8(..)));
            }
            2 => {
                server.signal("STOP");
                std::thread::sleep(some(Duration::from_millis(300)));
                server.signal("CONT");
            }
            3 => {
                let killed = processes.swap_remove(fastrand::usize(..PROCESSES));
                lines.extend(killed.kill());
                processes.push(start(&server, limits));
            }
            4 => {
                let stopped = &processes[fastrand::usize(..PROCESSES)];
                stopped.pause(some(Duration::from_millis(1_500)));
            }
            // From here on, data is lost.
            5 => {
                server.command("FLUSHALL");
                losses.push(now());
            }
            6 => {
                losses.push(now());
                evict(&server);
            }
            _ => {
                server.kill();
                losses.push(now());
                server.restart();
            }
        }
    }
    lines.extend(processes.into_iter().flat_map(Process::kill));
    let admitted: Vec<_> = lines.iter().filter_map(|line| Admitted::of(line)).collect();
    let Limits {
        of_key,
        of_owner,
        leases,
    } = limits;
    let most = |limit: &RateLimit| if *leases { limit.burst() / 10 } else { 0 };
    for key in 0..KEYS {
        let mut of_this: Vec<_> = admitted.iter().filter(|one| one.key == key).collect();
        check(of_key, most(of_key), &mut of_this, &losses);
    }
    let mut all: Vec<_> = admitted.iter().collect();
    check(of_owner, most(of_owner), &mut all, &losses);
    let total: u128 = admitted.iter().map(|one| one.cost).sum();
    assert!(
        total > u128::from(of_owner.burst()),
        "only {total} were admitted"
    );
    println!(
        "figure: {total} admitted by {PROCESSES} processes, {} losses of data",
        losses.len()
    );
}

/// Makes the server evict all keys, and reject calls for a while.
fn evict(server: &Server) {
    let set = |setting| assert_eq!(server.command(&format!("CONFIG SET {setting}")), "+OK");
    set("maxmemory-policy allkeys-random");
    set("maxmemory 1024");
    // Keys are evicted before a command runs.
    assert_eq!(server.command("DBSIZE"), ":0");
    std::thread::sleep(some(Duration::from_millis(100)));
    set("maxmemory 0");
}

fn now() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_nanos()
}

/// The time of a run: ten seconds by default.
fn time() -> Duration {
    let seconds = std::env::var("KEYTALLY_LEDGER_SECONDS").ok();
    Duration::from_secs(seconds.map_or(10, |seconds| seconds.parse().unwrap()))
}

#[test]
fn limits_hold_over_processes_through_failures() {
    run(&exact(), time(), false);
}

#[test]
fn lost_data_admits_one_more_burst_at_most() {
    run(&exact(), time(), true);
}

#[test]
fn leases_exceed_limits_by_their_units_at_most() {
    run(&leased(), time(), false);
}

#[test]
fn lost_data_admits_one_more_burst_and_its_leases_at_most() {
    run(&leased(), time(), true);
}
