//! What a database has to offer so that keys and usage can be kept in it.

use std::future::Future;

use jiff::Timestamp;
use sqlx::Error as SqlError;
use uuid::Uuid;

use super::names::Names;
use crate::id::KeyId;
use crate::key::InvalidationFeed;

/// A database and its pools.
pub(in crate::backend) trait Engine: Send + Sync + 'static {
    type Session: Session;

    /// The names of the tables, and in which words the database wants to be asked.
    fn names(&self) -> &Names;

    /// A connection for one question.
    fn reader(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A transaction whose questions all see the database as it is at the first of them.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A transaction that writes. When it is dropped without [`Session::commit`], nothing is written.
    fn writer(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// A transaction that changes the schema, while no other process does.
    fn migrator(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// The time by which usage grows old.
    fn now(&self) -> impl Future<Output = Result<Timestamp, SqlError>> + Send;

    /// Drops what the log has from before a time, in microseconds; how much that was.
    fn prune_log(&self, before: i64) -> impl Future<Output = Result<u64, SqlError>> + Send;

    /// A key is about to be read for a cache that wants to know when it changes.
    fn about_to_look_up(&self, _changes: &InvalidationFeed) {}

    /// Lets other processes know, once the transaction is committed, that a key was changed.
    fn announce(
        &self,
        session: &mut Self::Session,
        id: KeyId,
    ) -> impl Future<Output = Result<(), SqlError>> + Send;
}

/// A connection, or a transaction on one.
pub(in crate::backend) trait Session: Send {
    type Row: Row;

    fn rows(
        &mut self,
        statement: Statement,
    ) -> impl Future<Output = Result<Vec<Self::Row>, SqlError>> + Send;

    /// How many rows were written.
    fn run(&mut self, statement: Statement) -> impl Future<Output = Result<u64, SqlError>> + Send;

    /// Runs statements of this crate's that have no values.
    fn script(&mut self, text: &str) -> impl Future<Output = Result<(), SqlError>> + Send;

    fn commit(self) -> impl Future<Output = Result<(), SqlError>> + Send;
}

/// One row of an answer, by its columns' names.
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

/// A value on its way into a statement.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::backend) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
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

/// A statement and its values, which its text names `$1`, `$2` and so on.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::backend) struct Statement {
    pub(in crate::backend) text: String,
    pub(in crate::backend) values: Vec<Value>,
}

impl Statement {
    /// Begins with this text, with the tables' names in it.
    pub(in crate::backend) fn new(names: &Names, template: &str) -> Self {
        Self {
            text: names.sql(template),
            values: Vec::new(),
        }
    }

    /// Goes on with this text, which comes from this crate alone.
    pub(in crate::backend) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Puts the place of a value there.
    pub(in crate::backend) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.text.push('$');
        self.text.push_str(&self.values.len().to_string());
        self
    }

    /// Goes on with text that has tables' names in it.
    pub(in crate::backend) fn push_sql(&mut self, names: &Names, template: &str) -> &mut Self {
        self.text.push_str(&names.sql(template));
        self
    }

    /// Notes a value and says what stands for it, in as many places as need it.
    pub(in crate::backend) fn place(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    /// Gives the next of the values that the text names already.
    #[must_use]
    pub(in crate::backend) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }
}
