//! Keys and usage in any database.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use super::engine::{Engine, Row, Session, Statement};
use super::names::Names;
use super::value::there;
use super::{audit, keys, log, sums};
use crate::id::KeyId;
use crate::key::{
    AuditEntry, AuditQuery, ChangeFeed, Key, KeyChange, KeyQuery, KeyRecord, Rotation, StoreError,
};
use crate::page::Page;
use crate::usage::{
    Count, KeepLog, LogFilter, LogQuery, ReadError, Rollup, Summary, SummaryQuery, UsageEvent,
    UsageRange,
};

/// A database, and what all clones of a backend share.
#[derive(Debug)]
pub(in crate::backend) struct SqlBackend<E> {
    pub(in crate::backend) engine: Arc<E>,
    pub(in crate::backend) changes: ChangeFeed,
    pub(in crate::backend) keep: KeepLog,
    actor: Option<Arc<str>>,
}

impl<E> Clone for SqlBackend<E> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            changes: self.changes.clone(),
            keep: self.keep.clone(),
            actor: self.actor.clone(),
        }
    }
}

/// A key that is being changed: the transaction, and what it does so far.
struct Change<'a, E: Engine> {
    backend: &'a SqlBackend<E>,
    session: E::Session,
}

impl<E: Engine> SqlBackend<E> {
    pub(in crate::backend) fn new(engine: E) -> Self {
        Self {
            engine: Arc::new(engine),
            changes: ChangeFeed::new(),
            keep: KeepLog::All,
            actor: None,
        }
    }

    fn names(&self) -> &Names {
        self.engine.names()
    }

    pub(in crate::backend) fn acting_as(&self, actor: &str) -> Self {
        Self {
            actor: AuditEntry::actor_of(actor).map(Into::into),
            ..self.clone()
        }
    }

    // --- Keys ---------------------------------------------------------------------------------

    pub(in crate::backend) async fn find(
        &self,
        id: KeyId,
    ) -> Result<Option<KeyRecord>, StoreError> {
        self.engine.about_to_look_up(&self.changes);
        let found = async {
            let mut session = self.engine.reader().await?;
            let rows = session.rows(keys::find(self.names(), id)).await?;
            rows.first().map(keys::record_of).transpose()
        };
        found.await.map_err(StoreError::unavailable)
    }

    pub(in crate::backend) async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let nul = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains('\0'));
        let statement = keys::list(self.names(), query)?;
        if nul(&query.owner) || nul(&query.name) {
            return Ok(nothing());
        }
        let listed = async {
            let rows = self.engine.reader().await?.rows(statement).await?;
            let records = rows.iter().map(keys::record_of);
            records
                .map(|record| record.map(|record| record.key))
                .collect::<Result<_, SqlError>>()
        };
        let keys = listed.await.map_err(StoreError::unavailable)?;
        Ok(Page::from_surplus(keys, query.page_size(), KeyQuery::place))
    }

    pub(in crate::backend) async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
        record.key.validate()?;
        let record = record.in_whole_micros();
        let mut change = self.begin().await?;
        change.insert(&record).await?;
        let (actor, now) = (self.actor.as_deref(), Timestamp::now());
        let (id, key) = (record.key.id, record.key);
        change.note(AuditEntry::created(actor, key, now)).await?;
        change.commit(&[id]).await
    }

    pub(in crate::backend) async fn change(
        &self,
        id: KeyId,
        what: KeyChange,
    ) -> Result<Key, StoreError> {
        let mut change = self.begin().await?;
        let mut record = change.hold(id).await?;
        let before = record.key.clone();
        record.apply(&what)?;
        change.update(&record).await?;
        let (actor, now, key) = (self.actor.as_deref(), Timestamp::now(), record.key.clone());
        let entry = AuditEntry::changed(actor, &what, before, key, now);
        change.note(entry).await?;
        change.commit(&[id]).await?;
        Ok(record.key)
    }

    pub(in crate::backend) async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
    ) -> Result<Key, StoreError> {
        let mut change = self.begin().await?;
        let mut old = change.hold(id).await?;
        let before = old.key.clone();
        let new = old.rotate(&rotation)?;
        change.insert(&new).await?;
        change.update(&old).await?;
        let (actor, now) = (self.actor.as_deref(), Timestamp::now());
        for entry in AuditEntry::rotated(actor, before, old.key, new.key.clone(), now) {
            change.note(entry).await?;
        }
        change.commit(&[id, new.key.id]).await?;
        Ok(new.key)
    }

    pub(in crate::backend) async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let record = change.hold(id).await?;
        change.run(keys::delete(self.names(), id)).await?;
        let (actor, now) = (self.actor.as_deref(), Timestamp::now());
        change
            .note(AuditEntry::deleted(actor, record.key, now))
            .await?;
        change.commit(&[id]).await
    }

    pub(in crate::backend) async fn audit(
        &self,
        query: &AuditQuery,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let statement = audit::page(self.names(), query)?;
        if query
            .actor
            .as_deref()
            .is_some_and(|actor| actor.contains('\0'))
        {
            return Ok(nothing());
        }
        let listed = async {
            let rows = self.engine.reader().await?.rows(statement).await?;
            rows.iter()
                .map(audit::entry_of)
                .collect::<Result<_, SqlError>>()
        };
        let entries = listed.await.map_err(StoreError::unavailable)?;
        Ok(Page::from_surplus(
            entries,
            query.page_size(),
            AuditQuery::place,
        ))
    }

    async fn begin(&self) -> Result<Change<'_, E>, StoreError> {
        let session = self.engine.writer().await;
        Ok(Change {
            backend: self,
            session: session.map_err(StoreError::unavailable)?,
        })
    }

    // --- Usage --------------------------------------------------------------------------------

    pub(in crate::backend) async fn requests(
        &self,
        query: &LogQuery,
    ) -> Result<Page<UsageEvent>, ReadError> {
        // A token of another list is refused whatever else is asked.
        let by_time = log::page(self.names(), query, None)?;
        if log::matches_nothing(&query.filter) {
            return Ok(nothing());
        }
        let mut session = self.engine.reader().await.map_err(ReadError::unavailable)?;
        let statement = match log::picks_series(&query.filter) {
            false => by_time,
            true => {
                let count = log::count_series(self.names(), &query.filter);
                let matching = self.counted(&mut session, count).await?;
                log::page(self.names(), query, Some(matching))?
            }
        };
        let rows = session.rows(statement).await;
        let rows = rows.map_err(ReadError::unavailable)?;
        let events = rows.iter().map(log::event_of).collect::<Result<_, _>>();
        let events = events.map_err(ReadError::unavailable)?;
        Ok(Page::from_surplus(
            events,
            query.page_size(),
            LogQuery::place,
        ))
    }

    pub(in crate::backend) async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        if log::matches_nothing(filter) {
            return Ok(Count::Exactly(0));
        }
        let mut session = self.engine.reader().await.map_err(ReadError::unavailable)?;
        let count = log::count(self.names(), filter);
        let count = self.counted(&mut session, count).await?.cast_unsigned();
        Ok(if count > log::MOST_COUNTED {
            Count::MoreThan(log::MOST_COUNTED)
        } else {
            Count::Exactly(count)
        })
    }

    async fn counted(
        &self,
        session: &mut E::Session,
        statement: Statement,
    ) -> Result<i64, ReadError> {
        let counted = async {
            let rows = session.rows(statement).await?;
            let row = there(rows.first())?;
            there(row.integer("count")?)
        };
        counted.await.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn summary(
        &self,
        query: &SummaryQuery,
    ) -> Result<Summary, ReadError> {
        let summary = sums::summary(&*self.engine, &query.range, &query.spec).await;
        summary.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn rollups(
        &self,
        range: &UsageRange,
    ) -> Result<Vec<Rollup>, ReadError> {
        let rollups = sums::each(&*self.engine, range).await;
        rollups.map_err(ReadError::unavailable)
    }
}

fn nothing<T>() -> Page<T> {
    Page {
        items: Vec::new(),
        next: None,
    }
}

impl<E: Engine> Change<'_, E> {
    /// The key's record, held until the transaction ends.
    async fn hold(&mut self, id: KeyId) -> Result<KeyRecord, StoreError> {
        let found = async {
            let statement = keys::hold(self.backend.names(), id);
            let rows = self.session.rows(statement).await?;
            rows.first().map(keys::record_of).transpose()
        };
        let found = found.await.map_err(StoreError::unavailable)?;
        found.ok_or(StoreError::NotFound(id))
    }

    async fn insert(&mut self, record: &KeyRecord) -> Result<(), StoreError> {
        let added = self.run(keys::insert(self.backend.names(), record)).await?;
        if added == 0 {
            return Err(StoreError::Conflict(record.key.id));
        }
        Ok(())
    }

    async fn update(&mut self, record: &KeyRecord) -> Result<(), StoreError> {
        self.run(keys::update(self.backend.names(), record)).await?;
        Ok(())
    }

    async fn note(&mut self, entry: AuditEntry) -> Result<(), StoreError> {
        self.run(audit::insert(self.backend.names(), &entry))
            .await?;
        Ok(())
    }

    async fn run(&mut self, statement: Statement) -> Result<u64, StoreError> {
        let written = self.session.run(statement).await;
        written.map_err(StoreError::unavailable)
    }

    /// Ends the transaction and tells of the keys.
    async fn commit(mut self, ids: &[KeyId]) -> Result<(), StoreError> {
        let told = async {
            for &id in ids {
                let engine = &self.backend.engine;
                engine.announce(&mut self.session, id).await?;
            }
            Ok::<_, SqlError>(())
        };
        told.await.map_err(StoreError::unavailable)?;
        let committed = self.session.commit().await;
        // Also when that fails: whether it took place cannot be told.
        for &id in ids {
            self.backend.changes.announce(id);
        }
        committed.map_err(StoreError::unavailable)
    }
}

/// Implements the traits of keys and of reading usage for a backend that holds a [`SqlBackend`].
macro_rules! keep_in_sql {
    ($backend:ident) => {
        #[async_trait]
        impl KeyStore for $backend {
            async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
                self.0.find(id).await
            }

            fn changes(&self) -> Option<&ChangeFeed> {
                Some(&self.0.changes)
            }
        }

        #[async_trait]
        impl KeyAdmin for $backend {
            async fn create(&self, record: KeyRecord) -> Result<(), StoreError> {
                self.0.create(record).await
            }

            async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
                self.0.list(query).await
            }

            async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
                self.0.change(id, change).await
            }

            async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
                self.0.rotate(id, rotation).await
            }

            async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
                self.0.delete(id).await
            }

            async fn audit(
                &self,
                query: &AuditQuery,
            ) -> Result<Option<Page<AuditEntry>>, StoreError> {
                self.0.audit(query).await.map(Some)
            }

            fn acting_as(&self, actor: &str) -> Option<Arc<dyn KeyAdmin>> {
                Some(Arc::new(Self(self.0.acting_as(actor))))
            }
        }

        #[async_trait]
        impl UsageReader for $backend {
            async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
                self.0.summary(query).await
            }

            async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
                self.0.rollups(range).await
            }

            async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
                self.0.requests(query).await
            }

            async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
                self.0.count(filter).await
            }
        }
    };
}

pub(in crate::backend) use keep_in_sql;
