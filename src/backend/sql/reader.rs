//! Reading usage from any database.

use std::collections::BTreeMap;

use super::backend::SqlBackend;
use super::engine::{Engine, Row, Session, Statement};
use super::value::there;
use super::{log, recorded, rollup_query};
use crate::id::KeyId;
use crate::page::Page;
use crate::usage::{
    Count, Filling, LogFilter, LogQuery, ReadError, RecordedPage, RecordedQuery, Rollup, Summary,
    SummaryQuery, Totals, UsageEvent, UsageRange,
};

impl<E: Engine> SqlBackend<E> {
    pub(in crate::backend) async fn requests(
        &self,
        query: &LogQuery,
    ) -> Result<Page<UsageEvent>, ReadError> {
        // A token of another list is refused whatever else is asked.
        log::page(self.names(), query, None)?;
        if log::matches_nothing(&query.filter) {
            return Ok(Page::empty());
        }
        let session = self.engine.snapshot().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let mut matching = None;
        if log::picks_series(&query.filter) {
            let count = log::count_series(self.names(), &query.filter);
            matching = Some(self.counted(&mut session, count).await?);
        }
        let mut rows = Vec::new();
        for filter in log::subqueries(self.names(), &query.filter, query.after.as_ref()) {
            let mut look = query.clone();
            look.filter = filter;
            let statement = log::page(self.names(), &look, matching)?;
            let found = session.rows(statement).await;
            rows = found.map_err(ReadError::unavailable)?;
            if rows.len() > query.page_size() {
                break;
            }
        }
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
        let session = self.engine.snapshot().await;
        let mut session = session.map_err(ReadError::unavailable)?;
        let mut count = 0;
        for look in log::subqueries(self.names(), filter, None) {
            let statement = log::count(self.names(), &look);
            count = self.counted(&mut session, statement).await?.cast_unsigned();
            if count > log::MOST_COUNTED {
                break;
            }
        }
        Ok(if count > log::MOST_COUNTED {
            Count::MoreThan(log::MOST_COUNTED)
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
        let mut filling = Filling::new(query);
        loop {
            let (after, wanted) = (filling.cursor(), filling.wanted());
            let scanned = recorded::scan(&mut session, self.names(), after, wanted).await;
            if filling.add(scanned.map_err(ReadError::unavailable)??) {
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
        let rollups = rollup_query::each(&*self.engine, range).await;
        rollups.map_err(ReadError::unavailable)
    }
}
