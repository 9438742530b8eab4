//! A backend that violates a single rule of the conformance suites.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keytally::async_trait;
use keytally::backend::MemoryBackend;
use keytally::key::{
    Actor, AuditAction, AuditEntry, AuditLog, AuditQuery, EncryptedSecret, InvalidKey,
    InvalidationFeed, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, KeyUpdate, Owner,
    OwnerAdmin, OwnerChange, OwnerQuery, Plan, Rotation, StoreError,
};
use keytally::usage::{
    Batch, Count, LogCursor, LogFilter, LogQuery, ReadError, RecordedPage, RecordedQuery, Rollup,
    SinkError, Summary, SummaryQuery, Totals, UsageEvent, UsageRange, UsageReader, UsageSink,
};
use keytally::{KeyId, Page};

/// Declares the faults, each with the rule it violates.
macro_rules! faults {
    ($($name:ident => $rule:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub(crate) enum Fault { $($name,)* }

        impl Fault {
            pub(crate) const ALL: [(Self, &str); [$($rule),*].len()] = [$((Self::$name, $rule)),*];
        }
    };
}

faults! {
    LookupOfUnknownKeyFails => "a key lookup succeeds",
    LookupIgnoresCase => "ids are compared exactly",
    LosesDigest => "a key is found by its id, with all its fields",
    KeepsNanoseconds => "times are truncated to whole microseconds",
    AcceptsInvalidMetadata => "an invalid key is not created",
    CreateOverwrites => "creating never overwrites a key",
    CreateIsRacy => "exactly one succeeds",
    TrimsNames => "every string is kept unchanged",
    ListRepeatsKeys => "a list is ordered",
    ListSkipsKeys => "neither skip nor repeat keys",
    NameFilterIsCaseSensitive => "a list agrees with KeyQuery::matches",
    SearchIgnoresHints => "a list agrees with KeyQuery::matches",
    OwnerFilterIsCaseSensitive => "a list agrees with KeyQuery::matches",
    OwnersAreCaseSensitive => "owners that contain",
    OwnersAreLimitedFirst => "owners that contain",
    IgnoresIdFilter => "a list agrees with KeyQuery::matches",
    IgnoresExpiryFilter => "a list agrees with KeyQuery::matches",
    IgnoresImportedFilter => "a list agrees with KeyQuery::matches",
    TreatsNewKeysAsUnused => "a list agrees with KeyQuery::matches",
    ListOrderedByIdOnly => "a list is ordered",
    AcceptsForeignKeyPageToken => "a page token of another list fails with StoreError::Page",
    UpdateIsNotAtomic => "a rejected update changes nothing",
    LosesUpdates => "concurrent changes do not overwrite each other",
    AcceptsOutOfRangeRevocation => "a revocation at an out-of-range time is rejected",
    OverwritesRevocationTime => "the first revocation time is kept",
    ChangeOfUnknownKeySucceeds => "changing an unknown id fails with StoreError::NotFound",
    LosesLineage => "rotations keep the lineage of the first key",
    RotationKeepsOldKey => "the old key expires at the end of the grace period",
    RotatesReplacedKeys => "a key that has been replaced cannot be rotated",
    RotationIsNotAtomic => "a rotation is atomic",
    DeleteKeepsKey => "a deleted key is not found",
    DeleteOfUnknownKeySucceeds => "deleting an unknown id fails with StoreError::NotFound",
    NoInvalidations => "creating a key publishes an invalidation",
    LosesActor => "an entry names the actor of the change",
    AuditsFailedChanges => "a failed change has no audit entry",
    AuditOmitsNoOpChanges => "every change has exactly one entry",
    AuditOmitsDeletedKeys => "entries outlive their key",
    AuditLosesBefore => "an entry holds the key as it was before the change",
    AuditAfterEqualsBefore => "an entry holds the key as it was after the change",
    IgnoresActorFilter => "an audit query returns only matching entries",
    AuditOmitsLastEntry => "the audit log agrees with AuditQuery::matches",
    AuditSkipsEntries => "neither skip nor repeat entries",
    AuditOldestFirst => "the audit log is ordered",
    AcceptsForeignAuditPageToken => "a page token of another list fails with StoreError::Page, in the audit log too",
    LosesEncryptedSecrets => "an encrypted secret is kept byte for byte and revealed, or its key is rejected",
    TruncatesEncryptedSecrets => "an encrypted secret is kept byte for byte",
    LookupReturnsEncryptedSecrets => "looked up without its encrypted secret",
    AcceptsRecoverableWithoutSecret => "a key is recoverable if and only if it has an encrypted secret",
    KeepsSecretsOfRevokedKeys => "revoking a key removes its encrypted secret",
    SuccessorsAlwaysRecoverable => "a successor is recoverable only if its predecessor is",
    RevealOfUnknownKeySucceeds => "revealing an unknown id fails with StoreError::NotFound",
    RevealIsNotAudited => "every reveal of a secret has exactly one audit entry",
    AuditsEmptyReveals => "a reveal that returns nothing has no audit entry",
    CreateAllStopsAtExistingKeys => "an import reports imported",
    CreateAllOverwrites => "a repeated import changes nothing",
    ForgetsOwners => "an owner exists, active and without plan and limits, once a key has named it",
    KeysResetOwners => "further keys do not change their owner",
    OwnersIgnoreCase => "ids of owners are compared exactly, including case",
    LosesOwnerChanges => "a change of an owner agrees with Owner::apply",
    OwnerListIgnoresPlan => "a list of owners agrees with OwnerQuery::matches",
    OwnerListIsCaseSensitive => "a list of owners agrees with OwnerQuery::matches",
    OwnerListSkipsOwners => "a list of owners agrees with OwnerQuery::matches",
    ReplacedPlansAreNew => "replacing a plan replaces all fields except the creation time",
    PlansAreNotSorted => "plans are listed once, sorted by name",
    LookupOmitsPolicy => "a lookup resolves the limits of a key by its plan",
    LookupOmitsSuspension => "a lookup tells that the owner is suspended",
    IgnoresPlanFilter => "a list of keys by plan has the keys that name it",
    DeletesUsedPlans => "a plan that a key has is not deleted",
    AcceptsUnknownPlans => "an unknown plan is rejected with StoreError::PlanNotFound",
    SuspensionIsNotAudited => "every change of an owner or a plan has exactly one entry",
    CountsTwice => "a batch written twice counts once",
    RecordedOmitsLateEvents => "a batch follows all batches written before",
    RecordedSkipsEvents => "neither skip nor repeat recorded events",
    RecordedRepeatsEvents => "a batch follows all batches written before",
    RecordedIgnoresFilter => "recorded events agree with LogFilter::matches",
    RecordedSkipsUnderConcurrency => "a poller reads every event exactly once while several writers are active",
    TruncatesLargeBatches => "a batch of thousands of events is written completely",
    LosesClientIps => "the log holds each event as it was written",
    IgnoresCauseFilter => "a log query returns only matching events",
    IgnoresPartOfOwner => "a log query returns only matching events",
    LogSkipsEvents => "the log agrees with LogFilter::matches",
    IgnoresEventIds => "an event is found by its own id",
    CountIgnoresStatusClass => "a count agrees with LogFilter::matches",
    AcceptsForeignLogPageToken => "a page token of another list fails with ReadError::Page",
    SummaryIgnoresEnd => "a summary equals SummarySpec::summarize",
    TotalsByKeyIgnoreEnd => "totals by key equal those computed from the events",
    SummaryMixesOwners => "a summary equals SummarySpec::summarize",
    LosesLatencyOverTime => "a summary equals SummarySpec::summarize over the events",
    RevisionStays => "the revision changes when a batch is written",
    SummaryIgnoresOwner => "a summary equals SummarySpec::summarize",
    TotalsWrapAround => "sums saturate at 2⁶³ − 1",
    ReplacesInvalidCharacters => "text and numbers are stored as they are in the batch",
    MixesRollups => "rollups add up to the events",
    LosesRejectedSince => "first_accepted_at, last_accepted_at and rejected_since are those of the events written so far",
    LosesLastAccepted => "first_accepted_at, last_accepted_at and rejected_since are those of the events written so far",
}

pub(crate) struct Faulty {
    inner: MemoryBackend,
    fault: Option<Fault>,
    silent: InvalidationFeed,
}

impl Faulty {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        Self {
            inner: MemoryBackend::new(),
            fault,
            silent: InvalidationFeed::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Replaces a record, neither validated nor atomic.
    async fn put(&self, record: KeyRecord) -> Result<(), StoreError> {
        self.inner.delete(record.key.id, Actor::SYSTEM).await.ok();
        self.inner.create(record, Actor::SYSTEM).await
    }
}

#[async_trait]
impl KeyStore for Faulty {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let mut result = self.inner.find(id).await?;
        if self.has(Fault::LookupIgnoresCase) && result.is_none() {
            let swap = |c: char| match c.is_ascii_lowercase() {
                true => c.to_ascii_uppercase(),
                false => c.to_ascii_lowercase(),
            };
            let swapped: String = id.as_str().chars().map(swap).collect();
            result = self.inner.find(swapped.parse().unwrap()).await?;
        }
        if let Some(record) = &mut result {
            if self.has(Fault::LookupOmitsPolicy) {
                record.policy.key_limits.clear();
            }
            if self.has(Fault::LookupOmitsSuspension) {
                record.policy.is_owner_suspended = false;
            }
            if self.has(Fault::LosesDigest) {
                record.digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
            }
            if self.has(Fault::KeepsNanoseconds) && record.key.name == "Nanoseconds" {
                record.key.created_at += jiff::SignedDuration::from_nanos(1);
            }
            if self.has(Fault::LookupReturnsEncryptedSecrets) && record.key.recoverable {
                record.encrypted_secret = Some(EncryptedSecret::from_bytes([1]));
            }
            if self.has(Fault::LosesRejectedSince) && record.key.name == "Used" {
                record.key.rejected_since = 0;
            }
            if self.has(Fault::LosesLastAccepted) && record.key.name == "Used" {
                record.key.last_accepted_at = None;
            }
        } else if self.has(Fault::LookupOfUnknownKeyFails) {
            return Err(StoreError::NotFound(id));
        }
        Ok(result)
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        match self.fault {
            Some(Fault::NoInvalidations) => Some(&self.silent),
            _ => self.inner.invalidations(),
        }
    }
}

#[async_trait]
impl KeyAdmin for Faulty {
    async fn create(&self, mut record: KeyRecord, actor: Actor<'_>) -> Result<(), StoreError> {
        match self.fault {
            Some(Fault::CreateOverwrites) => return self.put(record).await,
            Some(Fault::CreateIsRacy) => {
                let id = record.key.id;
                if self.inner.find(id).await?.is_some() {
                    return Err(StoreError::Conflict(id));
                }
                tokio::task::yield_now().await;
                record.key.validate()?;
                return self.put(record).await;
            }
            Some(Fault::AcceptsInvalidMetadata)
                if record.key.validate() == Err(InvalidKey::MetadataDepth) =>
            {
                record.key.metadata.clear();
            }
            Some(Fault::LosesEncryptedSecrets) if record.validate().is_ok() => {
                record.key.recoverable = false;
                record.encrypted_secret = None;
            }
            Some(Fault::AcceptsRecoverableWithoutSecret)
                if record.key.recoverable && record.encrypted_secret.is_none() =>
            {
                record.key.recoverable = false;
            }
            Some(Fault::AcceptsUnknownPlans) if record.key.name == "Unplanned" => {
                record.key.plan = None;
            }
            Some(Fault::TrimsNames) => record.key.name = record.key.name.trim().into(),
            _ => {}
        }
        self.inner.create(record, actor).await
    }

    async fn create_all(
        &self,
        records: Vec<KeyRecord>,
        actor: Actor<'_>,
    ) -> Result<Vec<KeyId>, StoreError> {
        let mut existing = Vec::new();
        for record in records {
            let id = record.key.id;
            let is_new = self.inner.find(id).await?.is_none();
            match self.fault {
                Some(Fault::CreateAllOverwrites) if !is_new => {
                    self.put(record).await?;
                    existing.push(id);
                }
                Some(Fault::CreateAllStopsAtExistingKeys) if !is_new => break,
                _ if is_new => self.create(record, actor).await?,
                _ => existing.push(id),
            }
        }
        Ok(existing)
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let mut query = query.clone();
        if self.has(Fault::AcceptsForeignKeyPageToken)
            && query
                .page
                .after
                .as_ref()
                .is_some_and(|place| place.id::<KeyId>().is_err())
        {
            query.page.after = None;
        }
        if self.has(Fault::ListRepeatsKeys) {
            query.page.after = None;
        }
        if self.has(Fault::IgnoresIdFilter) {
            query.ids = None;
        }
        if self.has(Fault::IgnoresExpiryFilter) {
            query.expires_before = None;
        }
        if self.has(Fault::IgnoresImportedFilter) {
            query.imported = None;
        }
        if self.has(Fault::IgnoresPlanFilter) {
            query.plan = None;
        }
        let mut unused_since = None;
        if self.has(Fault::TreatsNewKeysAsUnused) {
            unused_since = query.unused_since.take();
        }
        let later = query.page.after.is_some();
        let mut page = self.inner.list(&query).await?;
        match self.fault {
            Some(Fault::ListSkipsKeys) if later && page.items.len() > 1 => {
                drop(page.items.remove(0))
            }
            Some(Fault::NameFilterIsCaseSensitive) => {
                if let Some(part) = &query.name {
                    page.items.retain(|key| key.name.contains(part));
                }
            }
            Some(Fault::SearchIgnoresHints) => {
                if let Some(text) = &query.search {
                    let text = text.to_lowercase();
                    page.items
                        .retain(|key| key.name.to_lowercase().contains(&text));
                }
            }
            Some(Fault::OwnerFilterIsCaseSensitive) => {
                if let Some(part) = &query.owner_contains {
                    page.items
                        .retain(|key| key.owner.as_deref().is_some_and(|it| it.contains(part)));
                }
            }
            Some(Fault::TreatsNewKeysAsUnused) => {
                let used =
                    |key: &Key| unused_since.is_some_and(|time| key.last_accepted_at >= Some(time));
                page.items.retain(|key| !used(key));
            }
            Some(Fault::ListOrderedByIdOnly) => page.items.sort_by_key(|key| key.id),
            _ => {}
        }
        Ok(page)
    }

    async fn owners(&self, contains: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        match self.fault {
            Some(Fault::OwnersAreCaseSensitive) => {
                let mut owners = self.inner.owners("", usize::MAX).await?;
                owners.retain(|owner| owner.contains(contains));
                owners.truncate(limit);
                Ok(owners)
            }
            Some(Fault::OwnersAreLimitedFirst) => {
                let mut owners = self.inner.owners("", limit).await?;
                let part = contains.to_lowercase();
                owners.retain(|owner| owner.to_lowercase().contains(&part));
                Ok(owners)
            }
            _ => self.inner.owners(contains, limit).await,
        }
    }

    async fn change(
        &self,
        id: KeyId,
        change: KeyChange,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        match (self.fault, &change) {
            (Some(Fault::AuditsFailedChanges), KeyChange::Update(update)) => {
                let name = update.name.as_deref();
                if name.is_some_and(str::is_empty) {
                    self.inner
                        .update(id, KeyUpdate::new(), Actor::SYSTEM)
                        .await?;
                }
            }
            (Some(Fault::UpdateIsNotAtomic), KeyChange::Update(update)) => {
                if let Some(scopes) = &update.scopes {
                    let first = KeyUpdate::new().scopes(scopes.clone());
                    self.inner.update(id, first, Actor::SYSTEM).await.ok();
                }
            }
            (Some(Fault::LosesUpdates), _) => {
                let record = self.inner.find(id).await?;
                let mut record = record.ok_or(StoreError::NotFound(id))?;
                tokio::task::yield_now().await;
                record.apply(&change)?;
                let key = record.key.clone();
                self.put(record).await?;
                return Ok(key);
            }
            (Some(Fault::AcceptsOutOfRangeRevocation), KeyChange::Revoke { revoked_at }) => {
                let at = (*revoked_at).max(Timestamp::UNIX_EPOCH);
                return self
                    .inner
                    .change(id, KeyChange::Revoke { revoked_at: at }, Actor::SYSTEM)
                    .await;
            }
            (Some(Fault::OverwritesRevocationTime), KeyChange::Revoke { .. }) => {
                if let Some(mut record) = self.inner.find(id).await? {
                    record.key.revoked_at = None;
                    self.put(record).await?;
                }
            }
            (Some(Fault::ChangeOfUnknownKeySucceeds), _)
                if self.inner.find(id).await?.is_none() =>
            {
                let issuer = keytally::key::Issuer::new("ghost").unwrap();
                let ghost = keytally::key::NewKey::new("Ghost");
                return Ok(issuer.prepare(ghost).unwrap().1.key);
            }
            _ => {}
        }
        self.inner.change(id, change, actor).await
    }

    async fn rotate(
        &self,
        id: KeyId,
        rotation: Rotation,
        actor: Actor<'_>,
    ) -> Result<Key, StoreError> {
        let before = self.inner.find(id).await?;
        if self.has(Fault::RotationIsNotAtomic)
            && let Some(mut old) = before.clone()
        {
            if let Some(new) = old.key.replaced_by
                && self.inner.find(new).await?.is_none()
            {
                old.key.replaced_by = None;
            }
            let new = old.rotate(&rotation)?;
            self.put(old).await?;
            let key = new.key.clone();
            self.inner.create(new, Actor::SYSTEM).await?;
            return Ok(key);
        }
        if self.has(Fault::RotatesReplacedKeys)
            && let Some(mut old) = before.clone()
        {
            old.key.replaced_by = None;
            self.put(old).await?;
        }
        let sealed = rotation.encrypted_secret.clone();
        let mut key = self.inner.rotate(id, rotation, actor).await?;
        if self.has(Fault::LosesLineage) {
            let mut record = self.inner.find(key.id).await?.unwrap();
            record.key.lineage = key.id;
            key = record.key.clone();
            self.put(record).await?;
        }
        if self.has(Fault::SuccessorsAlwaysRecoverable) && sealed.is_some() {
            let mut record = self.inner.find(key.id).await?.unwrap();
            record.encrypted_secret = sealed;
            record.key.recoverable = true;
            key = record.key.clone();
            self.put(record).await?;
        }
        if self.has(Fault::RotationKeepsOldKey) {
            self.put(before.unwrap()).await?;
        }
        Ok(key)
    }

    async fn delete(&self, id: KeyId, actor: Actor<'_>) -> Result<(), StoreError> {
        match self.fault {
            Some(Fault::DeleteKeepsKey) if self.inner.find(id).await?.is_some() => Ok(()),
            Some(Fault::DeleteOfUnknownKeySucceeds) => {
                self.inner.delete(id, actor).await.ok();
                Ok(())
            }
            _ => self.inner.delete(id, actor).await,
        }
    }

    async fn reveal(&self, id: KeyId, actor: Actor<'_>) -> Result<Option<KeyRecord>, StoreError> {
        let mut revealed = self.inner.reveal(id, actor).await;
        match (self.fault, &mut revealed) {
            (Some(Fault::RevealOfUnknownKeySucceeds), Err(StoreError::NotFound(_))) => {
                return Ok(None);
            }
            (Some(Fault::TruncatesEncryptedSecrets), Ok(Some(record))) => {
                let bytes = record.encrypted_secret.take().unwrap().as_bytes()[..255].to_vec();
                record.encrypted_secret = Some(EncryptedSecret::from_bytes(bytes));
            }
            (Some(Fault::KeepsSecretsOfRevokedKeys), Ok(None)) => {
                let record = self.inner.find(id).await?;
                return Ok(record.filter(|record| record.key.revoked_at.is_some()));
            }
            _ => {}
        }
        revealed
    }

    fn audit_log(&self) -> Option<&dyn AuditLog> {
        Some(self)
    }

    fn owner_admin(&self) -> Option<&dyn OwnerAdmin> {
        Some(self)
    }
}

#[async_trait]
impl OwnerAdmin for Faulty {
    async fn owner(&self, id: &str) -> Result<Option<Owner>, StoreError> {
        let found = self.inner.owner(id).await?;
        if self.has(Fault::OwnersIgnoreCase) && found.is_none() {
            let query = OwnerQuery::new().contains(id);
            return Ok(self.inner.list_owners(&query).await?.items.pop());
        }
        Ok(match self.fault {
            Some(Fault::ForgetsOwners) => found.filter(|owner| owner.name.is_some()),
            Some(Fault::KeysResetOwners) => {
                found.map(|owner| Owner::new(owner.id, owner.created_at))
            }
            _ => found,
        })
    }

    async fn list_owners(&self, query: &OwnerQuery) -> Result<Page<Owner>, StoreError> {
        let mut wider = query.clone();
        match self.fault {
            Some(Fault::OwnerListIgnoresPlan) => wider.plan = None,
            Some(Fault::OwnerListIsCaseSensitive) => wider.contains = None,
            _ => {}
        }
        let mut page = self.inner.list_owners(&wider).await?;
        match self.fault {
            Some(Fault::OwnerListIsCaseSensitive) => {
                let part = query.contains.as_deref().unwrap_or_default();
                page.items.retain(|owner| owner.id.contains(part));
            }
            Some(Fault::OwnerListSkipsOwners) if page.items.len() == 3 => drop(page.items.pop()),
            _ => {}
        }
        Ok(page)
    }

    async fn change_owner(
        &self,
        id: &str,
        change: OwnerChange,
        actor: Actor<'_>,
    ) -> Result<Owner, StoreError> {
        let owner = self.inner.change_owner(id, change, actor).await?;
        Ok(match self.fault {
            Some(Fault::LosesOwnerChanges) if id.starts_with("changed") => {
                Owner::new(owner.id, owner.created_at)
            }
            _ => owner,
        })
    }

    async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError> {
        self.inner.plan(name).await
    }

    async fn list_plans(&self) -> Result<Vec<Plan>, StoreError> {
        let mut plans = self.inner.list_plans().await?;
        if self.has(Fault::PlansAreNotSorted) {
            plans.reverse();
        }
        Ok(plans)
    }

    async fn set_plan(&self, plan: Plan, actor: Actor<'_>) -> Result<Plan, StoreError> {
        let created_at = plan.created_at;
        let mut plan = self.inner.set_plan(plan, actor).await?;
        if self.has(Fault::ReplacedPlansAreNew) {
            plan.created_at = created_at;
        }
        Ok(plan)
    }

    async fn delete_plan(&self, name: &str, actor: Actor<'_>) -> Result<(), StoreError> {
        match self.inner.delete_plan(name, actor).await {
            Err(StoreError::PlanInUse(_)) if self.has(Fault::DeletesUsedPlans) => Ok(()),
            deleted => deleted,
        }
    }
}

#[async_trait]
impl AuditLog for Faulty {
    async fn audit_entries(&self, query: &AuditQuery) -> Result<Page<AuditEntry>, StoreError> {
        let mut query = query.clone();
        match (self.fault, &query.page.after) {
            (Some(Fault::IgnoresActorFilter), _) => query.actor = None,
            (Some(Fault::AcceptsForeignAuditPageToken), Some(place))
                if place.id::<KeyId>().is_ok() =>
            {
                query.page.after = None;
            }
            _ => {}
        }
        let mut page = self.inner.audit_entries(&query).await?;
        let entries = &mut page.items;
        match self.fault {
            Some(Fault::LosesActor) => entries.iter_mut().for_each(|entry| entry.actor = None),
            Some(Fault::SuspensionIsNotAudited) => {
                entries.retain(|entry| entry.action != AuditAction::Suspended);
            }
            Some(Fault::AuditOmitsNoOpChanges) => {
                entries.retain(|entry| entry.before != entry.after)
            }
            Some(Fault::AuditOmitsDeletedKeys) if query.key.is_some() => {
                let gone = entries.iter().any(|entry| entry.after.is_none());
                entries.retain(|_| !gone);
            }
            Some(Fault::AuditLosesBefore) => {
                entries.iter_mut().for_each(|entry| entry.before = None)
            }
            Some(Fault::AuditAfterEqualsBefore) => {
                let entries = entries.iter_mut().filter(|entry| entry.before.is_some());
                entries.for_each(|entry| entry.after = entry.before.clone());
            }
            Some(Fault::RevealIsNotAudited) => {
                entries.retain(|entry| entry.action != AuditAction::Revealed);
            }
            Some(Fault::AuditsEmptyReveals) if query.key.is_some() => {
                let id = query.key.unwrap();
                let record = self.inner.find(id).await?;
                if record.is_some_and(|record| record.key.name == "Plain") {
                    entries.push(AuditEntry::new(AuditAction::Revealed, id, Timestamp::now()));
                }
            }
            Some(Fault::AuditOmitsLastEntry) if query.to.is_some() => drop(entries.pop()),
            Some(Fault::AuditSkipsEntries) if query.page.after.is_some() && entries.len() > 1 => {
                drop(entries.remove(0));
            }
            Some(Fault::AuditOldestFirst) => entries.reverse(),
            _ => {}
        }
        Ok(page)
    }
}

#[async_trait]
impl UsageSink for Faulty {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let mut batch = batch.clone();
        match self.fault {
            Some(Fault::CountsTwice) => batch = Batch::new(batch.events().to_vec()),
            Some(Fault::TruncatesLargeBatches) => {
                let first = batch.events().iter().take(1_000);
                batch = Batch::with_id(batch.id, first.cloned().collect());
            }
            Some(Fault::LosesClientIps) => {
                let mut events = batch.events().to_vec();
                for event in &mut events {
                    event.client_ip = None;
                }
                batch = Batch::with_id(batch.id, events);
            }
            _ => {}
        }
        self.inner.write(&batch).await
    }
}

#[async_trait]
impl UsageReader for Faulty {
    async fn summary(&self, query: &SummaryQuery) -> Result<Summary, ReadError> {
        let mut query = query.clone();
        match self.fault {
            Some(Fault::SummaryIgnoresEnd) => query.range.to = None,
            Some(Fault::SummaryIgnoresOwner) => query.range.owner = None,
            _ => {}
        }
        let mut summary = self.inner.summary(&query).await?;
        if self.has(Fault::LosesLatencyOverTime)
            && let Some(over_time) = &mut summary.over_time
            && let Some(latency) = &mut over_time.latency
        {
            latency.pop_last();
        }
        if self.has(Fault::SummaryMixesOwners)
            && let Some(owners) = &mut summary.by_owner
            && let Some((_, totals)) = owners.pop_last()
            && let Some(mut other) = owners.first_entry()
        {
            other.get_mut().merge(&totals);
        }
        Ok(summary)
    }

    async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let mut range = range.clone();
        if self.has(Fault::TotalsByKeyIgnoreEnd) {
            range.to = None;
        }
        self.inner.totals_by_key(&range).await
    }

    async fn rollups(&self, range: &UsageRange) -> Result<Vec<Rollup>, ReadError> {
        let mut rollups = self.inner.rollups(range).await?;
        if self.has(Fault::MixesRollups)
            && let [first, second, ..] = &mut rollups[..]
            && (first.start, first.count) == (second.start, second.count)
        {
            std::mem::swap(&mut first.cause, &mut second.cause);
            std::mem::swap(&mut first.endpoint, &mut second.endpoint);
        }
        if self.has(Fault::TotalsWrapAround) {
            let full = |rollup: &&mut Rollup| rollup.request_bytes == i64::MAX.cast_unsigned();
            rollups
                .iter_mut()
                .filter(full)
                .for_each(|rollup| rollup.request_bytes = 0);
        }
        Ok(rollups)
    }

    async fn requests(&self, query: &LogQuery) -> Result<Page<UsageEvent>, ReadError> {
        let mut query = query.clone();
        if self.has(Fault::IgnoresCauseFilter) {
            query.filter.cause = None;
        }
        if self.has(Fault::IgnoresPartOfOwner) {
            query.filter.owner_contains = None;
        }
        if self.has(Fault::AcceptsForeignLogPageToken)
            && let Some(place) = &query.page.after
            && place.id::<KeyId>().is_ok()
        {
            query.page.after = None;
        }
        let mut page = self.inner.requests(&query).await?;
        let skips =
            self.has(Fault::LogSkipsEvents) && query.page.limit < 100 && query.page.after.is_some();
        if skips && page.items.len() > 1 {
            page.items.remove(0);
        }
        if self.has(Fault::ReplacesInvalidCharacters) {
            let paths = page.items.iter_mut().map(|event| &mut event.path);
            paths.for_each(|path| *path = path.replace('\u{fffd}', "?").into());
        }
        if self.has(Fault::IgnoresEventIds)
            && let Some(id) = &query.filter.request_id
        {
            page.items.retain(|event| event.request_id_or_id() == *id);
        }
        Ok(page)
    }

    async fn revision(&self) -> Result<Option<String>, ReadError> {
        match self.has(Fault::RevisionStays) {
            true => Ok(Some(String::new())),
            false => self.inner.revision().await,
        }
    }

    async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
        let mut query = query.clone();
        match self.fault {
            Some(Fault::RecordedIgnoresFilter) => query.filter = LogFilter::new(),
            Some(Fault::RecordedRepeatsEvents) if query.limit == 1_000 => {
                let before = query.after.position().saturating_sub(1);
                query.after = LogCursor::new(before);
            }
            _ => {}
        }
        let mut page = self.inner.recorded(&query).await?;
        match self.fault {
            Some(Fault::RecordedOmitsLateEvents) => {
                let mut newest = Timestamp::MIN;
                page.items.retain(|item| {
                    newest = newest.max(item.event.time);
                    item.event.time == newest
                });
            }
            Some(Fault::RecordedSkipsEvents) if query.limit == 7 && page.items.len() > 1 => {
                page.items.remove(0);
            }
            Some(Fault::RecordedSkipsUnderConcurrency)
                if query.limit == 11 && page.items.len() > 1 =>
            {
                page.items.remove(0);
            }
            _ => {}
        }
        Ok(page)
    }

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        let mut filter = filter.clone();
        if self.has(Fault::CountIgnoresStatusClass) {
            filter.statuses.clear();
        }
        self.inner.count(&filter).await
    }
}
