//! Sampling of the request log.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::event::UsageEvent;

/// The events that a backend writes to its request log. Rollups always include all events.
///
/// The decision depends only on the event, so all instances agree, and retrying a batch selects the same events.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use keytally::usage::{LogSampling, UsageEvent};
///
/// let event = UsageEvent::new(jiff::Timestamp::UNIX_EPOCH);
/// assert!(LogSampling::default().keeps(&event));
/// let sample = LogSampling::OneIn(NonZeroU32::new(100).unwrap());
/// assert_eq!(sample.keeps(&event), sample.keeps(&event.clone()));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogSampling {
    /// All events. The default.
    #[default]
    All,
    /// A random sample of about one in `n` events, chosen by the random bits of the event id.
    OneIn(NonZeroU32),
    /// Only events of requests with a key, so that anonymous clients cannot fill the log.
    KeysOnly,
    /// No events.
    None,
}

impl LogSampling {
    /// Returns whether the event is written to the log.
    pub fn keeps(self, event: &UsageEvent) -> bool {
        match self {
            Self::All => true,
            Self::OneIn(n) => random_bits(event).is_multiple_of(n.get().into()),
            Self::KeysOnly => event.key.is_some(),
            Self::None => false,
        }
    }
}

/// The last 62 bits of the event id, which are random in UUID versions 4 and 7.
fn random_bits(event: &UsageEvent) -> u64 {
    let (_, low) = event.id.as_u64_pair();
    low & (u64::MAX >> 2)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn one_in(n: u32) -> LogSampling {
        LogSampling::OneIn(NonZeroU32::new(n).unwrap())
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow with 100,000 events")]
    fn one_in_n_keeps_about_one_in_n() {
        let events: Vec<_> = (0..100_000)
            .map(|_| UsageEvent::new(Timestamp::UNIX_EPOCH))
            .collect();
        let kept = |keep: LogSampling| events.iter().filter(|event| keep.keeps(event)).count();
        assert_eq!(kept(LogSampling::All), 100_000);
        assert_eq!(kept(LogSampling::None), 0);
        assert_eq!(kept(one_in(1)), 100_000);
        for n in [2, 3, 8, 10, 100, 1_000] {
            // Six standard deviations: fails by chance about once in 100 million runs.
            let expected = 100_000.0 / f64::from(n);
            let off = (kept(one_in(n)) as f64 - expected).abs();
            assert!(off < 6.0 * expected.sqrt(), "{off} off with one in {n}");
        }
        assert!(kept(one_in(u32::MAX)) < 5);
    }

    #[test]
    fn sampling_depends_on_the_id_only() {
        let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
        // The time, version and variant bits are not random and must not matter.
        for (id, kept) in [
            ("01890a5d-ac96-774b-bcce-b302099a8057", false),
            ("01890a5d-ac96-774b-8000-000000000000", true),
            ("ffffffff-ffff-7fff-bfff-ffffffffffff", false),
            ("00000000-0000-4000-8000-0000000003e8", true),
        ] {
            event.id = id.parse().unwrap();
            assert_eq!(one_in(1_000).keeps(&event), kept, "{id}");
        }
        event.path = "/other".into();
        assert!(one_in(1_000).keeps(&event));
    }

    #[test]
    fn keys_only_skips_anonymous_requests() {
        let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
        assert!(!LogSampling::KeysOnly.keeps(&event));
        event.key = Some("3fK9aB0000zzZZ19".parse().unwrap());
        assert!(LogSampling::KeysOnly.keeps(&event));
    }

    #[test]
    fn json_representation() {
        for (keep, text) in [
            (LogSampling::All, "\"all\""),
            (one_in(100), "{\"one_in\":100}"),
            (LogSampling::KeysOnly, "\"keys_only\""),
            (LogSampling::None, "\"none\""),
        ] {
            assert_eq!(serde_json::to_string(&keep).unwrap(), text);
            assert_eq!(serde_json::from_str::<LogSampling>(text).unwrap(), keep);
        }
        assert!(serde_json::from_str::<LogSampling>("{\"one_in\":0}").is_err());
    }
}
