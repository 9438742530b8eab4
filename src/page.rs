//! Keyset pages: a list is continued from the last item seen, so that rows which arrive in between
//! are neither skipped nor repeated.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One page of a list, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Ask for the list again with this token to go on; `None` at the end.
    pub next: Option<PageToken>,
}

impl<T> Page<T> {
    /// A page of nothing, with none behind it.
    #[cfg(feature = "_sql")]
    pub(crate) fn empty() -> Self {
        Self {
            items: Vec::new(),
            next: None,
        }
    }

    /// A page from up to `limit + 1` items in order: the surplus item only tells that there is more.
    pub fn from_surplus(
        mut items: Vec<T>,
        limit: usize,
        position: impl Fn(&T) -> PageToken,
    ) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more {
            items.last().map(position)
        } else {
            None
        };
        Self { items, next }
    }
}

/// The place of an item in a list that is ordered by time, then by id, newest first. Times of such
/// items are kept in whole microseconds and lie in the years 1 to 9999.
///
/// As text it is opaque to clients: `<microseconds>.<id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    time: Timestamp,
    id: Box<str>,
}

/// A text that is not a page token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a page token")]
pub struct InvalidPageToken;

impl PageToken {
    /// The place of the item with this id and this time, cut to whole microseconds of the years 1 to
    /// 9999.
    pub fn new(time: Timestamp, id: impl fmt::Display) -> Self {
        Self {
            time: whole_micros(time),
            id: id.to_string().into(),
        }
    }

    /// The time of the last item seen.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The id of the last item seen, as the list's own type.
    ///
    /// # Errors
    ///
    /// [`InvalidPageToken`] when it is not of that type: the token came from another list.
    pub fn id<T: FromStr>(&self) -> Result<T, InvalidPageToken> {
        self.id.parse().map_err(|_| InvalidPageToken)
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.time.as_microsecond(), self.id)
    }
}

impl FromStr for PageToken {
    type Err = InvalidPageToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (micros, id) = text.split_once('.').ok_or(InvalidPageToken)?;
        // `i64` also reads "+5" and "007": only what `Display` writes is a token.
        let time: i64 = micros.parse().map_err(|_| InvalidPageToken)?;
        if time.to_string() != micros {
            return Err(InvalidPageToken);
        }
        let time = Timestamp::from_microsecond(time).map_err(|_| InvalidPageToken)?;
        if time < FIRST {
            return Err(InvalidPageToken);
        }
        Ok(Self {
            time,
            id: id.into(),
        })
    }
}

impl Serialize for PageToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PageToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// 0001-01-01T00:00:00Z: databases and RFC 3339 know no years before it, or not the same ones.
pub(crate) const FIRST: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// Times are kept in whole microseconds of the years 1 to 9999, which every backend can store as they
/// are.
pub(crate) fn whole_micros(time: Timestamp) -> Timestamp {
    // jiff reads no microseconds within the last second there is: that is cut to its beginning.
    Timestamp::from_microsecond(time.as_microsecond())
        .or_else(|_| Timestamp::from_second(time.as_second()))
        .unwrap_or(time)
        .max(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_round_trips() {
        let odd: Timestamp = "2026-11-01T10:00:00.123456789Z".parse().unwrap();
        for time in [Timestamp::MIN, odd, Timestamp::MAX] {
            for id in ["abc-1", "", "a.b", "a b", "é", &"a".repeat(65)] {
                let token = PageToken::new(time, id);
                assert_eq!(token.to_string().parse(), Ok(token));
            }
        }
        let token = PageToken::new(Timestamp::from_microsecond(-5).unwrap(), "abc-1");
        assert_eq!(token.to_string(), "-5.abc-1");
    }

    #[test]
    fn every_time_is_cut_to_what_reads_back_from_microseconds() {
        let odd: Timestamp = "2026-11-01T10:00:00.123456789Z".parse().unwrap();
        for time in [FIRST, Timestamp::UNIX_EPOCH, odd, Timestamp::MAX] {
            let cut = whole_micros(time);
            let read = Timestamp::from_microsecond(cut.as_microsecond()).unwrap();
            assert_eq!(read, cut);
            assert!(time.duration_since(cut).as_secs() == 0);
        }
        assert_eq!(FIRST, "0001-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(whole_micros(Timestamp::MIN), FIRST);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ".",
            "1",
            ".a",
            "+1.a",
            "01.a",
            "x.a",
            "9223372036854775807.a",
            "-62135596800000001.a",
        ] {
            assert_eq!(text.parse::<PageToken>(), Err(InvalidPageToken), "{text}");
        }
    }

    #[test]
    fn a_surplus_item_makes_the_next_token() {
        let token = |n: &i64| PageToken::new(Timestamp::from_microsecond(*n).unwrap(), n);
        let page = Page::from_surplus(vec![3, 2, 1], 2, token);
        assert_eq!(page.items, [3, 2]);
        assert_eq!(page.next.unwrap().id::<i64>(), Ok(2));
        assert_eq!(Page::from_surplus(vec![3, 2], 2, token).next, None);
    }
}
