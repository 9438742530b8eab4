//! Exports of the request log: another CSV implementation reads the same cells, none of which is a formula, and
//! JSON lines round-trip.
//!
//! The input has the fields of up to two events.

use std::cell::RefCell;
use std::io::{Cursor, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;
use keytally::usage::{
    Batch, Cause, Count, Export, LogFilter, LogQuery, Method, Outcome, ReadError, RejectionReason,
    Rollup, Status, Summary, SummaryQuery, UsageEvent, UsageRange, UsageReader,
};
use keytally::{Page, async_trait};
use uuid::Uuid;

use crate::input::Input;
use crate::now::now;

pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let mut events = Vec::new();
    while events.len() < 2 && !input.is_empty() {
        events.push(event(&mut input, events.len()));
    }
    let batch = Batch::new(events.clone());
    let stored = batch.events();
    for (event, stored) in events.iter().zip(stored) {
        check_batch(event, stored);
    }
    let log = Log(stored.into());
    check_csv(&file(Export::csv(log.clone(), LogFilter::new())), stored);
    let lines = file(Export::json_lines(log, LogFilter::new()));
    let read: Result<Vec<UsageEvent>, _> = lines.lines().map(serde_json::from_str).collect();
    assert_eq!(read.unwrap(), *stored);
    assert_eq!(lines.matches('\n').count(), stored.len());
}

fn event(input: &mut Input<'_>, nth: usize) -> UsageEvent {
    let micros = input.number() as i64;
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut event = UsageEvent::new(time);
    event.id = Uuid::from_u128(nth as u128);
    event.request_id = input.maybe_text().map(Into::into);
    event.owner = input.maybe_text().map(Into::into);
    event.endpoint = input.text().into();
    event.path = input.text().into();
    event.resource_id = input.maybe_text().map(Into::into);
    event.key = input.pick(&[None, "3fK9aB0000zzZZ19".parse().ok()]);
    event.method = input.pick(&Method::ALL);
    let code = input.byte();
    event.status = match input.byte() % 3 {
        0 => Status::None,
        1 => Status::Http(100 + u16::from(code)),
        _ => Status::Grpc(code),
    };
    event.outcome = input.pick(&Outcome::ALL);
    event.cause = (input.byte() & 1 == 1).then(|| input.pick(&Cause::ALL));
    event.rejection_reason = (input.byte() & 1 == 1).then(|| input.pick(&RejectionReason::ALL));
    event.latency_us = input.number();
    event.request_bytes = input.number();
    event.response_bytes = u64::MAX - event.request_bytes;
    event.cost = event.latency_us as u32;
    event.billable = event.outcome == Outcome::Completed;
    event.client_ip = match input.byte() % 3 {
        0 => None,
        1 => Some(IpAddr::V4(Ipv4Addr::from_bits(event.cost))),
        _ => Some(IpAddr::V6(Ipv6Addr::from_bits(event.latency_us.into()))),
    };
    event
}

/// Checks that a batch changes only values that some databases cannot store.
fn check_batch(event: &UsageEvent, stored: &UsageEvent) {
    let text = |text: &str| text.replace('\0', "\u{fffd}");
    let number = |number: u64| number.min(i64::MAX as u64);
    let mut expected = event.clone();
    expected.request_id = event.request_id.as_deref().map(|t| text(t).into());
    expected.owner = event.owner.as_deref().map(|t| text(t).into());
    expected.endpoint = text(&event.endpoint).into();
    expected.path = text(&event.path).into();
    expected.resource_id = event.resource_id.as_deref().map(|t| text(t).into());
    expected.latency_us = number(event.latency_us);
    expected.request_bytes = number(event.request_bytes);
    expected.response_bytes = number(event.response_bytes);
    assert_eq!(*stored, expected);
}

/// A request log with one request per page.
#[derive(Clone)]
struct Log(Arc<[UsageEvent]>);

#[async_trait]
impl UsageReader for Log {
    async fn summary(&self, _: &SummaryQuery) -> Result<Summary, ReadError> {
        unreachable!("an export reads only the request log")
    }

    async fn rollups(&self, _: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        unreachable!("an export reads only the request log")
    }

    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        let start = match &query.page.after {
            Some(token) => token.id::<Uuid>()?.as_u128() as usize + 1,
            None => 0,
        };
        let surplus = self.0[start..].iter().take(2).cloned().collect();
        Ok(Page::from_surplus(surplus, 1, LogQuery::page_token))
    }

    async fn count(&self, _: &LogFilter) -> Result<Count, ReadError> {
        Ok(Count::Exactly(self.0.len() as u64))
    }
}

fn file(mut export: Export) -> String {
    let mut file = Vec::new();
    while let Some(chunk) = now(export.next_chunk()) {
        let chunk = chunk.unwrap();
        assert!(!chunk.is_empty());
        file.extend_from_slice(&chunk);
    }
    String::from_utf8(file).unwrap()
}

fn check_csv(file: &str, events: &[UsageEvent]) {
    assert!(file.ends_with("\r\n"));
    READER.with_borrow_mut(|reader| {
        *reader.get_mut() = Cursor::new(file.as_bytes().to_vec());
        reader
            .seek_raw(SeekFrom::Start(0), csv::Position::new())
            .unwrap();
        let mut rows = reader.records().map(|row| row.unwrap());
        let header = rows.next().unwrap();
        assert_eq!(
            (header.len(), &header[0], &header[18]),
            (19, "id", "client_ip")
        );
        for event in events {
            let row = rows.next().unwrap();
            for (cell, text) in row.iter().zip(cells(event)) {
                assert!(is_neutralized(cell, &text), "{cell:?} of {text:?}");
                assert!(!has_formula(cell, ';'), "{row:?}");
            }
        }
        assert!(rows.next().is_none());
    });
    for separator in [';', '\t', '|'] {
        assert!(!has_formula(file, separator), "{file}");
    }
}

thread_local! {
    /// Created once, since that takes longer than reading a file.
    static READER: RefCell<csv::Reader<Cursor<Vec<u8>>>> = RefCell::new(
        csv::ReaderBuilder::new().has_headers(false).from_reader(Cursor::default()),
    );
}

/// Whether a spreadsheet that uses this separator could find a formula.
fn has_formula(file: &str, separator: char) -> bool {
    let blank = |c: char| c.is_whitespace() || c.is_control() || "\"\u{feff}\u{200b}".contains(c);
    let mut cells = file.split(['\r', '\n', separator]);
    cells.any(|cell| {
        let text = cell.trim_start_matches(blank);
        text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
    })
}

/// Whether a cell equals the text except for apostrophes that neutralize formulas.
fn is_neutralized(cell: &str, text: &str) -> bool {
    let mut rest = cell.chars();
    let mut next = |c| rest.by_ref().find(|&next| next == c || next != '\'');
    text.chars().all(|c| next(c) == Some(c)) && rest.next().is_none()
}

fn cells(event: &UsageEvent) -> [String; 19] {
    fn shown<T: ToString>(value: Option<T>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let text = |text: &str| text.to_owned();
    let own = event.id.to_string();
    [
        own.clone(),
        text(event.request_id.as_deref().unwrap_or(&own)),
        event.time.to_string(),
        shown(event.key),
        text(event.owner.as_deref().unwrap_or_default()),
        event.method.to_string(),
        text(&event.endpoint),
        text(&event.path),
        text(event.resource_id.as_deref().unwrap_or_default()),
        event.status.to_string(),
        event.outcome.to_string(),
        shown(event.cause),
        shown(event.rejection_reason),
        event.cost.to_string(),
        event.billable.to_string(),
        event.latency_us.to_string(),
        event.request_bytes.to_string(),
        event.response_bytes.to_string(),
        shown(event.client_ip),
    ]
}
