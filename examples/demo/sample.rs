//! Sample data: six keys of four owners and their requests of thirty days, up to now.
//!
//! The requests are invented, but written as a recorder writes them: as events through the backend's sink. The random
//! numbers have a fixed seed. Everything is marked as sample data: keys by the environment `sample` and by metadata,
//! requests by ids that start with `sample-` and by client IPs from networks reserved for documentation (RFC 5737).

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use keytally::backend::SqliteBackend;
use keytally::key::{Actor, AddressList, Issuer, KeyAdmin, NewKey, OwnerAdmin, OwnerUpdate, Plan};
use keytally::limit::RateLimit;
use keytally::usage::{
    Batch, Cause, Method, Outcome, RejectionReason, Status, UsageEvent, UsageSink,
};
use keytally::{Clock, KeyId};

use super::api::{cost, resource_id};

/// The number of days with requests.
pub(crate) const DAYS: u32 = 30;

/// The name of the key for the demo's background requests. Its secret is stored, so that later runs can use it.
pub(crate) const BACKGROUND_KEY: &str = "Career site";

/// The actor of changes by the demo, in the audit log.
pub(crate) const ACTOR: Actor<'_> = Actor::new("demo");

/// The number of events per batch.
const BATCH: usize = 5_000;

/// The hours since the rotation of a key, the disabling of a key, and the start of a spike.
const ROTATED: f64 = 30.0;
const DISABLED: f64 = 52.0;
const SPIKE: f64 = 3.0;

/// An endpoint, with the method, the median latency in milliseconds and typical sizes of bodies.
struct Route(Method, &'static str, f64, u64, u64);

const ROUTES: [Route; 7] = [
    Route(Method::Get, "/v1/postings", 12.0, 0, 6_200),
    Route(Method::Get, "/v1/postings/{id}", 4.0, 0, 1_900),
    Route(Method::Get, "/v1/search", 38.0, 0, 9_400),
    Route(Method::Post, "/v1/postings", 19.0, 950, 120),
    Route(Method::Put, "/v1/postings/{id}", 15.0, 900, 110),
    Route(Method::Delete, "/v1/postings/{id}", 9.0, 0, 0),
    Route(Method::Get, "/v1/reports", 260.0, 0, 48_000),
];

/// A client with a key.
struct Client {
    name: &'static str,
    owner: &'static str,
    /// The age of the key in days.
    age: i64,
    limit: RateLimit,
    story: Story,
    /// Requests of the latest day, not counting a spike.
    per_day: f64,
    /// The busiest hour of the day (UTC), and how many hours before and after it are busy.
    peak: (f64, f64),
    /// Traffic at weekends, relative to other days.
    weekend: f64,
    /// The weight of each route.
    mix: [u32; ROUTES.len()],
    /// The network of the client, and its number of hosts.
    network: ([u8; 3], u8),
}

#[derive(PartialEq)]
enum Story {
    Steady,
    /// Rotated; clients move to the new key one after another.
    Rotated,
    /// Exceeds its limit since a few hours, and expires soon.
    Spike,
    /// Restricted to its network, but also used from elsewhere.
    Restricted,
    /// Disabled, but still used.
    Disabled,
    Unused,
}

fn clients() -> [Client; 6] {
    [
        Client {
            name: BACKGROUND_KEY,
            owner: "acme",
            age: 210,
            limit: RateLimit::per_minute(120),
            story: Story::Steady,
            per_day: 1_700.0,
            peak: (14.0, 6.0),
            weekend: 0.4,
            mix: [30, 40, 25, 2, 2, 1, 0],
            network: ([192, 0, 2], 3),
        },
        Client {
            name: "Mobile app",
            owner: "acme",
            age: 160,
            limit: RateLimit::per_minute(120),
            story: Story::Rotated,
            per_day: 1_000.0,
            peak: (19.5, 4.0),
            weekend: 1.1,
            mix: [20, 45, 35, 0, 0, 0, 0],
            network: ([203, 0, 113], 190),
        },
        Client {
            name: "Job board feed",
            owner: "globex",
            age: 75,
            limit: RateLimit::per_hour(300),
            story: Story::Spike,
            per_day: 420.0,
            peak: (9.0, 7.0),
            weekend: 0.5,
            mix: [60, 35, 0, 0, 0, 0, 5],
            network: ([192, 0, 2], 2),
        },
        Client {
            name: "HR sync",
            owner: "initech",
            age: 130,
            limit: RateLimit::per_minute(300),
            story: Story::Restricted,
            per_day: 380.0,
            peak: (2.0, 1.2),
            weekend: 0.5,
            mix: [10, 10, 0, 35, 30, 8, 7],
            network: ([198, 51, 100], 4),
        },
        Client {
            name: "Legacy import",
            owner: "hooli",
            age: 400,
            limit: RateLimit::per_minute(30),
            story: Story::Disabled,
            per_day: 130.0,
            peak: (12.0, 12.0),
            weekend: 1.0,
            mix: [20, 0, 0, 80, 0, 0, 0],
            network: ([203, 0, 113], 1),
        },
        Client {
            name: "Reporting",
            owner: "initech",
            age: 120,
            limit: RateLimit::per_minute(60),
            story: Story::Unused,
            per_day: 0.0,
            peak: (12.0, 12.0),
            weekend: 1.0,
            mix: [1; ROUTES.len()],
            network: ([198, 51, 100], 1),
        },
    ]
}

/// Issues the keys and writes their requests. Returns the number of requests.
pub(crate) async fn write(
    issuer: &Issuer,
    backend: &SqliteBackend,
) -> Result<usize, Box<dyn Error>> {
    let (now, mut random) = (Timestamp::now(), Rng::with_seed(24));
    write_plans(backend, now).await?;
    let mut events = Vec::new();
    for client in clients() {
        let keys = client.issue(issuer, backend, now).await?;
        events.extend(client.requests(keys, now, &mut random));
    }
    events.sort_by_key(|event| event.time);
    let count = events.len();
    for (event, number) in events.iter_mut().zip(1..) {
        event.request_id = Some(format!("sample-{number:06}").into());
    }
    let mut events = events.into_iter();
    while events.len() > 0 {
        let batch = events.by_ref().take(BATCH).collect();
        backend.write(&Batch::new(batch)).await?;
    }
    Ok(count)
}

/// Two plans, and the owners that have them.
async fn write_plans(backend: &SqliteBackend, now: Timestamp) -> Result<(), Box<dyn Error>> {
    let mut pro = Plan::new("pro", hours_ago(now, 400.0 * 24.0));
    pro.key_limits = vec![RateLimit::per_second(20)];
    pro.owner_limits = vec![RateLimit::per_minute(3_000), RateLimit::per_day(500_000)];
    let mut free = Plan::new("free", pro.created_at);
    free.key_limits = vec![RateLimit::per_minute(60)];
    free.owner_limits = vec![RateLimit::per_hour(1_000)];
    for plan in [pro, free] {
        backend.set_plan(plan, Actor::SYSTEM).await?;
    }
    for (owner, name, plan) in [
        ("acme", "Acme Inc.", "pro"),
        ("initech", "Initech LLC", "pro"),
        ("globex", "Globex GmbH", "free"),
    ] {
        let update = OwnerUpdate::new().name(Some(name)).plan(Some(plan));
        backend.update_owner(owner, update, Actor::SYSTEM).await?;
    }
    Ok(())
}

/// The time this many hours ago.
fn hours_ago(now: Timestamp, hours: f64) -> Timestamp {
    now - SignedDuration::from_secs_f64(hours * 3_600.0)
}

impl Client {
    /// Issues the key in the past. Returns its id and, if it was rotated, that of its successor.
    async fn issue(
        &self,
        issuer: &Issuer,
        backend: &SqliteBackend,
        now: Timestamp,
    ) -> Result<(KeyId, Option<KeyId>), Box<dyn Error>> {
        let issuer_at = |time| issuer.clone().clock(Clock::manual(time));
        let mut new = NewKey::new(self.name)
            .owner(self.owner)
            .environment("sample")
            .metadata("sample", true)
            .limit(self.limit.clone());
        if self.name == BACKGROUND_KEY {
            new = new.recoverable();
        }
        if self.story == Story::Spike {
            new = new.expires_at(hours_ago(now, -12.0 * 24.0));
        }
        if self.story == Story::Restricted {
            let [a, b, c] = self.network.0;
            new = new.addresses(AddressList::parse([format!("{a}.{b}.{c}.0/24")])?);
        }
        let created = issuer_at(now - SignedDuration::from_hours(24 * self.age));
        let key = created.issue(backend, new, ACTOR).await?.key.id;
        let mut successor = None;
        if self.story == Story::Rotated {
            let (rotated, grace) = (issuer_at(hours_ago(now, ROTATED)), 48 * 3_600);
            let new = rotated.rotate(backend, key, Duration::from_secs(grace), ACTOR);
            successor = Some(new.await?.key.id);
        }
        if self.story == Story::Disabled {
            backend.disable(key, ACTOR).await?;
        }
        Ok((key, successor))
    }

    /// The requests, from the oldest to the newest, as the layer would have recorded them.
    fn requests(
        &self,
        (key, successor): (KeyId, Option<KeyId>),
        now: Timestamp,
        random: &mut Rng,
    ) -> Vec<UsageEvent> {
        let mut ages: Vec<f64> = Vec::new();
        for hour in (0..24 * DAYS).map(f64::from) {
            let rate = self.rate(now, hour) * (0.75 + 0.5 * random.f64());
            let count = (rate + random.f64()) as u32;
            ages.extend((0..count).map(|_| hour + random.f64()));
        }
        ages.sort_by(|a, b| b.total_cmp(a));

        // The rate limit as a token bucket.
        let burst = f64::from(self.limit.burst());
        let per_hour = burst * 3_600.0 / self.limit.window().as_secs_f64();
        let (mut tokens, mut refilled) = (burst, f64::INFINITY);
        let mut events = Vec::with_capacity(ages.len());
        for age in ages {
            let mut event = self.request(age, now, random);
            let moved = 1.0 - 0.95_f64.powf(ROTATED - age);
            let is_moved = age < ROTATED && random.f64() < moved;
            event.key = successor.filter(|_| is_moved).or(Some(key));
            tokens = burst.min(tokens + (refilled - age) * per_hour);
            refilled = age;
            if self.story == Story::Disabled && age < DISABLED {
                reject(&mut event, RejectionReason::Disabled, 401);
            } else if self.story == Story::Restricted && random.f64() < 0.03 {
                event.client_ip = Some(Ipv4Addr::new(203, 0, 113, 240).into());
                reject(&mut event, RejectionReason::ClientIp, 403);
            } else if tokens < f64::from(event.cost) {
                reject(&mut event, RejectionReason::RateLimited, 429);
            } else {
                tokens -= f64::from(event.cost);
            }
            events.push(event);
        }
        events
    }

    /// The average number of requests in the hour that ended this many hours ago. Doubles every 15 days.
    fn rate(&self, now: Timestamp, age: f64) -> f64 {
        if self.story == Story::Spike && age < SPIKE {
            return 800.0;
        }
        let (peak, width) = self.peak;
        let (hour, is_weekend) = time_of_week(now, age);
        let from_peak = (hour - peak + 36.0) % 24.0 - 12.0;
        let peaked = (-(from_peak / width).powi(2)).exp() / (width * 1.77);
        let weekly = if is_weekend { self.weekend } else { 1.0 };
        let growth = 0.5_f64.powf(age / (15.0 * 24.0));
        self.per_day * (0.2 / 24.0 + 0.8 * peaked) * weekly * growth
    }

    /// An admitted request this many hours ago.
    fn request(&self, age: f64, now: Timestamp, random: &mut Rng) -> UsageEvent {
        let mut pick = random.u32(..self.mix.iter().sum::<u32>());
        let route = self.mix.iter().position(|&weight| {
            let found = pick < weight;
            pick = pick.saturating_sub(weight);
            found
        });
        let Route(method, endpoint, median, request_bytes, response_bytes) =
            &ROUTES[route.unwrap_or_default()];
        let in_outage = in_outage(now, age);
        let status = status(*method, endpoint, in_outage, random);

        let mut event = UsageEvent::new(hours_ago(now, age));
        event.owner = Some(self.owner.into());
        event.method = *method;
        event.endpoint = (*endpoint).into();
        // Low ids are the most popular ones.
        let id = 1 + (900.0 * random.f64().powi(3)) as u32;
        event.path = endpoint.replace("{id}", &id.to_string()).into();
        event.resource_id = resource_id(&event.path).map(Into::into);
        event.cost = cost(&event.path);
        event.status = status;
        (event.outcome, event.cause) = Outcome::of(status);
        event.billable = event.outcome == Outcome::Completed;
        // Log-normal, with a tail.
        let slow = if in_outage { 9.0 } else { 1.0 };
        let latency = median * slow * (0.55 * normal(random)).exp();
        event.latency_us = match status {
            Status::Http(504) => 30_000_000 + random.u64(..90_000),
            _ => (latency * 1_000.0) as u64,
        };
        let size = 0.6 + 0.8 * random.f64();
        event.request_bytes = (*request_bytes as f64 * size) as u64;
        event.response_bytes = match status {
            Status::Http(200) => (*response_bytes as f64 * size) as u64,
            Status::Http(204 | 304) | Status::None => 0,
            _ => 60,
        };
        let ([a, b, c], hosts) = self.network;
        event.client_ip = Some(IpAddr::from([a, b, c, 10 + random.u8(..hosts)]));
        event
    }
}

/// Makes an event one of a request that the layer rejected.
fn reject(event: &mut UsageEvent, reason: RejectionReason, status: u16) {
    (event.outcome, event.cause) = match reason {
        RejectionReason::RateLimited => (Outcome::RateLimited, None),
        _ => (Outcome::Failed, Some(Cause::Rejected)),
    };
    event.rejection_reason = Some(reason);
    event.status = Status::Http(status);
    (event.billable, event.cost) = (false, 0);
    event.latency_us = 60 + event.latency_us % 240;
    event.response_bytes = 150;
}

/// The hour of the day (UTC), and whether the day is on a weekend.
fn time_of_week(now: Timestamp, age: f64) -> (f64, bool) {
    let hours = now.as_second() as f64 / 3_600.0 - age;
    // The Unix epoch was a Thursday.
    let day = (hours / 24.0).floor() + 4.0;
    (hours % 24.0, matches!((day % 7.0) as u8, 0 | 6))
}

/// Whether this was during the outage, four days ago from 10:00 to 14:00 UTC.
fn in_outage(now: Timestamp, age: f64) -> bool {
    let days_ago = ((age - time_of_week(now, 0.0).0) / 24.0).ceil();
    days_ago == 4.0 && (10.0..14.0).contains(&time_of_week(now, age).0)
}

fn status(method: Method, endpoint: &str, in_outage: bool, random: &mut Rng) -> Status {
    let percent = random.f64() * 100.0;
    let failed = if in_outage { 38.0 } else { 0.4 };
    let code = match percent {
        it if it < failed => *random
            .choice(&[500, 502, 503, 503, 503, 504])
            .unwrap_or(&500),
        it if it > 99.5 => return Status::None,
        it if it > 96.0 && endpoint.ends_with("{id}") => 404,
        it if it > 95.0 && method == Method::Post => 400,
        it if it > 85.0 && method == Method::Get && endpoint.ends_with("{id}") => 304,
        _ if method == Method::Delete => 204,
        _ => 200,
    };
    Status::Http(code)
}

/// A normally distributed number, by the Box–Muller transform.
fn normal(random: &mut Rng) -> f64 {
    let (u, v) = (1.0 - random.f64(), random.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
