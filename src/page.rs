//! Keyset pagination: a list continues after the last item seen, so that concurrent inserts cause no
//! skipped or repeated items.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One page of a list, with a token for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in list order.
    pub items: Vec<T>,
    /// The token for the next page, or `None` on the last one.
    pub next: Option<PageToken>,
}

impl<T> Page<T> {
    /// An empty last page.
    #[cfg(any(feature = "_sql", feature = "dashboard", feature = "testing"))]
    pub(crate) fn empty() -> Self {
        Self {
            items: Vec::new(),
            next: None,
        }
    }

    /// Builds a page from up to `limit + 1` items in list order.
    ///
    /// The surplus item only signals that another page follows and is not part of this one. `position` returns
    /// the token of an item.
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

/// Which page of a list to read. The first 50 items by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PageRequest {
    /// The maximum number of items, clamped to 1 to [`PageRequest::MAX_LIMIT`].
    #[serde(deserialize_with = "number")]
    pub limit: usize,
    /// The token from the previous page; `None` for the first page.
    pub after: Option<PageToken>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            limit: 50,
            after: None,
        }
    }
}

impl PageRequest {
    /// The maximum page size, 1,000.
    pub const MAX_LIMIT: usize = 1_000;

    /// The page size: [`limit`](Self::limit) clamped to 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub fn size(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }
}

/// Reads a number that may be text: in a query string, the values of flattened fields are.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number<'a> {
        Value(usize),
        #[serde(borrow)]
        Text(std::borrow::Cow<'a, str>),
    }
    match Number::deserialize(deserializer)? {
        Number::Value(value) => Ok(value),
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// The position of an item in a list ordered by time and then by id, newest first. Times are in whole
/// microseconds within the years 1 to 9999.
///
/// The text form, `<microseconds>.<id>`, is opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    time: Timestamp,
    id: Box<str>,
}

/// The text is not a page token, or the token belongs to another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid page token")]
pub struct InvalidPageToken;

impl PageToken {
    /// A token for the item with this time and id. The time is truncated to whole microseconds and limited to
    /// the years 1 to 9999.
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

    /// The id of the last item seen, parsed as the id type of the list.
    ///
    /// # Errors
    ///
    /// [`InvalidPageToken`] if the id does not parse, because the token came from another list.
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
        // `i64` also parses "+5" and "007"; only the canonical form is a valid token.
        let time: i64 = micros.parse().map_err(|_| InvalidPageToken)?;
        if time.to_string() != micros {
            return Err(InvalidPageToken);
        }
        let time = Timestamp::from_microsecond(time).map_err(|_| InvalidPageToken)?;
        if time < MIN_TIME {
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

/// 0001-01-01T00:00:00Z. Databases and RFC 3339 do not support earlier years, or disagree on them.
pub(crate) const MIN_TIME: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// Truncates a time to whole microseconds and limits it to the years 1 to 9999, which every backend can store
/// without loss.
pub(crate) fn whole_micros(time: Timestamp) -> Timestamp {
    // jiff rejects microseconds within its last second, which is therefore truncated to its start.
    Timestamp::from_microsecond(time.as_microsecond())
        .or_else(|_| Timestamp::from_second(time.as_second()))
        .unwrap_or(time)
        .max(MIN_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_through_text() {
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
    fn truncated_times_round_trip_through_microseconds() {
        let odd: Timestamp = "2026-11-01T10:00:00.123456789Z".parse().unwrap();
        for time in [MIN_TIME, Timestamp::UNIX_EPOCH, odd, Timestamp::MAX] {
            let truncated = whole_micros(time);
            let read = Timestamp::from_microsecond(truncated.as_microsecond()).unwrap();
            assert_eq!(read, truncated);
            assert!(time.duration_since(truncated).as_secs() == 0);
        }
        assert_eq!(MIN_TIME, "0001-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(whole_micros(Timestamp::MIN), MIN_TIME);
    }

    #[test]
    fn invalid_page_tokens_are_rejected() {
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
    fn page_size_is_clamped() {
        let size = |limit| PageRequest { limit, after: None }.size();
        assert_eq!([0, 1, 7, 1_001].map(size), [1, 1, 7, 1_000]);
        assert_eq!(PageRequest::default().size(), 50);
    }

    #[cfg(feature = "dashboard")]
    #[test]
    fn queries_are_read_from_query_strings_and_json() {
        use crate::key::AuditQuery;

        let token = PageToken::new(MIN_TIME, "abc-1");
        let query = AuditQuery::new().actor("anna").limit(7).after(token);
        let text = serde_urlencoded::to_string(&query).unwrap();
        assert_eq!(text, "actor=anna&limit=7&after=-62135596800000000.abc-1");
        assert_eq!(serde_urlencoded::from_str(&text), Ok(query.clone()));
        let json = r#"{"actor":"anna","limit":7,"after":"-62135596800000000.abc-1"}"#;
        assert_eq!(serde_json::from_str::<AuditQuery>(json).unwrap(), query);
        assert!(serde_urlencoded::from_str::<AuditQuery>("limit=x").is_err());
    }

    #[test]
    fn surplus_item_produces_the_next_token() {
        let token = |n: &i64| PageToken::new(Timestamp::from_microsecond(*n).unwrap(), n);
        let page = Page::from_surplus(vec![3, 2, 1], 2, token);
        assert_eq!(page.items, [3, 2]);
        assert_eq!(page.next.unwrap().id::<i64>(), Ok(2));
        assert_eq!(Page::from_surplus(vec![3, 2], 2, token).next, None);
    }
}
