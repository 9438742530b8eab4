//! Reading usage.

use std::collections::BTreeMap;

use super::backend::SqlBackend;
use super::engine::Engine;
use super::{log, merging, recorded, rollup_query};
use crate::id::KeyId;
use crate::page::Page;
use crate::usage::{
    Count, LogFilter, LogQuery, MergeBacklog, PageBuilder, ReadError, RecordedPage, RecordedQuery,
    Rollup, Summary, SummaryQuery, Totals, UsageEvent, UsageRange,
};

impl<E: Engine> SqlBackend<E> {
    pub(in crate::backend) async fn requests(
        &self,
        query: &LogQuery,
    ) -> Result<Page<UsageEvent>, ReadError> {
        let session = self.engine.snapshot().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        log::page(&mut session, self.names(), query).await
    }

    pub(in crate::backend) async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        let session = self.engine.snapshot().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let count = log::count(&mut session, self.names(), filter).await;
        count.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn endpoints(
        &self,
        limit: usize,
    ) -> Result<Vec<String>, ReadError> {
        let session = self.engine.reader().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let endpoints = log::endpoints(&mut session, self.names(), limit).await;
        endpoints.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn recorded(
        &self,
        query: &RecordedQuery,
    ) -> Result<RecordedPage, ReadError> {
        let session = self.engine.snapshot().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let mut filling = PageBuilder::new(query);
        loop {
            let (after, wanted) = (filling.cursor(), filling.wanted());
            let scanned = recorded::scan(&mut session, self.names(), after, wanted).await;
            let scanned = scanned.map_err(ReadError::unavailable)?;
            if filling.add(scanned.ok_or(ReadError::Cursor)?) {
                return Ok(filling.page());
            }
        }
    }

    pub(in crate::backend) async fn summary(
        &self,
        query: &SummaryQuery,
    ) -> Result<Summary, ReadError> {
        let summary = rollup_query::summary(&*self.engine, &query.range, &query.spec).await;
        summary.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn totals_by_key(
        &self,
        range: &UsageRange,
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let totals = rollup_query::totals_by_key(&*self.engine, range).await;
        totals.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn totals_of_keys(
        &self,
        range: &UsageRange,
        keys: &[Option<KeyId>],
    ) -> Result<BTreeMap<Option<KeyId>, Totals>, ReadError> {
        let totals = rollup_query::totals_of_keys(&*self.engine, range, keys).await;
        totals.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn rollups(
        &self,
        range: &UsageRange,
    ) -> Result<Vec<Rollup>, ReadError> {
        let rollups = rollup_query::rollups(&*self.engine, range).await;
        rollups.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn revision(&self) -> Result<String, ReadError> {
        let session = self.engine.reader().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let revision = recorded::revision(&mut session, self.names()).await;
        revision.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn merge_backlog(&self) -> Result<MergeBacklog, ReadError> {
        let backlog = merging::backlog(&*self.engine).await;
        backlog.map_err(ReadError::unavailable)
    }
}
