//! Exports of the request log as CSV and JSON Lines.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use keytally::backend::MemoryBackend;
use keytally::usage::{
    Batch, Cause, Count, Export, LogCursor, LogFilter, LogQuery, Method, Outcome, ReadError,
    RejectionReason, Rollup, Status, Summary, SummaryQuery, UsageEvent, UsageRange, UsageReader,
    UsageSink,
};
use keytally::{Page, async_trait};
use proptest::prelude::*;
use proptest::sample::select;

fn events(count: usize) -> Vec<UsageEvent> {
    let start: Timestamp = "2026-11-01T10:00:00Z".parse().unwrap();
    (0..count)
        .map(|n| {
            // Ten events per microsecond, so that pages end within one.
            let mut event = UsageEvent::new(start + SignedDuration::from_micros(n as i64 / 10));
            event.method = Method::ALL[n % Method::ALL.len()];
            event.response_bytes = n as u64;
            event
        })
        .collect()
}

fn newest_first(events: &[UsageEvent]) -> Vec<UsageEvent> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.id)));
    events
}

async fn with_events(events: &[UsageEvent]) -> MemoryBackend {
    let backend = MemoryBackend::new();
    backend.write(&Batch::new(events.to_vec())).await.unwrap();
    backend
}

async fn chunks(mut export: Export) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    while let Some(chunk) = export.next_chunk().await {
        chunks.push(chunk.unwrap());
    }
    chunks
}

fn lines(file: &[u8]) -> Vec<UsageEvent> {
    let text = std::str::from_utf8(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The header and the rows, as read by the `csv` crate.
fn cells(file: &[u8]) -> (Vec<String>, Vec<Vec<String>>) {
    let owned = |row: &csv::StringRecord| row.iter().map(str::to_owned).collect::<Vec<_>>();
    let mut reader = csv::Reader::from_reader(file);
    let header = owned(reader.headers().unwrap());
    let rows = reader.records().map(|row| owned(&row.unwrap())).collect();
    (header, rows)
}

const COLUMNS: [&str; 19] = [
    "id",
    "request_id",
    "time",
    "key",
    "owner",
    "method",
    "endpoint",
    "path",
    "resource_id",
    "status",
    "outcome",
    "cause",
    "rejection_reason",
    "cost",
    "billable",
    "latency_us",
    "request_bytes",
    "response_bytes",
    "client_ip",
];

fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Whether a cell equals the text, ignoring apostrophes added against formula injection.
fn is_defused(cell: &str, text: &str) -> bool {
    let mut rest = cell.chars();
    let mut next = |c| rest.by_ref().find(|&next| next == c || next != '\'');
    text.chars().all(|c| next(c) == Some(c)) && rest.next().is_none()
}

#[track_caller]
fn assert_rows(rows: &[Vec<String>], events: &[UsageEvent]) {
    assert_eq!(rows.len(), events.len());
    for (row, event) in rows.iter().zip(events) {
        let expected = row_of(event);
        assert_eq!(row.len(), expected.len());
        for (cell, text) in row.iter().zip(&expected) {
            assert!(is_defused(cell, text), "{cell:?} of {text:?}");
            assert!(!has_formula(cell, ';'), "{cell:?}");
        }
    }
}

/// Whether a spreadsheet may find a formula if `separator` separates its cells, as in some locales.
fn has_formula(file: &str, separator: char) -> bool {
    let blank = |c: char| c.is_whitespace() || c.is_control() || "\"\u{feff}\u{200b}".contains(c);
    let mut cells = file.split(['\r', '\n', separator]);
    cells.any(|cell| {
        cell.trim_start_matches(blank)
            .starts_with(['=', '+', '-', '@', '＝', '＋'])
    })
}

fn row_of(event: &UsageEvent) -> Vec<String> {
    [
        event.id.to_string(),
        event.request_id_or_id().to_string(),
        event.time.to_string(),
        or_empty(event.key),
        or_empty(event.owner.as_deref()),
        event.method.to_string(),
        event.endpoint.to_string(),
        event.path.to_string(),
        or_empty(event.resource_id.as_deref()),
        event.status.to_string(),
        event.outcome.to_string(),
        or_empty(event.cause),
        or_empty(event.rejection_reason),
        event.cost.to_string(),
        event.billable.to_string(),
        event.latency_us.to_string(),
        event.request_bytes.to_string(),
        event.response_bytes.to_string(),
        or_empty(event.client_ip),
    ]
    .into()
}

#[tokio::test]
async fn export_contains_the_whole_log_with_one_chunk_per_page() {
    let events = events(2_500);
    let backend = with_events(&events).await;
    let expected = newest_first(&events);

    let json = chunks(Export::json_lines(backend.clone(), LogFilter::new())).await;
    let sizes: Vec<_> = json.iter().map(|chunk| lines(chunk).len()).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
    assert_eq!(lines(&json.concat()), expected);

    let csv = chunks(Export::csv(backend.clone(), LogFilter::new())).await;
    assert_eq!(csv.len(), 3);
    let (header, rows) = cells(&csv.concat());
    assert_eq!(header, COLUMNS);
    assert_rows(&rows, &expected);

    let filter = LogFilter::new().method(Method::Post);
    let json = chunks(Export::json_lines(backend, filter.clone())).await;
    let matching: Vec<_> = expected
        .into_iter()
        .filter(|it| filter.matches(it))
        .collect();
    assert_eq!(lines(&json.concat()), matching);
}

#[tokio::test]
async fn empty_csv_export_has_its_header() {
    let no_match = LogFilter::new().owner("nobody");
    let backend = with_events(&events(3)).await;
    let csv = chunks(Export::csv(backend.clone(), no_match.clone())).await;
    assert_eq!(csv, [format!("{}\r\n", COLUMNS.join(","))]);
    let json = chunks(Export::json_lines(backend, no_match)).await;
    assert!(json.is_empty());
}

#[tokio::test]
async fn byte_order_mark_is_written_to_csv_only() {
    let backend = with_events(&events(1_001)).await;
    let filter = LogFilter::new();
    let without = chunks(Export::csv(backend.clone(), filter.clone())).await;
    let with = chunks(Export::csv(backend.clone(), filter.clone()).byte_order_mark()).await;
    assert_eq!(
        with.concat(),
        [&b"\xef\xbb\xbf"[..], &without.concat()].concat()
    );
    let json = chunks(Export::json_lines(backend, filter).byte_order_mark()).await;
    assert_eq!(json[0][0], b'{');
}

#[tokio::test]
async fn after_cursor_exports_in_recording_order_with_a_cursor_per_row() {
    let events = events(2_500);
    let backend = MemoryBackend::new();
    // The newest are written first.
    for batch in events.chunks(300).rev() {
        backend.write(&Batch::new(batch.to_vec())).await.unwrap();
    }
    let recorded: Vec<_> = events.chunks(300).rev().flatten().cloned().collect();
    let export = || Export::json_lines(backend.clone(), LogFilter::new());
    let file = chunks(export().after_cursor(LogCursor::START))
        .await
        .concat();
    assert_eq!(lines(&file), recorded);
    // An interrupted file is continued after its last complete row.
    let rows: Vec<_> = std::str::from_utf8(&file).unwrap().lines().collect();
    let last: serde_json::Value = serde_json::from_str(rows[1_233]).unwrap();
    let cursor: LogCursor = last["cursor"].as_str().unwrap().parse().unwrap();
    let rest = chunks(export().after_cursor(cursor)).await.concat();
    assert_eq!(lines(&rest), recorded[1_234..]);

    let filter = LogFilter::new().method(Method::Post);
    // An export without matching rows also advances the cursor.
    let no_match = LogFilter::new().owner("nobody");
    let mut none = Export::json_lines(backend.clone(), no_match).after_cursor(cursor);
    assert_eq!(none.cursor(), Some(cursor));
    assert!(none.next_chunk().await.is_none());
    let end = none.cursor().unwrap();
    let rest = Export::json_lines(backend.clone(), LogFilter::new()).after_cursor(end);
    assert!(chunks(rest).await.is_empty());

    let export = Export::csv(backend, filter.clone()).after_cursor(cursor);
    let (header, rows) = cells(&chunks(export).await.concat());
    assert_eq!(header[..19], COLUMNS);
    assert_eq!(header[19..], ["cursor"]);
    let mut expected = recorded[1_234..].to_vec();
    expected.retain(|event| filter.matches(event));
    assert_eq!(rows.len(), expected.len());
    for (row, event) in rows.iter().zip(&expected) {
        assert_eq!(row[0], event.id.to_string());
        assert!(row[19].parse::<LogCursor>().is_ok());
    }
}

#[test]
fn each_format_has_its_media_type() {
    let backend = MemoryBackend::new();
    let csv = Export::csv(backend.clone(), LogFilter::new());
    assert_eq!(
        csv.content_type(),
        "text/csv; charset=utf-8; header=present"
    );
    let json = Export::json_lines(backend, LogFilter::new());
    assert_eq!(json.content_type(), "application/jsonl");
    assert_eq!(format!("{json:?}"), "Export { form: JsonLines, .. }");
}

#[tokio::test]
async fn export_is_a_valid_axum_body_stream() {
    let events = events(1_500);
    let export = Export::json_lines(with_events(&events).await, LogFilter::new());
    let body = axum::body::Body::from_stream(export);
    let file = body.collect().await.unwrap().to_bytes();
    assert_eq!(lines(&file), newest_first(&events));
}

#[tokio::test]
async fn concurrent_writes_neither_skip_nor_repeat_rows() {
    let events = events(2_500);
    let backend = with_events(&events).await;
    let mut export = Export::json_lines(backend.clone(), LogFilter::new());
    let mut file = Vec::new();
    while let Some(chunk) = export.next_chunk().await {
        file.extend_from_slice(&chunk.unwrap());
        // One newer and one older than all others.
        for time in ["2026-12-01T00:00:00Z", "2026-10-01T00:00:00Z"] {
            let late = UsageEvent::new(time.parse().unwrap());
            backend.write(&Batch::new(vec![late])).await.unwrap();
        }
    }
    let logged = lines(&file);
    assert_eq!(logged[..2_500], newest_first(&events));
    assert!(logged.len() > 2_500);
    assert_eq!(logged, newest_first(&logged));
}

/// A reader that counts page reads, yields before each, and fails at one of them.
#[derive(Clone)]
struct UnreliableReader {
    inner: MemoryBackend,
    pages_read: Arc<AtomicUsize>,
    fails_at: usize,
}

impl UnreliableReader {
    async fn with_events(events: &[UsageEvent], fails_at: usize) -> Self {
        Self {
            inner: with_events(events).await,
            pages_read: Arc::default(),
            fails_at,
        }
    }

    fn pages_read(&self) -> usize {
        self.pages_read.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl UsageReader for UnreliableReader {
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
        self.inner.summary(query).await
    }

    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        self.inner.rollups(range).await
    }

    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        let page = self.pages_read.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::task::yield_now().await;
        if page == self.fails_at {
            return Err(ReadError::unavailable("simulated outage"));
        }
        self.inner.requests(query).await
    }

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        self.inner.count(filter).await
    }
}

#[tokio::test]
async fn first_error_ends_the_export() {
    let reader = UnreliableReader::with_events(&events(2_500), 2).await;
    let mut export = Export::csv(reader.clone(), LogFilter::new());
    assert!(export.next_chunk().await.unwrap().is_ok());
    let error = export.next_chunk().await.unwrap().unwrap_err();
    assert!(matches!(error, ReadError::Unavailable(_)));
    assert!(export.next_chunk().await.is_none());
    assert!(export.next_chunk().await.is_none());
    assert_eq!(reader.pages_read(), 2);

    let at_once = UnreliableReader::with_events(&events(1), 1).await;
    let mut export = Export::csv(at_once, LogFilter::new());
    assert!(export.next_chunk().await.unwrap().is_err());
    assert!(export.next_chunk().await.is_none());
}

#[tokio::test]
async fn pages_are_read_lazily_and_only_once() {
    let events = events(2_500);
    let reader = UnreliableReader::with_events(&events, usize::MAX).await;
    let mut export = Export::json_lines(reader.clone(), LogFilter::new());
    assert_eq!(reader.pages_read(), 0);
    let mut file = Vec::new();
    for page in 1..=3 {
        // Cancelled while the page is being read, then called again.
        {
            let cancelled = pin!(export.next_chunk());
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(cancelled.poll(&mut context), Poll::Pending));
        }
        file.extend(export.next_chunk().await.unwrap().unwrap());
        assert_eq!(reader.pages_read(), page);
    }
    assert!(export.next_chunk().await.is_none());
    assert_eq!(lines(&file), newest_first(&events));
}

/// Text with characters that are special in CSV or spreadsheets.
fn texts() -> impl Strategy<Value = String> {
    let part = select(vec![
        "",
        "=",
        "+",
        "-",
        "@",
        "\t",
        "\r",
        "\n",
        "\r\n",
        ",",
        ";",
        "\"",
        "\"\"",
        "'",
        " ",
        "a",
        "=1+1",
        "é",
        "\u{feff}",
        "\u{202e}",
        "\u{a0}",
        "＝1",
        "|",
        "\u{1f511}",
        "\\",
        "\0",
    ]);
    prop_oneof![
        3 => proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat()),
        1 => any::<String>(),
    ]
}

prop_compose! {
    fn hostile_events()(
        texts in proptest::collection::vec(texts(), 5),
        some in any::<[bool; 5]>(),
        status in prop_oneof![
            Just(Status::None),
            (100..600_u16).prop_map(Status::Http),
            (0..17_u8).prop_map(Status::Grpc),
        ],
        (outcome, cause) in (select(&Outcome::ALL[..]), select(&Cause::ALL[..])),
        rejection_reason in select(&RejectionReason::ALL[..]),
        micros in -62_135_596_800_000_000..253_402_207_200_000_000_i64,
        numbers in any::<[u64; 3]>(),
        cost in any::<u32>(),
        address in any::<std::net::IpAddr>(),
    ) -> UsageEvent {
        let mut event = UsageEvent::new(Timestamp::from_microsecond(micros).unwrap());
        event.owner = some[0].then(|| texts[0].as_str().into());
        event.endpoint = texts[1].as_str().into();
        event.path = texts[2].as_str().into();
        event.resource_id = some[1].then(|| texts[3].as_str().into());
        event.request_id = some[2].then(|| texts[4].as_str().into());
        event.key = some[3].then(|| "3fK9aB0000zzZZ19".parse().unwrap());
        (event.status, event.outcome) = (status, outcome);
        event.cause = some[4].then_some(cause);
        event.rejection_reason = some[3].then_some(rejection_reason);
        [event.latency_us, event.request_bytes, event.response_bytes] = numbers;
        event.cost = cost;
        event.client_ip = some[4].then_some(address);
        event
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn hostile_text_round_trips_and_contains_no_formulas(events in proptest::collection::vec(hostile_events(), 0..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let batch = Batch::new(events);
            let backend = MemoryBackend::new();
            backend.write(&batch).await.unwrap();
            let expected = newest_first(batch.events());
            let json = chunks(Export::json_lines(backend.clone(), LogFilter::new())).await.concat();
            prop_assert_eq!(&lines(&json), &expected);
            let export = Export::csv(backend, LogFilter::new()).byte_order_mark();
            let csv = chunks(export).await.concat();
            let (header, rows) = cells(&csv);
            prop_assert_eq!(header, COLUMNS);
            assert_rows(&rows, &expected);
            let csv = std::str::from_utf8(&csv).unwrap();
            for separator in [';', '\t', '|'] {
                prop_assert!(!has_formula(csv, separator), "{}", csv);
            }
            Ok(())
        })?;
    }
}
