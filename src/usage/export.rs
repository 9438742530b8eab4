//! The request log as a file, page by page.

mod csv;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;

use super::log::{LogFilter, LogQuery};
use super::query::{ReadError, UsageReader};
use super::recorded::{LogCursor, RecordedQuery};

/// The request log as CSV or as lines of JSON, newest first: a stream of chunks, one for each page of
/// [`LogQuery::MAX_LIMIT`] requests.
///
/// It holds no more than one page, however long the log is. Requests that arrive meanwhile make it
/// neither skip nor repeat others. The first error ends it; it is in the stream, so that a client of a
/// response made from it notices that it did not get all.
///
/// # CSV
///
/// As RFC 4180 has it, in UTF-8, with a header row also where nothing matches. The columns are `id`,
/// `request_id` (the id on the wire), `time` (RFC 3339, in UTC), `key`, `owner`, `method`, `endpoint`,
/// `path`, `resource_id`, `status`, `outcome`, `cause`, `refusal`, `cost`, `latency_us`,
/// `request_bytes`, `response_bytes` and `client_address`. Texts are quoted; what an event does not
/// have is an empty cell without quotes.
///
/// Spreadsheets take a cell that begins with `=`, `+`, `-`, `@` or their full-width forms for a formula, quoted
/// or not, and clients choose paths and ids. An apostrophe comes before each, as OWASP recommends against
/// CSV injection: at the beginning of a text, after blanks and invisible characters, and after each `;`, `|`, tab and
/// end of a line, where spreadsheets of other locales begin a cell. Programs that need every text as it was take
/// lines of JSON.
///
/// Excel reads UTF-8 only after a [byte order mark](Self::byte_order_mark).
///
/// # Lines of JSON
///
/// One [`UsageEvent`](super::UsageEvent) a line, which reads back equal.
///
/// # Example
///
/// With axum, `Body::from_stream(export)` answers a request with it:
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::usage::{Batch, Export, LogFilter, UsageEvent, UsageSink};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = MemoryBackend::new();
/// let mut event = UsageEvent::at("2026-11-01T10:00:00Z".parse()?);
/// event.owner = Some("=1+1".into());
/// backend.write(&Batch::new(vec![event])).await?;
///
/// let mut export = Export::csv(backend, LogFilter::new());
/// let mut file = String::new();
/// while let Some(chunk) = export.next_chunk().await {
///     file.push_str(std::str::from_utf8(&chunk?)?);
/// }
/// assert!(file.starts_with("id,request_id,time,key,owner,"));
/// assert!(file.contains(",2026-11-01T10:00:00Z,,\"'=1+1\",GET,"));
/// # Ok(()) }
/// ```
pub struct Export {
    reader: Arc<dyn UsageReader>,
    filter: LogFilter,
    form: Form,
    /// The end of what was read, in recording order.
    cursor: Option<LogCursor>,
    /// Whether a byte order mark comes before the next chunk.
    byte_order_mark: bool,
    /// The page that is being read; `None` at the end.
    reading: Option<Reading>,
}

type Reading = Pin<Box<dyn Future<Output = Result<Chunk, ReadError>> + Send>>;

/// What rows look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Csv,
    JsonLines,
}

/// One page, written down.
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) next: Option<Next>,
    /// Its end, in recording order.
    pub(crate) cursor: Option<LogCursor>,
}

/// Which page to read next.
#[derive(Debug, Clone)]
pub(crate) enum Next {
    /// Newest first.
    Requests(LogQuery),
    /// In recording order.
    Recorded {
        query: RecordedQuery,
        is_first: bool,
    },
}

impl Export {
    /// The requests that match, as CSV.
    pub fn csv(reader: impl UsageReader, filter: LogFilter) -> Self {
        Self::new(Arc::new(reader), filter, Form::Csv)
    }

    /// The requests that match, as lines of JSON.
    pub fn json_lines(reader: impl UsageReader, filter: LogFilter) -> Self {
        Self::new(Arc::new(reader), filter, Form::JsonLines)
    }

    fn new(reader: Arc<dyn UsageReader>, filter: LogFilter, form: Form) -> Self {
        let mut export = Self {
            reader,
            filter: filter.clone(),
            form,
            cursor: None,
            byte_order_mark: false,
            reading: None,
        };
        export.read(Next::Requests(
            LogQuery::new(filter).limit(LogQuery::MAX_LIMIT),
        ));
        export
    }

    /// Exports in recording order instead, from after this cursor, for syncing the log into another system as
    /// [`UsageReader::recorded`] describes. Each row has its own cursor, in a last column or field named `cursor`: when
    /// the export breaks off, continue after that of the last whole row. [`cursor`](Self::cursor) has that of the end.
    pub fn after_cursor(mut self, cursor: LogCursor) -> Self {
        self.cursor = Some(cursor);
        let query = RecordedQuery::after(cursor).filter(self.filter.clone());
        self.read(Next::Recorded {
            query,
            is_first: true,
        });
        self
    }

    /// Begins CSV with U+FEFF, from which Excel tells UTF-8. Off by default; lines of JSON never have it (RFC 8259
    /// §8.1).
    pub fn byte_order_mark(mut self) -> Self {
        self.byte_order_mark = self.form == Form::Csv;
        self
    }

    /// Where to continue after the chunks that were read, also if no event matched; `None` for an export that is not in
    /// recording order.
    pub fn cursor(&self) -> Option<LogCursor> {
        self.cursor
    }

    /// The media type for a `content-type` header.
    pub fn content_type(&self) -> &'static str {
        match self.form {
            Form::Csv => "text/csv; charset=utf-8; header=present",
            Form::JsonLines => "application/jsonl",
        }
    }

    /// The usual ending of such a file's name: `csv` or `jsonl`.
    pub fn file_extension(&self) -> &'static str {
        match self.form {
            Form::Csv => "csv",
            Form::JsonLines => "jsonl",
        }
    }

    /// The next rows, whole ones; `None` when there are no more.
    ///
    /// Nothing is lost when the future is dropped before it is done.
    ///
    /// # Errors
    ///
    /// When the reader cannot answer; `None` comes after that.
    pub async fn next_chunk(&mut self) -> Option<Result<Bytes, ReadError>> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        while let Some(reading) = &mut self.reading {
            let read = ready!(reading.as_mut().poll(context));
            self.reading = None;
            match read {
                Ok(Chunk {
                    mut bytes,
                    next,
                    cursor,
                }) => {
                    self.cursor = cursor;
                    if std::mem::take(&mut self.byte_order_mark) {
                        bytes.splice(..0, *b"\xef\xbb\xbf");
                    }
                    if let Some(query) = next {
                        self.read(query);
                    }
                    // Some readers of a body take an empty chunk for its end.
                    if !bytes.is_empty() {
                        return Poll::Ready(Some(Ok(bytes.into())));
                    }
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(None)
    }

    /// Reads this page when it is polled.
    fn read(&mut self, next: Next) {
        let (reader, form) = (self.reader.clone(), self.form);
        self.reading = Some(Box::pin(async move {
            match next {
                Next::Requests(query) => form.chunk(&reader, query).await,
                Next::Recorded { query, is_first } => {
                    form.recorded_chunk(&reader, query, is_first).await
                }
            }
        }));
    }
}

impl Stream for Export {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_chunk(context)
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl Form {
    /// Reads a page and writes it down.
    pub(crate) async fn chunk<R: UsageReader + ?Sized>(
        self,
        reader: &R,
        mut query: LogQuery,
    ) -> Result<Chunk, ReadError> {
        let page = reader.requests(&query).await?;
        let mut bytes = Vec::with_capacity(page.items.len() * 256);
        if self == Self::Csv && query.after.is_none() {
            csv::header(false, &mut bytes);
        }
        for event in &page.items {
            match self {
                Self::Csv => csv::row(event, None, &mut bytes),
                Self::JsonLines => json_line(event, &mut bytes)?,
            }
        }
        query.after = page.next;
        let next = query.after.is_some().then_some(Next::Requests(query));
        Ok(Chunk {
            bytes,
            next,
            cursor: None,
        })
    }

    /// The same in the order of recording, with cursors.
    async fn recorded_chunk<R: UsageReader + ?Sized>(
        self,
        reader: &R,
        mut query: RecordedQuery,
        is_first: bool,
    ) -> Result<Chunk, ReadError> {
        let page = reader.recorded(&query).await?;
        let mut bytes = Vec::with_capacity(page.items.len() * 280);
        if self == Self::Csv && is_first {
            csv::header(true, &mut bytes);
        }
        for item in &page.items {
            match self {
                Self::Csv => csv::row(&item.event, Some(item.cursor), &mut bytes),
                Self::JsonLines => json_line(item, &mut bytes)?,
            }
        }
        query.after = page.cursor;
        let next = page.more.then_some(Next::Recorded {
            query,
            is_first: false,
        });
        Ok(Chunk {
            bytes,
            next,
            cursor: Some(page.cursor),
        })
    }
}

fn json_line(row: &impl Serialize, rows: &mut Vec<u8>) -> Result<(), ReadError> {
    serde_json::to_writer(&mut *rows, row).map_err(ReadError::unavailable)?;
    rows.push(b'\n');
    Ok(())
}
