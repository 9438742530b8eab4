//! Looking up and inserting series.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::BatchWriter;
use crate::backend::sql::{BatchRollup, Hash, Series, decode, status_codes};
use crate::backend::sqlite::values::{ROWS, Values};

impl BatchWriter<'_> {
    /// Returns the ids of the series, and those of them that were not cached.
    pub(super) async fn series_ids(
        &mut self,
        grouped: &BatchRollup<'_>,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let mut cached = self
            .backend
            .0
            .engine
            .series_cache
            .of(&grouped.series, self.today);
        self.check(&grouped.series, &mut cached).await?;
        let unknown = grouped.series.iter().zip(&cached);
        let unknown: Vec<_> = unknown
            .filter_map(|(series, id)| id.is_none().then_some(series))
            .collect();
        let mut new_ids = HashMap::with_capacity(unknown.len());
        for series in unknown.chunks(ROWS) {
            self.find(series, &mut new_ids).await?;
            let new = series.iter().copied();
            let new: Vec<_> = new.filter(|it| !new_ids.contains_key(&it.hash)).collect();
            if !new.is_empty() {
                self.insert(&new, &mut new_ids).await?;
            }
        }
        let ids = grouped.series.iter().zip(cached);
        let ids = ids.map(|(series, id)| id.or_else(|| new_ids.get(&series.hash).copied()));
        let ids: Option<Vec<i64>> = ids.collect();
        Ok((
            ids.ok_or(SqlError::RowNotFound)?,
            new_ids.into_iter().collect(),
        ))
    }

    /// Updates `last_seen_day` of the series that exist, and reads their ids.
    async fn find(
        &mut self,
        series: &[&Series<'_>],
        new_ids: &mut HashMap<Hash, i64>,
    ) -> Result<(), SqlError> {
        let mut values = Values::new(series.len(), 1);
        values.add(self.today)?;
        for series in series {
            values.add(&series.hash[..])?;
        }
        let find = self
            .sql("UPDATE §series SET last_seen_day = max(last_seen_day, ?) WHERE hash IN (VALUES ");
        let find = format!("{find}{}) RETURNING hash, id", values.placeholders);
        self.learn(find, values, new_ids).await
    }

    async fn insert(
        &mut self,
        series: &[&Series<'_>],
        new_ids: &mut HashMap<Hash, i64>,
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
        let insert = format!("{insert}{} RETURNING hash, id", values.placeholders);
        self.learn(insert, values, new_ids).await
    }

    /// Executes a statement that returns hashes and ids.
    async fn learn(
        &mut self,
        statement: String,
        values: Values,
        new_ids: &mut HashMap<Hash, i64>,
    ) -> Result<(), SqlError> {
        let query = sqlx::query_with(AssertSqlSafe(statement), values.arguments);
        for row in query.fetch_all(self.connection()).await? {
            let hash: &[u8] = row.try_get(0)?;
            new_ids.insert(hash.try_into().map_err(decode)?, row.try_get(1)?);
        }
        Ok(())
    }

    /// Clears the cached ids that do not match the database: its file may have been replaced, or a clock that was
    /// ahead may have caused series to be pruned.
    async fn check(
        &mut self,
        series: &[Series<'_>],
        ids: &mut [Option<i64>],
    ) -> Result<(), SqlError> {
        let cached: Vec<i64> = ids.iter().flatten().copied().collect();
        let cached = serde_json::to_string(&cached).map_err(decode)?;
        let read = self.sql(
            "SELECT s.id, s.hash FROM json_each(?) one CROSS JOIN §series s WHERE s.id = one.value",
        );
        let rows = sqlx::query(AssertSqlSafe(read))
            .bind(cached)
            .fetch_all(self.connection())
            .await?;
        let mut by_id = HashMap::with_capacity(rows.len());
        for row in &rows {
            let hash: &[u8] = row.try_get(1)?;
            by_id.insert(row.try_get::<i64, _>(0)?, hash);
        }
        for (id, series) in ids.iter_mut().zip(series) {
            *id = id.filter(|id| by_id.get(id) == Some(&&series.hash[..]));
        }
        Ok(())
    }
}
