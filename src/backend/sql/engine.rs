//! The interface between the shared SQL implementation and a database.

use std::future::Future;

use jiff::Timestamp;
use sqlx::Error as SqlError;
use uuid::Uuid;

use super::callers::CallerCache;
use super::changed::Changed;
use super::names::Names;
use super::series_rollup::SeriesRollup;
use crate::id::KeyId;
use crate::key::InvalidationFeed;

/// A database and its connection pools.
pub(in crate::backend) trait Engine: Send + Sync + 'static {
    type Session: Session;

    /// The table names and the SQL dialect.
    fn names(&self) -> &Names;

    /// The callers that were last read.
    fn callers(&self) -> &CallerCache;

    /// A connection for a single query.
    fn reader(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A read transaction whose queries all see the same snapshot.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A write transaction. Dropping it without [`Session::commit`] rolls it back.
    fn writer(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A transaction for schema migrations, exclusive across processes.
    fn migrator(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A write transaction that registers callers and kinds, exclusive across processes.
    fn registrar(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A write transaction that merges rollups, exclusive across processes. Without waiting, `None` if another process
    /// is merging.
    fn merger(
        &self,
        waits: bool,
    ) -> impl Future<Output = Result<Option<Self::Session>, SqlError>> + Send;

    /// Adds rollups, ordered by caller, start and kind, to a table. `are_new` is whether it has no rows of the same
    /// callers, starts and kinds.
    fn add_rollups(
        &self,
        session: &mut Self::Session,
        table: &str,
        rollups: &[SeriesRollup],
        are_new: bool,
    ) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// The current time for merging and pruning.
    fn now(&self) -> impl Future<Output = Result<Timestamp, SqlError>> + Send;

    /// Prunes the request log before a time, in microseconds since 1970. Returns the number of rows or partitions.
    fn prune_log(&self, before: i64) -> impl Future<Output = Result<u64, SqlError>> + Send;

    /// Called before a lookup whose result may be cached, to start listening for changes.
    fn before_lookup(&self, _changes: &InvalidationFeed) {}

    /// Notifies other processes of changes when the transaction commits.
    fn announce(
        &self,
        session: &mut Self::Session,
        changed: &[Changed],
    ) -> impl Future<Output = Result<(), SqlError>> + Send;
}

/// A connection, or a transaction on one.
pub(in crate::backend) trait Session: Send {
    type Row: Row;

    fn fetch(
        &mut self,
        statement: Statement,
    ) -> impl Future<Output = Result<Vec<Self::Row>, SqlError>> + Send;

    /// Executes a statement. Returns the number of affected rows.
    fn execute(
        &mut self,
        statement: Statement,
    ) -> impl Future<Output = Result<u64, SqlError>> + Send;

    /// Executes several statements without parameters.
    fn execute_script(&mut self, text: &str) -> impl Future<Output = Result<(), SqlError>> + Send;

    fn commit(self) -> impl Future<Output = Result<(), SqlError>> + Send;
}

/// A row of a result, accessed by column name.
pub(in crate::backend) trait Row: Send {
    fn text(&self, column: &str) -> Result<Option<&str>, SqlError>;
    fn integer(&self, column: &str) -> Result<Option<i64>, SqlError>;
    fn boolean(&self, column: &str) -> Result<bool, SqlError>;
    fn bytes(&self, column: &str) -> Result<Option<&[u8]>, SqlError>;
    /// Microseconds since 1970.
    fn time(&self, column: &str) -> Result<Option<i64>, SqlError>;
    fn uuid(&self, column: &str) -> Result<Uuid, SqlError>;
    /// As text.
    fn json(&self, column: &str) -> Result<Option<&str>, SqlError>;
    /// As text.
    fn address(&self, column: &str) -> Result<Option<String>, SqlError>;
}

/// A parameter of a statement.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::backend) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Integers(Vec<i64>),
    Boolean(bool),
    /// Microseconds since 1970.
    Time(Option<i64>),
    Uuid(Uuid),
    Bytes(Option<Vec<u8>>),
    /// As text.
    Json(Option<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(Into::into))
    }
}

impl From<KeyId> for Value {
    fn from(id: KeyId) -> Self {
        id.as_str().into()
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Uuid> for Value {
    fn from(id: Uuid) -> Self {
        Self::Uuid(id)
    }
}

/// An SQL statement and its parameters, numbered `$1`, `$2` and so on.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::backend) struct Statement {
    pub(in crate::backend) text: String,
    pub(in crate::backend) values: Vec<Value>,
}

impl Statement {
    /// Creates a statement from a template with placeholders for table names; see [`Names::sql`].
    pub(in crate::backend) fn new(names: &Names, template: &str) -> Self {
        Self {
            text: names.sql(template),
            values: Vec::new(),
        }
    }

    /// Appends SQL text. Must not contain untrusted input.
    pub(in crate::backend) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a parameter and appends its placeholder.
    pub(in crate::backend) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.text.push('$');
        self.text.push_str(&self.values.len().to_string());
        self
    }

    /// Appends rows of parameters, separated by commas.
    pub(in crate::backend) fn push_rows<T, V: IntoIterator<Item = Value>>(
        &mut self,
        rows: &[T],
        values: impl Fn(&T) -> V,
    ) -> &mut Self {
        for (nth, row) in rows.iter().enumerate() {
            self.push(if nth == 0 { "(" } else { ", (" });
            for (nth, value) in values(row).into_iter().enumerate() {
                if nth > 0 {
                    self.push(", ");
                }
                self.push_bind(value);
            }
            self.push(")");
        }
        self
    }

    /// Adds numbers as one parameter and returns the condition that a column is one of them.
    pub(in crate::backend) fn is_one_of(
        &mut self,
        names: &Names,
        column: &str,
        numbers: &[i64],
    ) -> String {
        if let &[number] = numbers {
            // PostgreSQL's planner may assume that a list has ten numbers.
            return format!("{column} = {}", self.placeholder(number));
        }
        let place = self.placeholder(Value::Integers(numbers.into()));
        names.dialect.is_one_of(column, &place)
    }

    /// Appends a template with placeholders for table names.
    pub(in crate::backend) fn push_sql(&mut self, names: &Names, template: &str) -> &mut Self {
        self.text.push_str(&names.sql(template));
        self
    }

    /// Adds a parameter and returns its placeholder, which can be used several times.
    pub(in crate::backend) fn placeholder(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    /// Adds the next parameter for a placeholder that is already in the text.
    #[must_use]
    pub(in crate::backend) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }
}
