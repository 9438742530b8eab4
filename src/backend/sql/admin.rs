//! Key administration.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Error as SqlError;

use super::backend::SqlBackend;
use super::changed::Changed;
use super::engine::{Engine, Session, Statement};
use super::value::text;
use super::{audit, keys, owners};
use crate::id::KeyId;
use crate::key::{
    Actor, AuditEntry, AuditQuery, EncryptedSecret, InvalidationFeed, Key, KeyChange, KeyQuery,
    KeyRecord, Owner, Rotation, StoreError,
};
use crate::page::Page;
use crate::text::contains_ignoring_case;

/// The time in which SQLite parses numbered parameters grows with the square of their number.
const ROWS_PER_STATEMENT: usize = 32;

/// A transaction that changes keys, owners or plans.
pub(super) struct Change<'a, E: Engine> {
    pub(super) backend: &'a SqlBackend<E>,
    session: E::Session,
}

impl<E: Engine> SqlBackend<E> {
    pub(in crate::backend) async fn find(
        &self,
        id: KeyId,
    ) -> Result<Option<KeyRecord>, StoreError> {
        self.engine.before_lookup(&self.changes);
        let record = async {
            let mut session = self.engine.reader().await?;
            let rows = session.fetch(keys::look_up(self.names(), id)).await?;
            rows.first().map(keys::record_with_policy).transpose()
        };
        record.await.map_err(StoreError::unavailable)
    }

    pub(in crate::backend) async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        // Stored texts never contain U+0000, which PostgreSQL rejects.
        let nul = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains('\0'));
        let owners = match &query.owner_contains {
            Some(part) => Some(self.owners(part, usize::MAX).await?),
            None => None,
        };
        let statement = keys::list(self.names(), query, owners.as_deref())?;
        if [&query.owner, &query.plan, &query.name, &query.search]
            .into_iter()
            .any(nul)
        {
            return Ok(Page::empty());
        }
        let keys = async {
            let rows = self.engine.reader().await?.fetch(statement).await?;
            let records = rows.iter().map(keys::record_of);
            records
                .map(|record| record.map(|record| record.key))
                .collect::<Result<_, SqlError>>()
        };
        let keys = keys.await.map_err(StoreError::unavailable)?;
        Ok(Page::from_surplus(
            keys,
            query.page.size(),
            KeyQuery::page_token,
        ))
    }

    pub(in crate::backend) async fn owners(
        &self,
        contains: &str,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let read = match contains {
            "" => i64::try_from(limit).unwrap_or(i64::MAX),
            // The databases disagree about upper and lower case.
            _ => i64::MAX,
        };
        let owners = async {
            let statement = keys::owners(self.names(), read);
            let rows = self.engine.reader().await?.fetch(statement).await?;
            let owners = rows.iter().map(|row| text(row, "owner"));
            let owners = owners.filter(|owner| match owner {
                Ok(owner) => contains_ignoring_case(owner, contains),
                Err(_) => true,
            });
            owners.take(limit).collect::<Result<_, SqlError>>()
        };
        owners.await.map_err(StoreError::unavailable)
    }

    pub(in crate::backend) async fn create(
        &self,
        record: KeyRecord,
        actor: Actor<'_>,
    ) -> Result<(), StoreError> {
        let id = record.key.id;
        let existing = self.create_all(vec![record], actor).await?;
        match existing.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Conflict(id)),
        }
    }

    pub(in crate::backend) async fn create_all(
        &self,
        records: Vec<KeyRecord>,
        actor: Actor<'_>,
    ) -> Result<Vec<KeyId>, StoreError> {
        records.iter().try_for_each(KeyRecord::validate)?;
        let mut ids = HashSet::new();
        let (records, repeated): (Vec<_>, Vec<_>) = records
            .into_iter()
            .map(KeyRecord::in_whole_micros)
            .partition(|record| ids.insert(record.key.id));
        let mut change = self.begin().await?;
        let new = records.iter().map(|record| &record.key);
        let plans = new.clone().filter_map(|key| key.plan.as_ref());
        change
            .add_owners(new.filter_map(|key| key.owner.as_ref()))
            .await?;
        for plan in plans.collect::<BTreeSet<_>>() {
            change.require_plan(plan).await?;
        }
        let mut created = Vec::new();
        let mut existing: Vec<_> = repeated.iter().map(|record| record.key.id).collect();
        for records in records.chunks(ROWS_PER_STATEMENT) {
            let inserted = change.insert(records).await?;
            let ids = records.iter().map(|record| record.key.id);
            existing.extend(ids.filter(|id| !inserted.contains(id)));
            let now = Timestamp::now();
            let new = records.iter().map(|record| &record.key);
            let new = new.filter(|key| inserted.contains(&key.id));
            let entries = new.map(|key| AuditEntry::created(actor, key.clone(), now));
            change.record_audit(&entries.collect::<Vec<_>>()).await?;
            created.extend(inserted.into_iter().map(Changed::Key));
        }
        change.commit(created).await?;
        Ok(existing)
    }

    pub(in crate::backend) async fn change(
        &self,
        id: KeyId,
        what: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let mut change = self.begin().await?;
        let mut record = change.lock(id).await?;
        let before = record.key.clone();
        record.apply(&what)?;
        change.add_owners(&record.key.owner).await?;
        if let Some(plan) = &record.key.plan
            && before.plan != record.key.plan
        {
            change.require_plan(plan).await?;
        }
        change.update(&record).await?;
        let (now, key) = (Timestamp::now(), record.key.clone());
        let entry = AuditEntry::changed(actor, &what, before, key, now);
        change.record_audit(&[entry]).await?;
        change.commit(vec![Changed::Key(id)]).await?;
        Ok(record.key)
    }

    pub(in crate::backend) async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let mut change = self.begin().await?;
        let mut old = change.lock(id).await?;
        if let Some(new) = old.key.replaced_by
            && change.find(new).await?.is_none()
        {
            old.key.replaced_by = None;
        }
        let before = old.key.clone();
        let new = old.rotate(&rotation)?;
        change.add_owners(&new.key.owner).await?;
        if change.insert(std::slice::from_ref(&new)).await?.is_empty() {
            return Err(StoreError::Conflict(new.key.id));
        }
        change.update(&old).await?;
        let now = Timestamp::now();
        let entries = AuditEntry::rotated(actor, before, old.key, new.key.clone(), now);
        change.record_audit(&entries).await?;
        let changed = [id, new.key.id].map(Changed::Key);
        change.commit(changed.into()).await?;
        Ok(new.key)
    }

    pub(in crate::backend) async fn delete(
        &self,
        id: KeyId,
        actor: Actor<'_>,
    ) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let record = change.lock(id).await?;
        change.run(keys::delete(self.names(), id)).await?;
        let now = Timestamp::now();
        change
            .record_audit(&[AuditEntry::deleted(actor, record.key, now)])
            .await?;
        change.commit(vec![Changed::Key(id)]).await
    }

    pub(in crate::backend) async fn reveal(
        &self,
        id: KeyId,
        actor: Actor<'_>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let mut change = self.begin().await?;
        let mut record = change.lock(id).await?;
        record.encrypted_secret = change.encrypted_secret(id).await?;
        if record.encrypted_secret.is_none() {
            return Ok(None);
        }
        let (now, key) = (Timestamp::now(), record.key.clone());
        change
            .record_audit(&[AuditEntry::revealed(actor, key, now)])
            .await?;
        // The key is unchanged, so caches need no invalidation.
        change.commit(Vec::new()).await?;
        Ok(Some(record))
    }

    pub(in crate::backend) async fn audit_entries(
        &self,
        query: &AuditQuery,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let statement = audit::page(self.names(), query)?;
        let nul = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains('\0'));
        if [&query.actor, &query.owner, &query.plan]
            .into_iter()
            .any(nul)
        {
            return Ok(Page::empty());
        }
        let entries = async {
            let rows = self.engine.reader().await?.fetch(statement).await?;
            rows.iter()
                .map(audit::entry_of)
                .collect::<Result<_, SqlError>>()
        };
        let entries = entries.await.map_err(StoreError::unavailable)?;
        Ok(Page::from_surplus(
            entries,
            query.page.size(),
            AuditQuery::page_token,
        ))
    }

    pub(super) async fn begin(&self) -> Result<Change<'_, E>, StoreError> {
        let session = self.engine.writer().await;
        Ok(Change {
            backend: self,
            session: session.map_err(StoreError::unavailable)?,
        })
    }
}

impl<E: Engine> Change<'_, E> {
    /// Reads the record of a key and locks it until the transaction ends.
    async fn lock(&mut self, id: KeyId) -> Result<KeyRecord, StoreError> {
        let record = self.read(keys::lock_key(self.backend.names(), id)).await?;
        record.ok_or(StoreError::NotFound(id))
    }

    async fn find(&mut self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.read(keys::find(self.backend.names(), id)).await
    }

    async fn read(&mut self, statement: Statement) -> Result<Option<KeyRecord>, StoreError> {
        let record = async {
            let rows = self.session.fetch(statement).await?;
            rows.first().map(keys::record_of).transpose()
        };
        record.await.map_err(StoreError::unavailable)
    }

    async fn encrypted_secret(&mut self, id: KeyId) -> Result<Option<EncryptedSecret>, StoreError> {
        let secret = async {
            let statement = keys::encrypted_secret(self.backend.names(), id);
            let rows = self.session.fetch(statement).await?;
            Ok(rows
                .first()
                .map(keys::encrypted_secret_of)
                .transpose()?
                .flatten())
        };
        secret
            .await
            .map_err(|error: SqlError| StoreError::unavailable(error))
    }

    /// Inserts the records whose ids do not exist, and returns these ids.
    async fn insert(&mut self, records: &[KeyRecord]) -> Result<HashSet<KeyId>, StoreError> {
        let inserted = async {
            let insert = keys::insert(self.backend.names(), records);
            let rows = self.session.fetch(insert).await?;
            let ids: Result<_, SqlError> = rows.iter().map(keys::id_of).collect();
            ids
        };
        inserted.await.map_err(StoreError::unavailable)
    }

    async fn update(&mut self, record: &KeyRecord) -> Result<(), StoreError> {
        self.run(keys::update(self.backend.names(), record)).await?;
        Ok(())
    }

    pub(super) async fn record_audit(&mut self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        if !entries.is_empty() {
            self.run(audit::insert(self.backend.names(), entries))
                .await?;
        }
        Ok(())
    }

    pub(super) async fn run(&mut self, statement: Statement) -> Result<u64, StoreError> {
        let rows = self.session.execute(statement).await;
        rows.map_err(StoreError::unavailable)
    }

    /// Reads rows.
    pub(super) async fn fetch<T>(
        &mut self,
        statement: Statement,
        decode: impl Fn(&<E::Session as Session>::Row) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.session.fetch(statement).await;
        let rows = rows.and_then(|rows| rows.iter().map(decode).collect());
        rows.map_err(StoreError::unavailable)
    }

    /// Creates the owners that do not exist.
    async fn add_owners<'o>(
        &mut self,
        owners: impl IntoIterator<Item = &'o Arc<str>>,
    ) -> Result<(), StoreError> {
        // In the same order in all transactions, so that they do not wait for each other.
        let ids: BTreeSet<_> = owners.into_iter().cloned().collect();
        let now = Timestamp::now();
        let owners: Vec<_> = ids.into_iter().map(|id| Owner::new(id, now)).collect();
        for owners in owners.chunks(ROWS_PER_STATEMENT) {
            self.run(owners::insert(self.backend.names(), owners))
                .await?;
        }
        Ok(())
    }

    /// Checks that a plan exists, and prevents its deletion until the end of the transaction.
    pub(super) async fn require_plan(&mut self, plan: &Arc<str>) -> Result<(), StoreError> {
        let share = owners::share_plan(self.backend.names(), plan);
        match self.fetch(share, |_| Ok(())).await?.is_empty() {
            true => Err(StoreError::PlanNotFound(plan.clone())),
            false => Ok(()),
        }
    }

    /// Commits and announces what was changed, even if the caller is cancelled.
    pub(super) async fn commit(mut self, changed: Vec<Changed>) -> Result<(), StoreError> {
        for changed in changed.chunks(500) {
            let engine = &self.backend.engine;
            let announced = engine.announce(&mut self.session, changed).await;
            announced.map_err(StoreError::unavailable)?;
        }
        let announce = Announce(self.backend.changes.clone(), changed);
        let session = self.session;
        // In its own task: the caller may be cancelled during the commit, and caches must be invalidated after it,
        // not before.
        let committing = tokio::spawn(async move {
            let _announce = announce;
            session.commit().await
        });
        match committing.await {
            Ok(committed) => committed.map_err(StoreError::unavailable),
            Err(cancelled) => Err(StoreError::unavailable(cancelled)),
        }
    }
}

/// Invalidates what was changed in the caches of this process when dropped. Also after a failed commit, which may have
/// taken effect.
struct Announce(InvalidationFeed, Vec<Changed>);

impl Drop for Announce {
    fn drop(&mut self) {
        for changed in &self.1 {
            changed.publish(&self.0);
        }
    }
}
