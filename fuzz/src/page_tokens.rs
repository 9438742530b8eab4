//! Page tokens: a parsed token round-trips through text, and a list given a token returns exactly the items
//! after that position, or rejects the token of another list.
//!
//! The input is the text of a token. Its first bytes also serve as a time.

use std::cell::LazyCell;

use jiff::Timestamp;
use keytally::backend::MemoryBackend;
use keytally::key::{Actor, Digest, Key, KeyAdmin, KeyQuery, KeyRecord, StoreError};
use keytally::usage::{Batch, LogFilter, LogQuery, ReadError, UsageEvent, UsageReader, UsageSink};
use keytally::{Clock, KeyId, PageToken};
use uuid::Uuid;

use crate::input::Input;
use crate::now::now;

/// The bounds of the years 1 to 9999 in microseconds. jiff rejects microseconds within its last second.
const FIRST: i64 = -62_135_596_800_000_000;
const LAST: i64 = 253_402_207_200_000_000;

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    check_constructed(text);
    match text.parse::<PageToken>() {
        Ok(token) => {
            let (micros, id) = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(token.time().as_microsecond(), micros);
            assert_eq!(token.to_string(), text);
            let json = serde_json::to_string(&token).unwrap();
            assert_eq!(serde_json::from_str::<PageToken>(&json).unwrap(), token);
            assert_eq!(token.id::<String>().unwrap(), id);
            LISTS.with(|lists| {
                check_keys(lists, &token, id);
                check_requests(lists, &token, id);
            });
        }
        Err(_) => assert_eq!(parse(text), None, "{text}"),
    }
}

/// Parses microseconds in canonical form, a dot and the rest.
fn parse(text: &str) -> Option<(i64, &str)> {
    let (micros, id) = text.split_once('.')?;
    let digits = micros.strip_prefix('-').unwrap_or(micros);
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty();
    let shortest = digits == "0" || !digits.starts_with('0');
    if !plain || !shortest || micros == "-0" {
        return None;
    }
    let micros = micros.parse().ok()?;
    (FIRST..=LAST).contains(&micros).then_some((micros, id))
}

/// Checks that the token for any time and id round-trips through text.
fn check_constructed(text: &str) {
    let mut input = Input::new(text.as_bytes());
    let nanos = i128::from(input.number() as i64) * i128::from(input.byte());
    let time = Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX);
    let token = PageToken::new(time, text);
    assert_eq!(token.to_string().parse(), Ok(token));
}

struct Lists {
    backend: MemoryBackend,
    /// Both newest first.
    keys: Vec<(Timestamp, KeyId)>,
    requests: Vec<(Timestamp, Uuid)>,
}

thread_local! {
    static LISTS: LazyCell<Lists> = const { LazyCell::new(Lists::new) };
}

impl Lists {
    fn new() -> Self {
        let at = |micros| Timestamp::from_microsecond(micros).unwrap();
        let backend = MemoryBackend::with_clock(Default::default(), Clock::manual(at(0)));
        let times = [FIRST, -5, 0, 0, 7, 7, 7, 1_767_261_600_000_000];
        let (mut keys, mut requests, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for (nth, micros) in times.into_iter().enumerate() {
            let id: KeyId = format!("{nth:a>16}").parse().unwrap();
            let key = Key::new(id, format!("key {nth}"), at(micros));
            let digest = Digest::from_sha256(&"0".repeat(64)).unwrap();
            now(backend.create(KeyRecord::new(key, digest), Actor::SYSTEM)).unwrap();
            keys.push((at(micros), id));
            let mut event = UsageEvent::new(at(micros));
            event.id = Uuid::from_u128(nth as u128);
            requests.push((event.time, event.id));
            events.push(event);
        }
        now(backend.write(&Batch::new(events))).unwrap();
        keys.sort_by(|a, b| b.cmp(a));
        requests.sort_by(|a, b| b.cmp(a));
        Self {
            backend,
            keys,
            requests,
        }
    }
}

fn check_keys(lists: &Lists, token: &PageToken, id: &str) {
    let mut query = KeyQuery::new().limit(3).after(token.clone());
    let Ok(id) = id.parse::<KeyId>() else {
        let rejected = now(lists.backend.list(&query));
        assert!(matches!(rejected, Err(StoreError::Page(_))), "{rejected:?}");
        return;
    };
    let mut found = Vec::new();
    loop {
        let page = now(lists.backend.list(&query)).unwrap();
        assert!(page.items.len() <= 3);
        found.extend(page.items.iter().map(|key| (key.created_at, key.id)));
        let Some(next) = page.next else { break };
        query.page.after = Some(next);
    }
    let expected = lists
        .keys
        .iter()
        .filter(|position| **position < (token.time(), id));
    assert_eq!(found, expected.copied().collect::<Vec<_>>());
}

fn check_requests(lists: &Lists, token: &PageToken, id: &str) {
    let mut query = LogQuery::new(LogFilter::new())
        .limit(3)
        .after(token.clone());
    let Ok(id) = id.parse::<Uuid>() else {
        let rejected = now(lists.backend.requests(&query));
        assert!(matches!(rejected, Err(ReadError::Page(_))), "{rejected:?}");
        return;
    };
    let mut found = Vec::new();
    loop {
        let page = now(lists.backend.requests(&query)).unwrap();
        assert!(page.items.len() <= 3);
        found.extend(page.items.iter().map(|event| (event.time, event.id)));
        let Some(next) = page.next else { break };
        query.page.after = Some(next);
    }
    let expected = lists
        .requests
        .iter()
        .filter(|position| **position < (token.time(), id));
    assert_eq!(found, expected.copied().collect::<Vec<_>>());
}
