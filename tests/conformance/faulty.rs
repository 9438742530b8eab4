//! A backend that breaks one rule.

use std::sync::Arc;

use keytally::async_trait;
use keytally::backend::MemoryBackend;
use keytally::key::{
    ChangeFeed, InvalidKey, Key, KeyAdmin, KeyChange, KeyQuery, KeyRecord, KeyStore, KeyUpdate,
    Rotation, StoreError,
};
use keytally::usage::{
    Batch, Count, LogFilter, LogQuery, ReadError, Rollup, SinkError, Summary, SummaryQuery,
    UsageEvent, UsageRange, UsageReader, UsageSink,
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
    CountsTwice => "a batch that is written twice counts once",
    WritesTheFirstThousand => "a batch of thousands is written whole",
    LosesAddresses => "the log has an event as it was written",
    IgnoresCauses => "the log has only events that match",
    SkipsEvents => "the log agrees with LogFilter::matches",
    KnowsWireIdsOnly => "an event is found by its own id",
    MiscountsClasses => "a count agrees with LogFilter::matches",
    TakesAnyLogToken => "a page token of another list is ReadError::Page",
    SumsBeyondTheEnd => "a summary equals SummarySpec::summarize",
    ForgetsOwners => "a summary equals SummarySpec::summarize",
    WrapsSums => "sums stop at 2⁶³ − 1",
    ShowsQuestionMarks => "texts and numbers are kept as the batch has them",
    MixesRollups => "rollups add up to the events",
    NeverUsed => "a key was last used at the newest time of its events",
}

pub(crate) struct Faulty {
    inner: MemoryBackend,
    fault: Option<Fault>,
    silent: ChangeFeed,
}

impl Faulty {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        Self {
            inner: MemoryBackend::new(),
            fault,
            silent: ChangeFeed::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Puts a record in another's place, without any care.
    async fn put(&self, record: KeyRecord) -> Result<(), StoreError> {
        self.inner.delete(record.key.id).await.ok();
        self.inner.create(record).await
    }
}

#[async_trait]
impl KeyStore for Faulty {
    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let mut found = self.inner.find(id).await?;
        if self.has(Fault::FindsInAnyCase) && found.is_none() {
            let swap = |c: char| match c.is_ascii_lowercase() {
                true => c.to_ascii_uppercase(),
                false => c.to_ascii_lowercase(),
            };
            let swapped: String = id.as_str().chars().map(swap).collect();
            found = self.inner.find(swapped.parse().unwrap()).await?;
        }
        if let Some(record) = &mut found {
            if self.has(Fault::ForgetsTheDigest) {
                record.digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
            }
            if self.has(Fault::KeepsNanoseconds) && record.key.name == "Nanoseconds" {
                record.key.created += jiff::SignedDuration::from_nanos(1);
            }
            if self.has(Fault::NeverUsed) && record.key.name == "Used" {
                record.key.last_used = None;
            }
        } else if self.has(Fault::FindsNothingLoudly) {
            return Err(StoreError::NotFound(id));
        }
        Ok(found)
    }

    fn changes(&self) -> Option<&ChangeFeed> {
        match self.fault {
            Some(Fault::KeepsSilent) => Some(&self.silent),
            _ => self.inner.changes(),
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
                if self.inner.find(id).await?.is_some() {
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
            Some(Fault::TrimsNames) => record.key.name = record.key.name.trim().into(),
            _ => {}
        }
        self.inner.create(record).await
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
        let later = query.after.is_some();
        let mut page = self.inner.list(&query).await?;
        match self.fault {
            Some(Fault::SkipsKeys) if later && page.items.len() > 1 => drop(page.items.remove(0)),
            Some(Fault::SearchesByCase) => {
                if let Some(part) = &query.name {
                    page.items.retain(|key| key.name.contains(part));
                }
            }
            Some(Fault::ListsByIdOnly) => page.items.sort_by_key(|key| key.id),
            _ => {}
        }
        Ok(page)
    }

    async fn change(&self, id: KeyId, change: KeyChange) -> Result<Key, StoreError> {
        match (self.fault, &change) {
            (Some(Fault::WritesHalf), KeyChange::Update(update)) => {
                if let Some(scopes) = &update.scopes {
                    let first = KeyUpdate::new().scopes(scopes.clone());
                    self.inner.update(id, first).await.ok();
                }
            }
            (Some(Fault::LosesUpdates), _) => {
                let found = self.inner.find(id).await?;
                let mut record = found.ok_or(StoreError::NotFound(id))?;
                tokio::task::yield_now().await;
                record.apply(&change)?;
                let key = record.key.clone();
                self.put(record).await?;
                return Ok(key);
            }
            (Some(Fault::RevokesBeforeTime), KeyChange::Revoke { at }) => {
                let at = (*at).max(jiff::Timestamp::UNIX_EPOCH);
                return self.inner.change(id, KeyChange::Revoke { at }).await;
            }
            (Some(Fault::RevokesAnew), KeyChange::Revoke { .. }) => {
                if let Some(mut record) = self.inner.find(id).await? {
                    record.key.revoked = None;
                    self.put(record).await?;
                }
            }
            (Some(Fault::ChangesGhosts), _) if self.inner.find(id).await?.is_none() => {
                let issuer = keytally::key::Issuer::new("ghost").unwrap();
                let ghost = keytally::key::NewKey::named("Ghost");
                return Ok(issuer.make(ghost).unwrap().1.key);
            }
            _ => {}
        }
        self.inner.change(id, change).await
    }

    async fn rotate(&self, id: KeyId, rotation: Rotation) -> Result<Key, StoreError> {
        let before = self.inner.find(id).await?;
        if self.has(Fault::RotatesByHalves)
            && let Some(mut old) = before.clone()
        {
            let new = old.rotate(&rotation)?;
            self.put(old).await?;
            let key = new.key.clone();
            self.inner.create(new).await?;
            return Ok(key);
        }
        let mut key = self.inner.rotate(id, rotation).await?;
        if self.has(Fault::LosesTheLine) {
            let mut record = self.inner.find(key.id).await?.unwrap();
            record.key.line = key.id;
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
            Some(Fault::DeletesNothing) if self.inner.find(id).await?.is_some() => Ok(()),
            Some(Fault::DeletesGhosts) => {
                self.inner.delete(id).await.ok();
                Ok(())
            }
            _ => self.inner.delete(id).await,
        }
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
                events.for_each(|event| event.client_address = None);
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

    async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        let mut filter = filter.clone();
        if self.has(Fault::MiscountsClasses) {
            filter.status_class = None;
        }
        self.inner.count(&filter).await
    }
}
