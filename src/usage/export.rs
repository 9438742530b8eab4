//! Streaming export of the request log.

pub(crate) mod csv;

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;

use super::event::UsageEvent;
use super::log::{LogFilter, LogQuery};
use super::query::{ReadError, UsageReader};
use super::recorded::{LogCursor, RecordedQuery};
use crate::id::KeyId;
use crate::page::PageRequest;

/// A streaming export of the request log as CSV or JSON Lines, newest first.
///
/// Yields one chunk for each page of [`PageRequest::MAX_LIMIT`] requests and holds at most one page in memory.
/// Requests recorded during the export do not cause others to be skipped or repeated. The stream ends after the
/// first error. The error is an item of the stream, so a response body made from it fails instead of ending early.
///
/// # CSV
///
/// RFC 4180 CSV in UTF-8, with a header row even if nothing matches. The columns are `id`, `request_id`, `time`
/// (RFC 3339, in UTC), `key`, `owner`, `method`, `endpoint`, `path`, `resource_id`, `status`, `outcome`, `cause`,
/// `rejection_reason`, `cost`, `latency_us`, `request_bytes`, `response_bytes` and `client_ip`. Strings are quoted;
/// absent values are empty cells without quotes.
///
/// Spreadsheets interpret a cell that starts with `=`, `+`, `-`, `@` or their full-width forms as a formula, even
/// if it is quoted, and clients choose paths and ids. As OWASP recommends against CSV injection, an apostrophe is
/// inserted before these characters: at the start of a string, after whitespace and invisible characters, and
/// after each `;`, `|`, tab and line break, which separate cells in some locales. Use JSON Lines to get strings
/// unchanged.
///
/// Excel detects UTF-8 only with a [byte order mark](Self::byte_order_mark).
///
/// # JSON Lines
///
/// One [`UsageEvent`](super::UsageEvent) as JSON per line.
///
/// # Example
///
/// With axum, use `Body::from_stream(export)` as the response body.
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::usage::{Batch, Export, LogFilter, UsageEvent, UsageSink};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = MemoryBackend::new();
/// let mut event = UsageEvent::new("2026-11-01T10:00:00Z".parse()?);
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
    form: Format,
    /// The position after the last chunk, in recording order.
    cursor: Option<LogCursor>,
    /// Whether to write a byte order mark before the next chunk.
    byte_order_mark: bool,
    names: Option<Arc<dyn KeyNames>>,
    /// The page being read; `None` at the end.
    reading: Option<Reading>,
}

type Reading = Pin<Box<dyn Future<Output = Result<Chunk, ReadError>> + Send>>;

/// The names of keys, for CSV.
#[async_trait]
pub(crate) trait KeyNames: Send + Sync + 'static {
    /// The names of these keys. Keys that no longer exist are missing.
    async fn of(&self, ids: BTreeSet<KeyId>) -> Result<csv::Names, ReadError>;
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    JsonLines,
}

/// One formatted page.
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) next: Option<Next>,
    /// The position after the page, in recording order.
    pub(crate) cursor: Option<LogCursor>,
}

/// The next page to read.
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
    /// Exports the matching requests as CSV.
    pub fn csv(reader: impl UsageReader, filter: LogFilter) -> Self {
        Self::new(Arc::new(reader), filter, Format::Csv)
    }

    /// Exports the matching requests as JSON Lines.
    pub fn json_lines(reader: impl UsageReader, filter: LogFilter) -> Self {
        Self::new(Arc::new(reader), filter, Format::JsonLines)
    }

    fn new(reader: Arc<dyn UsageReader>, filter: LogFilter, form: Format) -> Self {
        let mut export = Self {
            reader,
            filter: filter.clone(),
            form,
            cursor: None,
            byte_order_mark: false,
            names: None,
            reading: None,
        };
        export.read(Next::Requests(
            LogQuery::new(filter).limit(PageRequest::MAX_LIMIT),
        ));
        export
    }

    /// Adds a column `key_name` to CSV, after `key`.
    #[cfg(feature = "dashboard")]
    pub(crate) fn key_names(mut self, names: impl KeyNames) -> Self {
        self.names = Some(Arc::new(names));
        let query = LogQuery::new(self.filter.clone()).limit(PageRequest::MAX_LIMIT);
        self.read(Next::Requests(query));
        self
    }

    /// Exports in recording order instead, starting after this cursor, to sync the log into another system (see
    /// [`UsageReader::recorded`]).
    ///
    /// Each row has its own cursor, in a last column or field named `cursor`. If the export is interrupted,
    /// continue after the cursor of the last complete row. At the end, [`cursor`](Self::cursor) returns the cursor
    /// to continue from.
    pub fn after_cursor(mut self, cursor: LogCursor) -> Self {
        self.cursor = Some(cursor);
        let query = RecordedQuery::after(cursor).filter(self.filter.clone());
        self.read(Next::Recorded {
            query,
            is_first: true,
        });
        self
    }

    /// Starts CSV with a byte order mark (U+FEFF), by which Excel detects UTF-8. Off by default. Has no effect on
    /// JSON Lines (RFC 8259 §8.1).
    pub fn byte_order_mark(mut self) -> Self {
        self.byte_order_mark = self.form == Format::Csv;
        self
    }

    /// The cursor to continue from after the chunks read so far, even if no event matched. `None` unless the
    /// export is in recording order ([`after_cursor`](Self::after_cursor)).
    pub fn cursor(&self) -> Option<LogCursor> {
        self.cursor
    }

    /// The media type for a `content-type` header.
    pub fn content_type(&self) -> &'static str {
        match self.form {
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::JsonLines => "application/jsonl",
        }
    }

    /// The file extension, without a dot: `csv` or `jsonl`.
    pub fn file_extension(&self) -> &'static str {
        match self.form {
            Format::Csv => "csv",
            Format::JsonLines => "jsonl",
        }
    }

    /// Returns the next chunk, which holds complete rows, or `None` at the end.
    ///
    /// Cancel safe: no rows are lost if the future is dropped before it completes.
    ///
    /// # Errors
    ///
    /// Returns the error of the reader. The next call returns `None`.
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
                    // Some HTTP stacks treat an empty chunk as the end of the body.
                    if !bytes.is_empty() {
                        return Poll::Ready(Some(Ok(bytes.into())));
                    }
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(None)
    }

    /// Sets the page to read on the next poll.
    fn read(&mut self, next: Next) {
        let (reader, form, names) = (self.reader.clone(), self.form, self.names.clone());
        self.reading = Some(Box::pin(async move {
            let names = names.as_deref();
            match next {
                Next::Requests(query) => form.chunk(&reader, names, query).await,
                Next::Recorded { query, is_first } => {
                    form.recorded_chunk(&reader, names, query, is_first).await
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

impl Format {
    /// Reads and formats a page.
    pub(crate) async fn chunk<R: UsageReader + ?Sized>(
        self,
        reader: &R,
        names: Option<&dyn KeyNames>,
        mut query: LogQuery,
    ) -> Result<Chunk, ReadError> {
        let page = reader.requests(&query).await?;
        let names = self.names_of(names, page.items.iter()).await?;
        let mut bytes = Vec::with_capacity(page.items.len() * 256);
        if self == Self::Csv && query.page.after.is_none() {
            csv::header(names.is_some(), false, &mut bytes);
        }
        for event in &page.items {
            match self {
                Self::Csv => csv::row(event, names.as_ref(), None, &mut bytes),
                Self::JsonLines => json_line(event, &mut bytes)?,
            }
        }
        query.page.after = page.next;
        let next = query.page.after.is_some().then_some(Next::Requests(query));
        Ok(Chunk {
            bytes,
            next,
            cursor: None,
        })
    }

    /// Reads and formats a page in recording order, with cursors.
    async fn recorded_chunk<R: UsageReader + ?Sized>(
        self,
        reader: &R,
        names: Option<&dyn KeyNames>,
        mut query: RecordedQuery,
        is_first: bool,
    ) -> Result<Chunk, ReadError> {
        let page = reader.recorded(&query).await?;
        let events = page.items.iter().map(|item| &item.event);
        let names = self.names_of(names, events).await?;
        let mut bytes = Vec::with_capacity(page.items.len() * 280);
        if self == Self::Csv && is_first {
            csv::header(names.is_some(), true, &mut bytes);
        }
        for item in &page.items {
            match self {
                Self::Csv => {
                    csv::row(&item.event, names.as_ref(), Some(item.cursor), &mut bytes);
                }
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

impl Format {
    /// The names of the keys of these events, if CSV has them.
    async fn names_of(
        self,
        names: Option<&dyn KeyNames>,
        events: impl Iterator<Item = &UsageEvent>,
    ) -> Result<Option<csv::Names>, ReadError> {
        match names.filter(|_| self == Self::Csv) {
            Some(names) => {
                let ids = events.filter_map(|event| event.key).collect();
                names.of(ids).await.map(Some)
            }
            None => Ok(None),
        }
    }
}

fn json_line(row: &impl Serialize, rows: &mut Vec<u8>) -> Result<(), ReadError> {
    serde_json::to_writer(&mut *rows, row).map_err(ReadError::unavailable)?;
    rows.push(b'\n');
    Ok(())
}
