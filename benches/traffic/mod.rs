//! Shared by the benchmarks of the backends and the dashboard: generated events, and timing.

use std::time::Instant;

use jiff::Timestamp;
use keytally::KeyId;
use keytally::key::{Actor, Issuer, KeyAdmin, NewKey};
use keytally::usage::{Batch, Method, Outcome, Status, UsageEvent, UsageReader, UsageSink};

/// Events per batch: as many as the recorder writes at once.
pub(crate) const BATCH: usize = 16_384;

/// Generates requests with a skewed distribution over keys and twelve endpoints.
pub(crate) struct Traffic {
    pub(crate) random: fastrand::Rng,
    pub(crate) keys: Vec<(KeyId, std::sync::Arc<str>)>,
    endpoints: Vec<std::sync::Arc<str>>,
}

impl Traffic {
    pub(crate) fn new(keys: usize) -> Self {
        let keys = (0..keys).map(|n| {
            let id: KeyId = format!("benchKey{n:08}").parse().expect("an id");
            (id, format!("customer-{n}").into())
        });
        let endpoints = (0..12).map(|n| format!("/v1/things-{n}/{{id}}").into());
        Self {
            random: fastrand::Rng::with_seed(7),
            keys: keys.collect(),
            endpoints: endpoints.collect(),
        }
    }

    /// Creates the keys, so that writes update their last accepted request.
    pub(crate) async fn create_keys(&self, backend: &dyn KeyAdmin) {
        let issuer = Issuer::new("bench").expect("a prefix");
        for keys in self.keys.chunks(500) {
            let records = keys.iter().map(|(id, owner)| {
                let new = NewKey::new(format!("Key of {owner}")).owner(&**owner);
                let (_, mut record) = issuer.prepare(new).expect("a key");
                (record.key.id, record.key.lineage) = (*id, *id);
                record
            });
            let created = backend.create_all(records.collect(), Actor::SYSTEM).await;
            created.expect("created");
        }
    }

    /// A random number below the bound, with smaller numbers more frequent.
    fn skewed(&mut self, below: usize) -> usize {
        let x = self.random.f64();
        ((x * x * below as f64) as usize).min(below - 1)
    }

    fn event(&mut self, time: Timestamp) -> UsageEvent {
        let mut event = UsageEvent::new(time);
        let key = self.skewed(self.keys.len());
        let endpoint = self.skewed(self.endpoints.len());
        event.key = Some(self.keys[key].0);
        event.owner = Some(self.keys[key].1.clone());
        event.endpoint = self.endpoints[endpoint].clone();
        // Each endpoint has its methods.
        event.method = if endpoint % 3 == 2 && self.random.u8(..4) == 0 {
            Method::Post
        } else {
            Method::Get
        };
        let number = self.random.u32(..100_000);
        event.path = format!("/v1/things-{endpoint}/{number}").into();
        event.resource_id = (endpoint >= 8).then(|| number.to_string().into());
        event.status = match self.random.u16(..1_000) {
            0..950 => Status::Http(200),
            950..980 => Status::Http(404),
            980..995 => Status::Http(429),
            _ => Status::Http(500),
        };
        (event.outcome, event.cause) = match event.status {
            Status::Http(429) => (Outcome::RateLimited, None),
            status => Outcome::of(status),
        };
        event.latency_us = 500 + u64::from(self.random.u32(..40_000));
        event.request_bytes = 0;
        event.response_bytes = 200 + u64::from(self.random.u32(..4_000));
        event.client_ip = Some([203, 0, 113, self.random.u8(..)].into());
        event
    }

    pub(crate) fn batch(
        &mut self,
        size: usize,
        time: impl Fn(&mut fastrand::Rng) -> Timestamp,
    ) -> Batch {
        let events = (0..size).map(|_| {
            let time = time(&mut self.random);
            self.event(time)
        });
        Batch::new(events.collect())
    }
}

pub(crate) trait Backend: KeyAdmin + UsageSink + UsageReader {}

impl<T: KeyAdmin + UsageSink + UsageReader> Backend for T {}

/// Writes events of the last thirty days, oldest first, raising the number stored from `from` to `to`.
pub(crate) async fn fill(
    backend: &dyn Backend,
    traffic: &mut Traffic,
    from: usize,
    to: usize,
    end: Timestamp,
) {
    // Events stored before cover the same month, so the new ones fall between them.
    let month = 30 * 24 * 3_600 * 1_000_000_i64;
    let new = to - from;
    let batches = new.div_ceil(BATCH);
    for n in 0..batches {
        let size = BATCH.min(new - n * BATCH);
        let slice = month / batches as i64;
        let begin = end.as_microsecond() - month + slice * n as i64;
        let batch = traffic.batch(size, |random| {
            Timestamp::from_microsecond(begin + random.i64(0..slice)).expect("a time")
        });
        // As the recorder does while merging keeps the database busy.
        while let Err(error) = backend.write(&batch).await {
            eprintln!("retrying: {error}");
        }
    }
}

/// Prints the median and the fastest of several runs, in milliseconds, and returns the median.
pub(crate) async fn timed<T, F: Future<Output = T>>(
    name: &str,
    runs: usize,
    mut query: impl FnMut() -> F,
) -> f64 {
    let mut times = Vec::new();
    for _ in 0..runs + 2 {
        let start = Instant::now();
        std::hint::black_box(query().await);
        times.push(start.elapsed().as_secs_f64() * 1_000.0);
    }
    // The first two runs warm up caches and prepared statements.
    let mut times = times.split_off(2);
    times.sort_by(f64::total_cmp);
    let (median, fastest) = (times[times.len() / 2], times[0]);
    println!("  {name}: {median:.2} ms, fastest {fastest:.2} ms");
    times[times.len() / 2]
}
