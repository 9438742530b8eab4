//! Which events a backend writes into its log.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::event::UsageEvent;

/// Which events a backend writes into its request log. Sums are always made from all of them.
///
/// Whether an event is kept depends on the event alone, so that every instance decides alike, and a
/// batch that comes again leaves the same ones.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use keytally::usage::{LogSampling, UsageEvent};
///
/// let event = UsageEvent::at(jiff::Timestamp::UNIX_EPOCH);
/// assert!(LogSampling::default().keeps(&event));
/// let sample = LogSampling::OneIn(NonZeroU32::new(100).unwrap());
/// assert_eq!(sample.keeps(&event), sample.keeps(&event.clone()));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogSampling {
    /// Every event.
    #[default]
    All,
    /// About one in so many, by chance: the random bits of its id decide.
    OneIn(NonZeroU32),
    /// Those of requests with a key, so that clients without one cannot fill the log.
    KeysOnly,
    /// None.
    Nothing,
}

impl LogSampling {
    /// Whether this event goes into the log.
    pub fn keeps(self, event: &UsageEvent) -> bool {
        match self {
            Self::All => true,
            Self::OneIn(n) => random_bits(event).is_multiple_of(n.get().into()),
            Self::KeysOnly => event.key.is_some(),
            Self::Nothing => false,
        }
    }
}

/// The last 62 bits of its id, which are random in versions 4 and 7 alike.
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
    #[cfg_attr(miri, ignore = "so many events take too long")]
    fn about_one_in_so_many_is_kept() {
        let events: Vec<_> = (0..100_000)
            .map(|_| UsageEvent::at(Timestamp::UNIX_EPOCH))
            .collect();
        let kept = |keep: LogSampling| events.iter().filter(|event| keep.keeps(event)).count();
        assert_eq!(kept(LogSampling::All), 100_000);
        assert_eq!(kept(LogSampling::Nothing), 0);
        assert_eq!(kept(one_in(1)), 100_000);
        for n in [2, 3, 8, 10, 100, 1_000] {
            // Six standard deviations: once in some hundred million runs.
            let expected = 100_000.0 / f64::from(n);
            let off = (kept(one_in(n)) as f64 - expected).abs();
            assert!(off < 6.0 * expected.sqrt(), "{off} off with one in {n}");
        }
        assert!(kept(one_in(u32::MAX)) < 5);
    }

    #[test]
    fn the_id_alone_decides() {
        let mut event = UsageEvent::at(Timestamp::UNIX_EPOCH);
        // The version, the variant and the time are no chance.
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
    fn anonymous_requests_are_not_logged_where_only_keys_are() {
        let mut event = UsageEvent::at(Timestamp::UNIX_EPOCH);
        assert!(!LogSampling::KeysOnly.keeps(&event));
        event.key = Some("3fK9aB0000zzZZ19".parse().unwrap());
        assert!(LogSampling::KeysOnly.keeps(&event));
    }

    #[test]
    fn the_text_names_it() {
        for (keep, text) in [
            (LogSampling::All, "\"all\""),
            (one_in(100), "{\"one_in\":100}"),
            (LogSampling::KeysOnly, "\"keys_only\""),
            (LogSampling::Nothing, "\"nothing\""),
        ] {
            assert_eq!(serde_json::to_string(&keep).unwrap(), text);
            assert_eq!(serde_json::from_str::<LogSampling>(text).unwrap(), keep);
        }
        assert!(serde_json::from_str::<LogSampling>("{\"one_in\":0}").is_err());
    }
}
