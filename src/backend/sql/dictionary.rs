//! The dictionaries of callers and kinds, which the request log and rollups reference by number.
//!
//! A process registers the callers and kinds of a batch in a transaction of their own and caches their numbers.
//! Registrations are exclusive across processes, so numbers ascend in commit order: as long as the newest entry that a
//! process knows is still there, with its random token, so are all others. Each batch checks this, since the database
//! may have been restored from a backup or failed over to a replica that is behind.

use std::collections::HashMap;
use std::fmt;
use std::hash;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use jiff::Timestamp;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use sqlx::Error as SqlError;

use super::engine::{Engine, Row, Session, Statement, Value};
use super::hash::{Hash, hash_of};
use super::names::Names;
use super::value::{decode, required, status_codes};
use crate::id::KeyId;
use crate::usage::{Cause, Method, Outcome, RejectionReason, Status};

/// The maximum number of cached entries of a dictionary.
const MAX_CACHED: u64 = 1 << 17;
/// The number of entries per statement.
const ENTRIES: usize = 256;

/// The key and the owner of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::backend) struct Caller {
    pub(super) key: Option<KeyId>,
    pub(super) owner: Option<Arc<str>>,
}

/// The attributes that requests of many callers share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::backend) struct Kind {
    pub(super) method: Method,
    pub(super) endpoint: Arc<str>,
    pub(super) status: Status,
    pub(super) outcome: Outcome,
    pub(super) cause: Option<Cause>,
    pub(super) rejection_reason: Option<RejectionReason>,
    pub(super) billable: bool,
}

/// The numbers of the callers and kinds of a batch, in its order.
#[derive(Debug)]
pub(in crate::backend) struct Numbers {
    pub(in crate::backend) callers: Vec<i32>,
    pub(in crate::backend) kinds: Vec<i32>,
    newest: [Option<Newest>; 2],
}

/// The newest entry of a dictionary that a process knows.
#[derive(Debug, Clone, Copy)]
struct Newest {
    table: &'static str,
    id: i32,
    token: i64,
}

/// The cached dictionaries of a database.
#[derive(Debug, Default)]
pub(in crate::backend) struct Dictionaries(Mutex<Arc<Cached>>);

#[derive(Debug, Default)]
struct Cached {
    callers: Dictionary<Caller>,
    kinds: Dictionary<Kind>,
}

/// Numbers by entry, each with the day that was last written to its `last_seen_day`. The column is updated on every
/// day of use, and entries are pruned only many days later, so a cached entry exists in the database.
struct Dictionary<T> {
    numbers: Cache<T, (i32, i64), UnitWeighter, RandomState>,
    newest: Mutex<Option<Newest>>,
}

/// An entry of a dictionary.
trait Entry: Clone + Eq + hash::Hash + Send + Sync {
    const TABLE: &'static str;
    const COLUMNS: &'static str;

    fn digest(&self) -> Hash;

    /// The values of the columns.
    fn values(&self) -> Vec<Value>;
}

impl Entry for Caller {
    const TABLE: &'static str = "{prefix}callers";
    const COLUMNS: &'static str = "key_id, owner";

    fn digest(&self) -> Hash {
        hash_of(&[self.key.as_ref().map(KeyId::as_str), self.owner.as_deref()])
    }

    fn values(&self) -> Vec<Value> {
        let key = self.key.as_ref().map(KeyId::as_str);
        vec![key.into(), self.owner.as_deref().into()]
    }
}

impl Entry for Kind {
    const TABLE: &'static str = "{prefix}kinds";
    const COLUMNS: &'static str = "method, endpoint, http_status, grpc_status, outcome, cause, rejection_reason, status_class, billable";

    fn digest(&self) -> Hash {
        let (http, grpc) = status_codes(self.status);
        hash_of(&[
            Some(self.method.as_str()),
            Some(&self.endpoint),
            http.map(|code| code.to_string()).as_deref(),
            grpc.map(|code| code.to_string()).as_deref(),
            Some(self.outcome.as_str()),
            self.cause.map(|cause| cause.as_str()),
            self.rejection_reason.map(|reason| reason.as_str()),
            self.billable.then_some("billable"),
        ])
    }

    fn values(&self) -> Vec<Value> {
        let (http, grpc) = status_codes(self.status);
        vec![
            self.method.as_str().into(),
            (&*self.endpoint).into(),
            Value::Integer(http),
            Value::Integer(grpc),
            self.outcome.as_str().into(),
            self.cause.map(|cause| cause.as_str()).into(),
            self.rejection_reason.map(|reason| reason.as_str()).into(),
            self.status.class().as_str().into(),
            Value::Boolean(self.billable),
        ]
    }
}

impl Dictionaries {
    /// The numbers of these callers and kinds. Registers those that are not cached, in a transaction of their own.
    pub(in crate::backend) async fn numbers<E: Engine>(
        &self,
        engine: &E,
        callers: &[Caller],
        kinds: &[Kind],
    ) -> Result<Numbers, SqlError> {
        for _ in 0..2 {
            let cached = self.cached();
            if let Some(numbers) = cached.numbers(engine, callers, kinds).await? {
                return Ok(numbers);
            }
            self.clear();
        }
        Err(decode("the dictionaries have changed repeatedly"))
    }

    /// Forgets all numbers, which may be from another database.
    pub(in crate::backend) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    fn cached(&self) -> Arc<Cached> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.clone()
    }
}

impl Numbers {
    #[cfg(test)]
    pub(super) fn of<const C: usize, const K: usize>(callers: [i32; C], kinds: [i32; K]) -> Self {
        Self {
            callers: callers.into(),
            kinds: kinds.into(),
            newest: [None; 2],
        }
    }

    /// Appends a condition that the numbers are from this database.
    pub(in crate::backend) fn push_are_valid(&self, sql: &mut Statement, names: &Names) {
        push_are_valid(sql, names, self.newest);
    }
}

fn push_are_valid(sql: &mut Statement, names: &Names, newest: [Option<Newest>; 2]) {
    sql.push("TRUE");
    for Newest { table, id, token } in newest.into_iter().flatten() {
        let exists = format!(" AND EXISTS (SELECT 1 FROM {table} WHERE id = ");
        sql.push_sql(names, &exists).push_bind(i64::from(id));
        sql.push(" AND token = ").push_bind(token).push(")");
    }
}

impl Cached {
    /// `None` if the cached numbers are not those of this database.
    async fn numbers<E: Engine>(
        &self,
        engine: &E,
        callers: &[Caller],
        kinds: &[Kind],
    ) -> Result<Option<Numbers>, SqlError> {
        let today = today();
        let mut known = (self.callers.of(callers, today), self.kinds.of(kinds, today));
        if known.0.contains(&None) || known.1.contains(&None) {
            let names = engine.names();
            let mut session = engine.registrar().await?;
            let mut check = Statement::new(names, "SELECT ");
            push_are_valid(&mut check, names, self.newest());
            check.push(" AS are_valid");
            let rows = session.fetch(check).await?;
            if !required(rows.first())?.boolean("are_valid")? {
                return Ok(None);
            }
            drop(rows);
            let new = (
                register(&mut session, names, callers, &mut known.0, today).await?,
                register(&mut session, names, kinds, &mut known.1, today).await?,
            );
            session.commit().await?;
            self.callers.insert(callers, &known.0, new.0, today);
            self.kinds.insert(kinds, &known.1, new.1, today);
        }
        let all = |numbers: Vec<Option<i32>>| numbers.into_iter().collect::<Option<Vec<i32>>>();
        let numbers = all(known.0).zip(all(known.1));
        let (callers, kinds) = numbers.ok_or(SqlError::RowNotFound)?;
        let newest = self.newest();
        Ok(Some(Numbers {
            callers,
            kinds,
            newest,
        }))
    }

    fn newest(&self) -> [Option<Newest>; 2] {
        [self.callers.newest(), self.kinds.newest()]
    }
}

impl<T: Entry> Dictionary<T> {
    /// The numbers of these entries; `None` for one that is not cached, or whose `last_seen_day` is not today.
    fn of(&self, entries: &[T], today: i64) -> Vec<Option<i32>> {
        let number = |entry| {
            let (number, day) = self.numbers.get(entry)?;
            (day == today).then_some(number)
        };
        entries.iter().map(number).collect()
    }

    /// To be called after the registration was committed.
    fn insert(&self, entries: &[T], numbers: &[Option<i32>], newest: Option<Newest>, today: i64) {
        for (entry, number) in entries.iter().zip(numbers) {
            if let Some(number) = *number {
                self.numbers.insert(entry.clone(), (number, today));
            }
        }
        let mut known = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *known = [*known, newest]
            .into_iter()
            .flatten()
            .max_by_key(|it| it.id);
    }

    fn newest(&self) -> Option<Newest> {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Entry> Default for Dictionary<T> {
    fn default() -> Self {
        let numbers = Cache::with(
            1 << 10,
            MAX_CACHED,
            UnitWeighter,
            RandomState::default(),
            DefaultLifecycle::default(),
        );
        Self {
            numbers,
            newest: Mutex::default(),
        }
    }
}

impl<T> fmt::Debug for Dictionary<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dictionary").finish_non_exhaustive()
    }
}

/// Registers the entries without a number. Returns the newest entry.
async fn register<S: Session, T: Entry>(
    session: &mut S,
    names: &Names,
    entries: &[T],
    numbers: &mut [Option<i32>],
    today: i64,
) -> Result<Option<Newest>, SqlError> {
    let table = T::TABLE;
    let missing: Vec<usize> = numbers
        .iter()
        .enumerate()
        .filter_map(|(index, number)| number.is_none().then_some(index))
        .collect();
    for indexes in missing.chunks(ENTRIES) {
        let hashes: Vec<Hash> = indexes
            .iter()
            .map(|&index| entries[index].digest())
            .collect();
        let mut touch = Statement::new(
            names,
            &format!("UPDATE {table} SET last_seen_day = $1 WHERE last_seen_day < $1 AND hash"),
        )
        .bind(today);
        push_in(&mut touch, &hashes);
        session.execute(touch).await?;
        let mut found = look_up(session, names, table, &hashes).await?;
        let new = indexes.iter().zip(&hashes);
        let new: Vec<_> = new.filter(|(_, hash)| !found.contains_key(*hash)).collect();
        if !new.is_empty() {
            let columns = T::COLUMNS;
            let insert =
                format!("INSERT INTO {table} (hash, last_seen_day, token, {columns}) VALUES ");
            let mut insert = Statement::new(names, &insert);
            for (row, &(&index, hash)) in new.iter().enumerate() {
                insert.push(if row == 0 { "(" } else { ", (" });
                insert.push_bind(Value::Bytes(Some(hash.to_vec())));
                insert.push(", ").push_bind(today);
                insert.push(", ").push_bind(fastrand::i64(..));
                for value in entries[index].values() {
                    insert.push(", ").push_bind(value);
                }
                insert.push(")");
            }
            session.execute(insert).await?;
            found = look_up(session, names, table, &hashes).await?;
        }
        for (&index, hash) in indexes.iter().zip(&hashes) {
            numbers[index] = found.get(hash).copied();
        }
    }
    let newest = format!("SELECT id, token FROM {table} ORDER BY id DESC LIMIT 1");
    let rows = session.fetch(Statement::new(names, &newest)).await?;
    let newest = rows.first().map(|row| {
        Ok(Newest {
            table,
            id: number(row)?,
            token: required(row.integer("token")?)?,
        })
    });
    newest.transpose()
}

async fn look_up<S: Session>(
    session: &mut S,
    names: &Names,
    table: &str,
    hashes: &[Hash],
) -> Result<HashMap<Hash, i32>, SqlError> {
    let mut sql = Statement::new(names, &format!("SELECT hash, id FROM {table} WHERE hash"));
    push_in(&mut sql, hashes);
    let rows = session.fetch(sql).await?;
    let entry = |row: &S::Row| {
        let hash = required(row.bytes("hash")?)?;
        Ok((Hash::try_from(hash).map_err(decode)?, number(row)?))
    };
    rows.iter().map(entry).collect()
}

fn push_in(sql: &mut Statement, hashes: &[Hash]) {
    for (index, hash) in hashes.iter().enumerate() {
        sql.push(if index == 0 { " IN (" } else { ", " });
        sql.push_bind(Value::Bytes(Some(hash.to_vec())));
    }
    sql.push(")");
}

fn number(row: &impl Row) -> Result<i32, SqlError> {
    i32::try_from(required(row.integer("id")?)?).map_err(decode)
}

/// Today, in days since 1970.
fn today() -> i64 {
    day_of(Timestamp::now())
}

/// The day of a time, in days since 1970.
pub(super) fn day_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(86_400)
}
