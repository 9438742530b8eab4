//! A backend that breaks one rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use keytally::async_trait;
use keytally::backend::MemoryBackend;
use keytally::key::{
    AuditAction, AuditEntry, AuditQuery, EncryptedSecret, InvalidKey, InvalidationFeed, Key,
    KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, KeyUpdate, Rotation, StoreError,
};
use keytally::usage::{
    Batch, Count, LogCursor, LogFilter, LogQuery, ReadError, RecordedPage, RecordedQuery, Rollup,
    SinkError, Summary, SummaryQuery, Totals, UsageEvent, UsageRange, UsageReader, UsageSink,
};
use keytally::{KeyId, Page};

/// Declares faults with the rule that each breaks.
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
    FindsNothingLoudly => "looking up answers",
    FindsInAnyCase => "ids are compared exactly",
    ForgetsTheDigest => "a key is found by its id, with all its fields",
    KeepsNanoseconds => "times are cut to whole microseconds",
    TakesAnyMetadata => "a key out of bounds is not created",
    Overwrites => "creating never overwrites a key",
    CreatesLate => "exactly one succeeds",
    TrimsNames => "every text is kept as it is",
    ListsTwice => "a list is ordered",
    SkipsKeys => "neither skip nor repeat keys",
    SearchesByCase => "a list agrees with KeyQuery::matches",
    IgnoresIds => "a list agrees with KeyQuery::matches",
    IgnoresEnds => "a list agrees with KeyQuery::matches",
    CallsYoungKeysUnused => "a list agrees with KeyQuery::matches",
    ListsByIdOnly => "a list is ordered",
    TakesAnyToken => "a page token of another list is StoreError::Page",
    WritesHalf => "a refused update changes nothing",
    LosesUpdates => "changes at the same time do not undo each other",
    RevokesBeforeTime => "a revocation at a time out of bounds is refused",
    RevokesAnew => "the first revocation counts",
    ChangesGhosts => "changing an unknown id is StoreError::NotFound",
    LosesTheLine => "rotations keep the line of the first key",
    KeepsTheOldKey => "the old key works until its grace is over",
    RotatesByHalves => "a rotation is one step",
    DeletesNothing => "a deleted key is gone",
    DeletesGhosts => "deleting an unknown id is StoreError::NotFound",
    KeepsSilent => "creating rings the feed",
    ActsAsNobody => "an entry names who made the change",
    CannotAct => "a store that keeps an audit acts as whom it is told to",
    TellsOfFailures => "a change that fails leaves no entry",
    TellsOfEffectsOnly => "every change has one entry",
    TellsOfLivingKeysOnly => "also when the key is gone",
    ForgetsBefore => "an entry has the key as it was before",
    TellsOldNews => "an entry has the key as it was after",
    MixesUpActors => "an audit has only entries that match",
    LosesLastEntries => "an audit agrees with AuditQuery::matches",
    SkipsEntries => "neither skip nor repeat entries",
    TellsTheOldestFirst => "an audit is ordered",
    TakesAnyAuditToken => "a page token of another list is StoreError::Page, in the audit too",
    LosesSealedSecrets => "a sealed secret is kept byte for byte and given back, or its key is refused",
    CutsSealedSecrets => "a sealed secret is kept byte for byte",
    FindsSealedSecrets => "looked up without its sealed secret",
    TakesUnsealed => "a key is recoverable exactly where its sealed secret is kept",
    KeepsSecretsOfRevoked => "a revoked key's sealed secret is gone",
    SealsSuccessors => "a successor is recoverable only where the old key is",
    RevealsGhosts => "revealing an unknown id is StoreError::NotFound",
    RevealsSilently => "every reading of a sealed secret has one entry",
    TellsOfNothing => "where nothing is revealed, nothing is told",
    CountsTwice => "a batch that is written twice counts once",
    RecordsNoLateEvents => "a batch comes after all that were written before",
    SkipsRecorded => "neither skip nor repeat recorded events",
    RepeatsRecorded => "a batch comes after all that were written before",
    RecordsAnybodys => "recorded events agree with LogFilter::matches",
    SkipsWhileOthersWrite => "a poller reads every event once while several write",
    WritesTheFirstThousand => "a batch of thousands is written whole",
    LosesAddresses => "the log has an event as it was written",
    IgnoresCauses => "the log has only events that match",
    SkipsEvents => "the log agrees with LogFilter::matches",
    KnowsWireIdsOnly => "an event is found by its own id",
    MiscountsClasses => "a count agrees with LogFilter::matches",
    TakesAnyLogToken => "a page token of another list is ReadError::Page",
    SumsBeyondTheEnd => "a summary equals SummarySpec::summarize",
    CountsKeysBeyondTheEnd => "totals by key equal the pure function",
    ForgetsOwners => "a summary equals SummarySpec::summarize",
    WrapsSums => "sums stop at 2⁶³ − 1",
    ShowsQuestionMarks => "texts and numbers are kept as the batch has them",
    MixesRollups => "rollups add up to the events",
    NeverUsed => "a key was last used at the newest time of its events",
}

pub(crate) struct Faulty {
    inner: MemoryBackend,
    /// The same, or that acting as somebody.
    keys: Arc<dyn KeyAdmin>,
    fault: Option<Fault>,
    silent: InvalidationFeed,
}

impl Faulty {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        let inner = MemoryBackend::new();
        Self {
            keys: Arc::new(inner.clone()),
            inner,
            fault,
            silent: InvalidationFeed::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Puts a record in another's place, without any care.
    async fn put(&self, record: KeyRecord) -> Result<(), StoreError> {
        self.keys.delete(record.key.id).await.ok();
        self.keys.create(record).await
    }
}

#[async_trait]
impl KeyStore for Faulty {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let mut found = self.keys.find(id).await?;
        if self.has(Fault::FindsInAnyCase) && found.is_none() {
            let swap = |c: char| match c.is_ascii_lowercase() {
                true => c.to_ascii_uppercase(),
                false => c.to_ascii_lowercase(),
            };
            let swapped: String = id.as_str().chars().map(swap).collect();
            found = self.keys.find(swapped.parse().unwrap()).await?;
        }
        if let Some(record) = &mut found {
            if self.has(Fault::ForgetsTheDigest) {
                record.digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
            }
            if self.has(Fault::KeepsNanoseconds) && record.key.name == "Nanoseconds" {
                record.key.created_at += jiff::SignedDuration::from_nanos(1);
            }
            if self.has(Fault::FindsSealedSecrets) && record.key.recoverable {
                record.encrypted_secret = Some(EncryptedSecret::from_bytes([1]));
            }
            if self.has(Fault::NeverUsed) && record.key.name == "Used" {
                record.key.last_used_at = None;
            }
        } else if self.has(Fault::FindsNothingLoudly) {
            return Err(StoreError::NotFound(id));
        }
        Ok(found)
    }

    fn invalidations(&self) -> Option<&InvalidationFeed> {
        match self.fault {
            Some(Fault::KeepsSilent) => Some(&self.silent),
            _ => self.inner.invalidations(),
        }
    }
}

#[async_trait]
impl KeyAdmin for Faulty {
    async fn create(&self, mut record: KeyRecord) -> Result<(), StoreError> {
        match self.fault {
            Some(Fault::Overwrites) => return self.put(record).await,
            Some(Fault::CreatesLate) => {
                let id = record.key.id;
                if self.keys.find(id).await?.is_some() {
                    return Err(StoreError::Conflict(id));
                }
                tokio::task::yield_now().await;
                record.key.validate()?;
                return self.put(record).await;
            }
            Some(Fault::TakesAnyMetadata)
                if record.key.validate() == Err(InvalidKey::MetadataDepth) =>
            {
                record.key.metadata.clear();
            }
            Some(Fault::LosesSealedSecrets) if record.validate().is_ok() => {
                record.key.recoverable = false;
                record.encrypted_secret = None;
            }
            Some(Fault::TakesUnsealed)
                if record.key.recoverable && record.encrypted_secret.is_none() =>
            {
                record.key.recoverable = false;
            }
            Some(Fault::TrimsNames) => record.key.name = record.key.name.trim().into(),
            _ => {}
        }
        self.keys.create(record).await
    }

    async fn list(&self, query: &KeyQuery) -> Result<Page<Key>, StoreError> {
        let mut query = query.clone();
        if self.has(Fault::TakesAnyToken)
            && query
                .after
                .as_ref()
                .is_some_and(|place| place.id::<KeyId>().is_err())
        {
            query.after = None;
        }
        if self.has(Fault::ListsTwice) {
            query.after = None;
        }
        if self.has(Fault::IgnoresIds) {
            query.ids = None;
        }
        if self.has(Fault::IgnoresEnds) {
            query.expires_before = None;
        }
        let mut unused_since = None;
        if self.has(Fault::CallsYoungKeysUnused) {
            unused_since = query.unused_since.take();
        }
        let later = query.after.is_some();
        let mut page = self.keys.list(&query).await?;
        match self.fault {
            Some(Fault::SkipsKeys) if later && page.items.len() > 1 => drop(page.items.remove(0)),
            Some(Fault::SearchesByCase) => {
                if let Some(part) = &query.name {
                    page.items.retain(|key| key.name.contains(part));
                }
            }
            Some(Fault::CallsYoungKeysUnused) => {
                let used =
                    |key: &Key| unused_since.is_some_and(|time| key.last_used_at >= Some(time));
                page.items.retain(|key| !used(key));
            }
            Some(Fault::ListsByIdOnly) => page.items.sort_by_key(|key| key.id),
            _ => {}
        }
        Ok(page)
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        match (self.fault, &change) {
            (Some(Fault::TellsOfFailures), KeyChange::Update(update)) => {
                let name = update.name.as_deref();
                if name.is_some_and(str::is_empty) {
                    self.keys.update(id, KeyUpdate::new()).await?;
                }
            }
            (Some(Fault::WritesHalf), KeyChange::Update(update)) => {
                if let Some(scopes) = &update.scopes {
                    let first = KeyUpdate::new().scopes(scopes.clone());
                    self.keys.update(id, first).await.ok();
                }
            }
            (Some(Fault::LosesUpdates), _) => {
                let found = self.keys.find(id).await?;
                let mut record = found.ok_or(StoreError::NotFound(id))?;
                tokio::task::yield_now().await;
                record.apply(&change)?;
                let key = record.key.clone();
                self.put(record).await?;
                return Ok(key);
            }
            (Some(Fault::RevokesBeforeTime), KeyChange::Revoke { revoked_at }) => {
                let at = (*revoked_at).max(Timestamp::UNIX_EPOCH);
                return self
                    .keys
                    .change(id, KeyChange::Revoke { revoked_at: at })
                    .await;
            }
            (Some(Fault::RevokesAnew), KeyChange::Revoke { .. }) => {
                if let Some(mut record) = self.keys.find(id).await? {
                    record.key.revoked_at = None;
                    self.put(record).await?;
                }
            }
            (Some(Fault::ChangesGhosts), _) if self.keys.find(id).await?.is_none() => {
                let issuer = keytally::key::Issuer::new("ghost").unwrap();
                let ghost = keytally::key::NewKey::new("Ghost");
                return Ok(issuer.prepare(ghost).unwrap().1.key);
            }
            _ => {}
        }
        self.keys.change(id, change).await
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
        let before = self.keys.find(id).await?;
        if self.has(Fault::RotatesByHalves)
            && let Some(mut old) = before.clone()
        {
            let new = old.rotate(&rotation)?;
            self.put(old).await?;
            let key = new.key.clone();
            self.keys.create(new).await?;
            return Ok(key);
        }
        let sealed = rotation.sealed.clone();
        let mut key = self.keys.rotate(id, rotation).await?;
        if self.has(Fault::LosesTheLine) {
            let mut record = self.keys.find(key.id).await?.unwrap();
            record.key.lineage = key.id;
            key = record.key.clone();
            self.put(record).await?;
        }
        if self.has(Fault::SealsSuccessors) && sealed.is_some() {
            let mut record = self.keys.find(key.id).await?.unwrap();
            record.encrypted_secret = sealed;
            record.key.recoverable = true;
            key = record.key.clone();
            self.put(record).await?;
        }
        if self.has(Fault::KeepsTheOldKey) {
            self.put(before.unwrap()).await?;
        }
        Ok(key)
    }

    async fn delete(&self, id: KeyId) -> Result<(), StoreError> {
        match self.fault {
            Some(Fault::DeletesNothing) if self.keys.find(id).await?.is_some() => Ok(()),
            Some(Fault::DeletesGhosts) => {
                self.keys.delete(id).await.ok();
                Ok(())
            }
            _ => self.keys.delete(id).await,
        }
    }

    async fn reveal(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let mut revealed = self.keys.reveal(id).await;
        match (self.fault, &mut revealed) {
            (Some(Fault::RevealsGhosts), Err(StoreError::NotFound(_))) => return Ok(None),
            (Some(Fault::CutsSealedSecrets), Ok(Some(record))) => {
                let bytes = record.encrypted_secret.take().unwrap().as_bytes()[..255].to_vec();
                record.encrypted_secret = Some(EncryptedSecret::from_bytes(bytes));
            }
            (Some(Fault::KeepsSecretsOfRevoked), Ok(None)) => {
                let record = self.keys.find(id).await?;
                return Ok(record.filter(|record| record.key.revoked_at.is_some()));
            }
            _ => {}
        }
        revealed
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Option<Page<AuditEntry>>, StoreError> {
        let mut query = query.clone();
        match (self.fault, &query.after) {
            (Some(Fault::MixesUpActors), _) => query.actor = None,
            (Some(Fault::TakesAnyAuditToken), Some(place)) if place.id::<KeyId>().is_ok() => {
                query.after = None;
            }
            _ => {}
        }
        let Some(mut page) = self.keys.audit(&query).await? else {
            return Ok(None);
        };
        let entries = &mut page.items;
        match self.fault {
            Some(Fault::TellsOfEffectsOnly) => entries.retain(|entry| entry.before != entry.after),
            Some(Fault::TellsOfLivingKeysOnly) if query.key.is_some() => {
                let gone = entries.iter().any(|entry| entry.after.is_none());
                entries.retain(|_| !gone);
            }
            Some(Fault::ForgetsBefore) => entries.iter_mut().for_each(|entry| entry.before = None),
            Some(Fault::TellsOldNews) => {
                let entries = entries.iter_mut().filter(|entry| entry.before.is_some());
                entries.for_each(|entry| entry.after = entry.before.clone());
            }
            Some(Fault::RevealsSilently) => {
                entries.retain(|entry| entry.action != AuditAction::Revealed);
            }
            Some(Fault::TellsOfNothing) if query.key.is_some() => {
                let id = query.key.unwrap();
                let found = self.keys.find(id).await?;
                if found.is_some_and(|record| record.key.name == "Plain") {
                    entries.push(AuditEntry::new(AuditAction::Revealed, id, Timestamp::now()));
                }
            }
            Some(Fault::LosesLastEntries) if query.to.is_some() => drop(entries.pop()),
            Some(Fault::SkipsEntries) if query.after.is_some() && entries.len() > 1 => {
                drop(entries.remove(0));
            }
            Some(Fault::TellsTheOldestFirst) => entries.reverse(),
            _ => {}
        }
        Ok(Some(page))
    }

    fn acting_as(&self, actor: &str) -> Option<Arc<dyn KeyAdmin>> {
        let actor = match self.fault {
            Some(Fault::CannotAct) => return None,
            Some(Fault::ActsAsNobody) => "",
            _ => actor,
        };
        Some(Arc::new(Self {
            inner: self.inner.clone(),
            keys: self.keys.acting_as(actor)?,
            fault: self.fault,
            silent: self.silent.clone(),
        }))
    }
}

#[async_trait]
impl UsageSink for Faulty {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let mut batch = batch.clone();
        match self.fault {
            Some(Fault::CountsTwice) => batch = Batch::new(batch.events.to_vec()),
            Some(Fault::WritesTheFirstThousand) => {
                batch.events = batch.events.iter().take(1_000).cloned().collect();
            }
            Some(Fault::LosesAddresses) => {
                let events = Arc::make_mut(&mut batch.events).iter_mut();
                events.for_each(|event| event.client_ip = None);
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
            Some(Fault::SumsBeyondTheEnd) => query.range.to = None,
            Some(Fault::ForgetsOwners) => query.range.owner = None,
            _ => {}
        }
        self.inner.summary(&query).await
    }

    async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let mut range = range.clone();
        if self.has(Fault::CountsKeysBeyondTheEnd) {
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
        if self.has(Fault::WrapsSums) {
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
        if self.has(Fault::IgnoresCauses) {
            query.filter.cause = None;
        }
        if self.has(Fault::TakesAnyLogToken)
            && let Some(place) = &query.after
            && place.id::<KeyId>().is_ok()
        {
            query.after = None;
        }
        let mut page = self.inner.requests(&query).await?;
        let skips = self.has(Fault::SkipsEvents) && query.limit < 100 && query.after.is_some();
        if skips && page.items.len() > 1 {
            page.items.remove(0);
        }
        if self.has(Fault::ShowsQuestionMarks) {
            let paths = page.items.iter_mut().map(|event| &mut event.path);
            paths.for_each(|path| *path = path.replace('\u{fffd}', "?").into());
        }
        if self.has(Fault::KnowsWireIdsOnly)
            && let Some(id) = &query.filter.request_id
        {
            page.items.retain(|event| event.wire_id() == *id);
        }
        Ok(page)
    }

    async fn recorded(&self, query: &RecordedQuery) -> Result<RecordedPage, ReadError> {
        let mut query = query.clone();
        match self.fault {
            Some(Fault::RecordsAnybodys) => query.filter = LogFilter::new(),
            Some(Fault::RepeatsRecorded) if query.limit == 1_000 => {
                let before = query.after.place().saturating_sub(1);
                query.after = LogCursor::new(before);
            }
            _ => {}
        }
        let mut page = self.inner.recorded(&query).await?;
        match self.fault {
            Some(Fault::RecordsNoLateEvents) => {
                let mut newest = Timestamp::MIN;
                page.items.retain(|item| {
                    newest = newest.max(item.event.time);
                    item.event.time == newest
                });
            }
            Some(Fault::SkipsRecorded) if query.limit == 7 && page.items.len() > 1 => {
                page.items.remove(0);
            }
            Some(Fault::SkipsWhileOthersWrite) if query.limit == 11 && page.items.len() > 1 => {
                page.items.remove(0);
            }
            _ => {}
        }
        Ok(page)
    }

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        let mut filter = filter.clone();
        if self.has(Fault::MiscountsClasses) {
            filter.status_class = None;
        }
        self.inner.count(&filter).await
    }
}
