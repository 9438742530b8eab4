//! Mergeable latency histograms with logarithmic buckets.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::saturating;

/// The base-2 logarithm of the number of buckets per power of two: 2³ = 8.
const CUTS: u32 = 3;
/// Latencies from 2³⁶ µs (19 hours) share the last bucket.
const OCTAVES: u32 = 36;
const LAST: usize = ((OCTAVES - CUTS + 1) << CUTS) as usize;

/// A histogram of latencies in microseconds.
///
/// Latencies up to 15 µs have one bucket each. Above that, each power of two is divided into eight buckets, so
/// that a bucket is at most an eighth as wide as its lower bound. Histograms merge losslessly by addition:
/// quantiles of a merged histogram equal those of a histogram of all latencies. Counts saturate at 2⁶³ − 1.
///
/// A histogram stores only the range of buckets in use and takes at most 2.2 KB. In JSON, it is a list of
/// `[lowest latency of the bucket in microseconds, count]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// The bucket of the first element of `counts`. The first and the last count are not zero, so that equal
    /// histograms have equal representations.
    first: u16,
    counts: Vec<u64>,
}

/// Latency percentiles in microseconds; `None` if no latency was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LatencyQuantiles {
    /// The median.
    pub p50_us: Option<u64>,
    /// The 95th percentile.
    pub p95_us: Option<u64>,
    /// The 99th percentile.
    pub p99_us: Option<u64>,
}

impl LatencyHistogram {
    /// Creates an empty histogram.
    pub const fn new() -> Self {
        Self {
            first: 0,
            counts: Vec::new(),
        }
    }

    /// Records one latency, in microseconds.
    #[inline]
    pub fn record(&mut self, micros: u64) {
        self.add(bucket_of(micros), 1);
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.is_empty() {
            return;
        }
        let first = usize::from(other.first);
        self.cover(first, first + other.counts.len());
        let offset = first - usize::from(self.first);
        for (mine, theirs) in self.counts[offset..].iter_mut().zip(&other.counts) {
            saturating::add(mine, *theirs);
        }
    }

    /// The number of recorded latencies.
    pub fn count(&self) -> u64 {
        saturating::total(self.counts.iter().copied())
    }

    /// Returns whether no latency was recorded.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The `q`-quantile of the latencies by the nearest-rank method, or `None` if none was recorded.
    ///
    /// The result is exact up to 15 µs and within 6% up to 19 hours (2³⁶ µs); longer latencies are reported as 19
    /// hours. `q` is clamped to `0.0..=1.0`; NaN counts as `0.0`.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        self.quantile_us(q).map(Duration::from_micros)
    }

    /// The median, the 95th and the 99th percentile.
    pub fn quantiles(&self) -> LatencyQuantiles {
        LatencyQuantiles {
            p50_us: self.quantile_us(0.50),
            p95_us: self.quantile_us(0.95),
            p99_us: self.quantile_us(0.99),
        }
    }

    fn quantile_us(&self, q: f64) -> Option<u64> {
        let count = self.count();
        let rank = q * count as f64;
        // `0.07 * 100.0` is slightly above 7 and must not round up to rank 8.
        let rank = (rank - rank * f64::EPSILON).ceil() as u64;
        let rank = rank.clamp(1, count.max(1));
        let mut seen = 0_u64;
        self.buckets().find_map(|(bucket, n)| {
            seen = seen.saturating_add(n);
            (seen >= rank).then(|| typical(bucket))
        })
    }

    /// The non-empty buckets with their counts, in order.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (usize::from(self.first)..)
            .zip(self.counts.iter().copied())
            .filter(|&(_, n)| n > 0)
    }

    /// Builds a histogram from counts by bucket. Buckets may repeat. `None` if a bucket is out of range.
    #[cfg(feature = "_sql")]
    pub(crate) fn from_buckets<E>(
        mut next: impl FnMut() -> Option<Result<(usize, u64), E>>,
    ) -> Result<Option<Self>, E> {
        // Growing a histogram bucket by bucket would move the others repeatedly.
        let mut counts = [0_u64; LAST + 1];
        while let Some(pair) = next() {
            let (bucket, n) = pair?;
            let Some(count) = counts.get_mut(bucket) else {
                return Ok(None);
            };
            saturating::add(count, n);
        }
        let used = |&count: &u64| count > 0;
        let Some(first) = counts.iter().position(used) else {
            return Ok(Some(Self::new()));
        };
        let end = counts.iter().rposition(used).map_or(0, |last| last + 1);
        Ok(Some(Self {
            first: first as u16,
            counts: counts[first..end].to_vec(),
        }))
    }

    /// Adds a count to a bucket. `None` if there is no such bucket.
    #[cfg(feature = "_sql")]
    pub(crate) fn add_to_bucket(&mut self, bucket: usize, n: u64) -> Option<()> {
        Self::has_bucket(bucket).then(|| self.add(bucket, n))
    }

    #[cfg(feature = "_sql")]
    pub(crate) fn has_bucket(bucket: usize) -> bool {
        bucket <= LAST
    }

    #[inline]
    fn add(&mut self, bucket: usize, n: u64) {
        if n == 0 {
            return;
        }
        // A bucket below the first wraps around to an index beyond the last.
        let offset = bucket.wrapping_sub(usize::from(self.first));
        if let Some(count) = self.counts.get_mut(offset) {
            saturating::add(count, n);
        } else {
            self.cover(bucket, bucket + 1);
            let offset = bucket - usize::from(self.first);
            saturating::add(&mut self.counts[offset], n);
        }
    }

    /// Widens the range in use to hold the buckets `from..to`.
    #[cold]
    fn cover(&mut self, from: usize, to: usize) {
        let first = usize::from(self.first);
        if self.counts.is_empty() {
            self.counts.resize(to - from, 0);
            self.first = from as u16;
            return;
        }
        if from < first {
            self.counts
                .splice(0..0, std::iter::repeat_n(0, first - from));
            self.first = from as u16;
        }
        let len = to - usize::from(self.first);
        if len > self.counts.len() {
            self.counts.resize(len, 0);
        }
    }
}

/// The bucket of a latency: its power of two and the three bits after the highest one.
#[inline]
fn bucket_of(micros: u64) -> usize {
    let octave = (micros | 1).ilog2();
    if octave >= OCTAVES {
        return LAST;
    }
    let shift = octave.saturating_sub(CUTS);
    // The highest bit is included and adds one octave's worth of buckets.
    ((shift << CUTS) as usize) + (micros >> shift) as usize
}

/// The lowest latency of a bucket.
fn lowest(bucket: usize) -> u64 {
    let shift = (bucket >> CUTS).saturating_sub(1);
    ((bucket - (shift << CUTS)) as u64) << shift
}

/// The latency reported for a bucket, with the same relative distance from both ends.
fn typical(bucket: usize) -> u64 {
    if bucket >= LAST {
        return lowest(LAST);
    }
    let (low, high) = (lowest(bucket), lowest(bucket + 1) - 1);
    if low == high {
        return low;
    }
    // The harmonic mean; below 2^36 the product stays below 2^73.
    (2 * u128::from(low) * u128::from(high) / u128::from(low + high)) as u64
}

impl Extend<u64> for LatencyHistogram {
    /// Records each latency, in microseconds.
    fn extend<I: IntoIterator<Item = u64>>(&mut self, latencies: I) {
        latencies.into_iter().for_each(|micros| self.record(micros));
    }
}

impl FromIterator<u64> for LatencyHistogram {
    fn from_iter<I: IntoIterator<Item = u64>>(latencies: I) -> Self {
        let mut histogram = Self::new();
        histogram.extend(latencies);
        histogram
    }
}

impl Serialize for LatencyHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets().map(|(bucket, n)| (lowest(bucket), n)))
    }
}

impl<'de> Deserialize<'de> for LatencyHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(u64, u64)>::deserialize(deserializer)?;
        let mut histogram = Self::new();
        for (micros, n) in pairs {
            histogram.add(bucket_of(micros), n);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000_000;

    #[test]
    fn buckets_are_contiguous() {
        for bucket in 0..=LAST {
            assert_eq!(bucket_of(lowest(bucket)), bucket);
            if bucket > 0 {
                assert_eq!(bucket_of(lowest(bucket) - 1), bucket - 1);
            }
        }
        assert_eq!(LAST, 272);
        assert!(lowest(LAST) > 12 * HOUR);
        assert_eq!(bucket_of(u64::MAX), LAST);
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        let histogram: LatencyHistogram = (1..=10).collect();
        let at = |q| histogram.quantile(q).unwrap().as_micros();
        assert_eq!([at(0.0), at(0.1), at(0.11), at(0.5)], [1, 1, 2, 5]);
        assert_eq!([at(1.0), at(7.0), at(-1.0), at(f64::NAN)], [10, 10, 1, 1]);
        assert_eq!(LatencyHistogram::new().quantile(0.5), None);
        // 95 of 100 took 10 µs, 5 took 15 µs.
        let hundred = [[10; 95].as_slice(), &[15; 5]].concat().into_iter();
        let quantiles = hundred.collect::<LatencyHistogram>().quantiles();
        assert_eq!(quantiles.p50_us, Some(10));
        assert_eq!(quantiles.p95_us, Some(10));
        assert_eq!(quantiles.p99_us, Some(15));
    }

    #[test]
    fn quantiles_are_the_harmonic_mean_of_the_bucket() {
        // Buckets: 16 and 17, 18 and 19, 1,024 to 1,151.
        for (recorded, reported) in [(17, 16), (18, 18), (1_150, 1_083)] {
            let histogram: LatencyHistogram = [recorded].into_iter().collect();
            assert!(!histogram.is_empty());
            assert_eq!(histogram.quantile_us(0.5), Some(reported));
        }
        assert!(LatencyHistogram::new().is_empty());
    }

    #[cfg(feature = "_sql")]
    #[test]
    fn from_buckets_adds_counts_in_any_order() {
        let of = |pairs: &[(usize, u64)]| {
            let mut pairs = pairs.iter().copied().map(Ok::<_, ()>);
            LatencyHistogram::from_buckets(|| pairs.next()).unwrap()
        };
        let recorded = |all: &[u64]| all.iter().copied().collect::<LatencyHistogram>();
        let ends = recorded(&[u64::MAX, 0, u64::MAX]);
        assert_eq!(of(&[(LAST, 1), (0, 1), (LAST, 1)]), Some(ends));
        assert_eq!(of(&[(7, 2), (9, 0)]), Some(recorded(&[7, 7])));
        assert_eq!(of(&[(9, 0)]), Some(LatencyHistogram::new()));
        assert_eq!(of(&[(0, 1), (LAST + 1, 1)]), None);
    }

    #[test]
    fn long_latencies_share_the_last_bucket() {
        let histogram: LatencyHistogram = [20 * HOUR, u64::MAX].into_iter().collect();
        assert_eq!(
            histogram.quantile(1.0),
            Some(Duration::from_micros(1 << 36))
        );
        assert_eq!(histogram.count(), 2);
    }

    #[test]
    fn json_is_sparse_and_counts_saturate() {
        let mut histogram: LatencyHistogram = [3, 1_000_000, 3].into_iter().collect();
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(text, "[[3,2],[983040,1]]");
        let full: LatencyHistogram = serde_json::from_str("[[3,18446744073709551615]]").unwrap();
        histogram.merge(&full);
        assert_eq!(histogram.count(), saturating::MAX);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(3)));
        let nothing: LatencyHistogram = serde_json::from_str("[[3,0]]").unwrap();
        assert_eq!(nothing, LatencyHistogram::new());
    }

    fn latencies() -> impl Strategy<Value = Vec<u64>> {
        let any = prop_oneof![0..40_u64, 0..HOUR, 0..60 * HOUR, any::<u64>()];
        proptest::collection::vec(any, 0..60)
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_six_percent(mut all in proptest::collection::vec(0..19 * HOUR, 1..60), q in 0.0..1.0) {
            let reported = all.iter().copied().collect::<LatencyHistogram>().quantile(q).unwrap();
            all.sort_unstable();
            let rank = ((q * all.len() as f64).ceil() as usize).max(1);
            let exact = all[rank - 1] as f64;
            prop_assert!((reported.as_micros() as f64 - exact).abs() <= exact * 0.06);
        }

        #[test]
        fn merging_equals_recording_all(a in latencies(), b in latencies()) {
            let of = |list: &[u64]| list.iter().copied().collect::<LatencyHistogram>();
            let (mut ab, mut ba) = (of(&a), of(&b));
            ab.merge(&of(&b));
            ba.merge(&of(&a));
            let all = of(&[a, b].concat());
            prop_assert_eq!(&ab, &all);
            prop_assert_eq!(&ba, &all);
            let text = serde_json::to_string(&all).unwrap();
            prop_assert_eq!(serde_json::from_str::<LatencyHistogram>(&text).unwrap(), all);
        }
    }
}
