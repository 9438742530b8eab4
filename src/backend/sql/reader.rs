//! Reading usage.

use std::collections::BTreeMap;

use super::backend::SqlBackend;
use super::engine::{Engine, Row, Session, Statement};
use super::log::Matching;
use super::value::required;
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
        // Reject a page token of another list before returning an empty page.
        query.page.after.as_ref().map_or(Ok(()), log::check_token)?;
        if log::matches_nothing(&query.filter) {
            return Ok(Page::empty());
        }
        let session = self.engine.snapshot().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let matching = Matching::read(&mut session, self.names(), &query.filter).await;
        let matching = matching.map_err(ReadError::unavailable)?;
        let mut rows = Vec::new();
        for filter in log::subqueries(self.names(), &query.filter, query.page.after.as_ref()) {
            let mut subquery = query.clone();
            subquery.filter = filter;
            let statement = log::page(self.names(), &subquery, &matching)?;
            let result = session.fetch(statement).await;
            rows = result.map_err(ReadError::unavailable)?;
            if rows.len() > query.page.size() {
                break;
            }
        }
        let events = rows.iter().map(log::event_of).collect::<Result<_, _>>();
        let events = events.map_err(ReadError::unavailable)?;
        Ok(Page::from_surplus(
            events,
            query.page.size(),
            LogQuery::page_token,
        ))
    }

    pub(in crate::backend) async fn count(&self, filter: &LogFilter) -> Result<Count, ReadError> {
        if log::matches_nothing(filter) {
            return Ok(Count::Exactly(0));
        }
        let session = self.engine.snapshot().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let matching = Matching::read(&mut session, self.names(), filter).await;
        let matching = matching.map_err(ReadError::unavailable)?;
        let mut count = 0;
        for filter in log::subqueries(self.names(), filter, None) {
            let statement = log::count(self.names(), &filter, &matching);
            count = self.counted(&mut session, statement).await?.cast_unsigned();
            if count > log::MAX_COUNT {
                break;
            }
        }
        Ok(if count > log::MAX_COUNT {
            Count::MoreThan(log::MAX_COUNT)
        } else {
            Count::Exactly(count)
        })
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

    async fn counted(
        &self,
        session: &mut E::Session,
        statement: Statement,
    ) -> Result<i64, ReadError> {
        let counted = async {
            let rows = session.fetch(statement).await?;
            let row = required(rows.first())?;
            required(row.integer("count")?)
        };
        counted.await.map_err(ReadError::unavailable)
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

    pub(in crate::backend) async fn rollups(
        &self,
        range: &UsageRange,
    ) -> Result<Vec<Rollup>, ReadError> {
        let rollups = rollup_query::rollups(&*self.engine, range).await;
        rollups.map_err(ReadError::unavailable)
    }

    pub(in crate::backend) async fn merge_backlog(&self) -> Result<MergeBacklog, ReadError> {
        let backlog = merging::backlog(&*self.engine).await;
        backlog.map_err(ReadError::unavailable)
    }
}
