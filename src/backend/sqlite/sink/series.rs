//! The numbers of series.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::values::Values;
use super::{ROWS, Writing};
use crate::backend::sql::{BatchRollup, Hash, Series, decode, status_codes};

impl Writing<'_> {
    /// The numbers of the series, and which of them were looked up.
    pub(super) async fn number(
        &mut self,
        grouped: &BatchRollup<'_>,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let mut known = self.backend.0.engine.known.of(&grouped.series, self.today);
        self.check(&grouped.series, &mut known).await?;
        let unknown = grouped.series.iter().zip(&known);
        let unknown: Vec<_> = unknown
            .filter_map(|(series, id)| id.is_none().then_some(series))
            .collect();
        let mut learnt = HashMap::with_capacity(unknown.len());
        for series in unknown.chunks(ROWS) {
            self.find(series, &mut learnt).await?;
            let new = series.iter().copied();
            let new: Vec<_> = new.filter(|it| !learnt.contains_key(&it.hash)).collect();
            if !new.is_empty() {
                self.insert(&new, &mut learnt).await?;
            }
        }
        let ids = grouped.series.iter().zip(known);
        let ids = ids.map(|(series, id)| id.or_else(|| learnt.get(&series.hash).copied()));
        let ids: Option<Vec<i64>> = ids.collect();
        Ok((
            ids.ok_or(SqlError::RowNotFound)?,
            learnt.into_iter().collect(),
        ))
    }

    /// Notes that these are in use, as far as they are there.
    async fn find(
        &mut self,
        series: &[&Series<'_>],
        learnt: &mut HashMap<Hash, i64>,
    ) -> Result<(), SqlError> {
        let mut values = Values::new(series.len(), 1);
        values.add(self.today)?;
        for series in series {
            values.add(&series.hash[..])?;
        }
        let find = self
            .sql("UPDATE §series SET last_seen_day = max(last_seen_day, ?) WHERE hash IN (VALUES ");
        let find = format!("{find}{}) RETURNING hash, id", values.places);
        self.learn(find, values, learnt).await
    }

    async fn insert(
        &mut self,
        series: &[&Series<'_>],
        learnt: &mut HashMap<Hash, i64>,
    ) -> Result<(), SqlError> {
        let mut values = Values::new(series.len(), 11);
        for series in series {
            let event = series.event;
            let (http, grpc) = status_codes(event.status);
            values
                .add(&series.hash[..])?
                .add(event.key.as_ref().map(|key| key.as_str()))?
                .add(event.owner.as_deref())?
                .add(event.method.as_str())?
                .add(&*event.endpoint)?
                .add(http)?
                .add(grpc)?
                .add(event.outcome.as_str())?
                .add(event.cause.map(|cause| cause.as_str()))?
                .add(event.status.class().as_str())?
                .add(self.today)?;
        }
        let insert = self.sql(
            "INSERT OR FAIL INTO §series (hash, key_id, owner, method, endpoint, http_status,
                grpc_status, outcome, cause, status_class, last_seen_day) VALUES ",
        );
        let insert = format!("{insert}{} RETURNING hash, id", values.places);
        self.learn(insert, values, learnt).await
    }

    /// Carries out a statement that answers hashes and numbers.
    async fn learn(
        &mut self,
        statement: String,
        values: Values,
        learnt: &mut HashMap<Hash, i64>,
    ) -> Result<(), SqlError> {
        let query = sqlx::query_with(AssertSqlSafe(statement), values.arguments);
        for row in query.fetch_all(self.connection()).await? {
            let hash: &[u8] = row.try_get(0)?;
            learnt.insert(hash.try_into().map_err(decode)?, row.try_get(1)?);
        }
        Ok(())
    }

    /// Strikes out the numbers that are not those of their series: another file may have taken the
    /// place of the database, or a clock that was ahead may have let series be dropped.
    async fn check(
        &mut self,
        series: &[Series<'_>],
        ids: &mut [Option<i64>],
    ) -> Result<(), SqlError> {
        let known: Vec<i64> = ids.iter().flatten().copied().collect();
        let known = serde_json::to_string(&known).map_err(decode)?;
        let read = self.sql(
            "SELECT s.id, s.hash FROM json_each(?) one CROSS JOIN §series s WHERE s.id = one.value",
        );
        let rows = sqlx::query(AssertSqlSafe(read))
            .bind(known)
            .fetch_all(self.connection())
            .await?;
        let mut there = HashMap::with_capacity(rows.len());
        for row in &rows {
            let hash: &[u8] = row.try_get(1)?;
            there.insert(row.try_get::<i64, _>(0)?, hash);
        }
        for (id, series) in ids.iter_mut().zip(series) {
            *id = id.filter(|id| there.get(id) == Some(&&series.hash[..]));
        }
        Ok(())
    }
}
