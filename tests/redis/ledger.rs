//! Four processes share limits in Redis. What they admit, together, never exceeds the limits in any interval, whatever
//! fails meanwhile.

use std::time::{Duration, Instant, SystemTime};

use keytally::limit::RateLimit;

use crate::children::{Process, some};
use crate::server::Server;
use crate::wall_clock::WallClock;

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

/// What fails, besides connections and processes.
enum Faults {
    Nothing,
    /// Redis loses data.
    Data,
    /// The clock of the server is stepped.
    Clock(WallClock),
    /// The limits move between the servers of a cluster.
    Resharding,
}

fn start(servers: &[Server], limits: &Limits) -> Process {
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    let json = |limit: &RateLimit| serde_json::to_string(&[limit]).unwrap();
    let variables = [
        ("KEYTALLY_TEST_URLS", urls.join(",")),
        ("KEYTALLY_TEST_KEY", json(&limits.of_key)),
        ("KEYTALLY_TEST_OWNER", json(&limits.of_owner)),
        ("KEYTALLY_TEST_LEASES", limits.leases.to_string()),
        ("KEYTALLY_TEST_KEYS", KEYS.to_string()),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, &**value));
    Process::start("acquire_until_killed", &variables)
}

/// Checks each interval from a request to an admission: what was requested and admitted in it was also decided in it.
/// After each loss of data or step of the clock, a limit may admit its burst once more. `leased` is the cost that may have
/// been leased before.
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

fn run(limits: &Limits, faults: &Faults) {
    let mut servers: Vec<_> = match faults {
        Faults::Resharding => Server::start_cluster().into(),
        Faults::Clock(clock) => vec![Server::start_with(&clock.environment())],
        Faults::Nothing | Faults::Data => vec![Server::start()],
    };
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start(&servers, limits)).collect();
    let (mut lines, mut losses, mut moves) = (Vec::new(), Vec::new(), 0);
    let kinds = if matches!(faults, Faults::Nothing) {
        5
    } else {
        8
    };
    if matches!(faults, Faults::Resharding) {
        let slot = slot(&servers[0]);
        // A server without keys has nothing to move.
        while Server::with_keys(&servers, slot).is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let end = Instant::now() + time();
    while Instant::now() < end {
        std::thread::sleep(some(Duration::from_millis(400)));
        let server = fastrand::usize(..servers.len());
        match (fastrand::u8(..kinds), faults) {
            (0, _) => {
                servers[server].command("SCRIPT FLUSH");
            }
            (1, _) => {
                servers[server].command(&format!("CLIENT PAUSE {}", fastrand::u8(..)));
            }
            (2, _) => {
                servers[server].signal("STOP");
                std::thread::sleep(some(Duration::from_millis(300)));
                servers[server].signal("CONT");
            }
            (3, _) => {
                let killed = processes.swap_remove(fastrand::usize(..PROCESSES));
                lines.extend(killed.kill());
                processes.push(start(&servers, limits));
            }
            (4, _) => {
                let stopped = &processes[fastrand::usize(..PROCESSES)];
                stopped.pause(some(Duration::from_millis(1_500)));
            }
            (_, Faults::Clock(clock)) => {
                losses.push(now());
                step(clock, &servers[server]);
            }
            (_, Faults::Resharding) => {
                let slot = slot(&servers[0]);
                let pause = || std::thread::sleep(some(Duration::from_millis(50)));
                Server::move_slot(&servers, slot, pause);
                moves += 1;
            }
            (5, _) => {
                servers[server].command("FLUSHALL");
                losses.push(now());
            }
            (6, _) => {
                losses.push(now());
                evict(&servers[server]);
            }
            _ => {
                servers[server].kill();
                losses.push(now());
                servers[server].restart();
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
        "figure: {total} admitted by {PROCESSES} processes, {} losses of data or steps of the clock, {moves} moves",
        losses.len()
    );
}

/// Steps the clock of a server, and waits until it has read the new time.
fn step(clock: &WallClock, server: &Server) {
    let offset = fastrand::choice([-3_600, -5, 0, 5, 3_600]).unwrap();
    clock.set(offset);
    let end = Instant::now() + Duration::from_secs(30);
    let ahead = || {
        let response = server.response("TIME");
        let seconds: i64 = response.lines().nth(2).unwrap().parse().unwrap();
        seconds - (now() / 1_000_000_000) as i64
    };
    while (ahead() - offset).abs() > 1 {
        assert!(Instant::now() < end, "the clock is not stepped");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The slot of the owner and its keys.
fn slot(server: &Server) -> u16 {
    let slot = server.command("CLUSTER KEYSLOT {owner:customer-17}");
    slot[1..].parse().unwrap()
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
    run(&exact(), &Faults::Nothing);
}

#[test]
fn lost_data_admits_one_more_burst_at_most() {
    run(&exact(), &Faults::Data);
}

#[test]
fn limits_hold_while_they_move_in_a_cluster() {
    run(&exact(), &Faults::Resharding);
}

#[test]
#[ignore = "needs libfaketime and Valkey: see scripts/test"]
fn steps_of_the_clock_admit_one_more_burst_at_most() {
    let name = format!("keytally-clock-{}", std::process::id());
    let file = std::env::temp_dir().join(name);
    run(&exact(), &Faults::Clock(WallClock::new(&file)));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn leases_exceed_limits_by_their_units_at_most() {
    run(&leased(), &Faults::Nothing);
}

#[test]
fn lost_data_admits_one_more_burst_and_its_leases_at_most() {
    run(&leased(), &Faults::Data);
}

#[test]
fn leases_hold_while_they_move_in_a_cluster() {
    run(&leased(), &Faults::Resharding);
}
