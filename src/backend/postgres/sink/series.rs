//! Looking up and inserting series.

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::{Error as SqlError, Row};

use super::BatchWriter;
use crate::backend::sql::{Hash, Series, decode, status_codes};

impl BatchWriter<'_> {
    /// Returns the ids of the series, and those of them that were not cached.
    pub(super) async fn series_ids(
        &mut self,
        series: &[Series<'_>],
        today: i64,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let mut ids = self.engine.series_cache.of(series, today);
        self.check(series, &mut ids).await?;
        let unknown = series.iter().zip(&ids);
        let unknown: Vec<_> = unknown
            .filter_map(|(series, id)| id.is_none().then_some(series))
            .collect();
        let mut new_ids = Vec::new();
        if !unknown.is_empty() {
            new_ids = self.look_up(&unknown, today).await?;
            let by_hash: HashMap<_, _> = new_ids.iter().copied().collect();
            for (id, series) in ids.iter_mut().zip(series) {
                *id = id.or_else(|| by_hash.get(&series.hash).copied());
            }
        }
        let ids: Option<Vec<i64>> = ids.into_iter().collect();
        Ok((ids.ok_or(SqlError::RowNotFound)?, new_ids))
    }

    /// Clears the cached ids that do not match the database, which may have been restored or failed over since
    /// they were cached.
    async fn check(
        &mut self,
        series: &[Series<'_>],
        ids: &mut [Option<i64>],
    ) -> Result<(), SqlError> {
        let cached: Vec<i64> = ids.iter().flatten().copied().collect();
        if cached.is_empty() {
            return Ok(());
        }
        let read = self.sql("SELECT hash, id FROM §series WHERE id = ANY($1)");
        let rows = sqlx::query(read)
            .bind(cached)
            .fetch_all(&mut *self.connection)
            .await?;
        let by_hash: HashMap<Hash, i64> = rows.iter().map(decoded).collect::<Result<_, _>>()?;
        for (id, series) in ids.iter_mut().zip(series) {
            *id = id.filter(|id| by_hash.get(&series.hash) == Some(id));
        }
        Ok(())
    }

    /// Inserts the series that do not exist, and returns the ids of all.
    async fn look_up(
        &mut self,
        series: &[&Series<'_>],
        today: i64,
    ) -> Result<Vec<(Hash, i64)>, SqlError> {
        let events = || series.iter().map(|series| series.event);
        let hashes: Vec<&[u8]> = series.iter().map(|series| &series.hash[..]).collect();
        let keys: Vec<_> = events()
            .map(|event| event.key.map(|key| key.to_string()))
            .collect();
        let owners: Vec<_> = events().map(|event| event.owner.as_deref()).collect();
        let methods: Vec<_> = events().map(|event| event.method.as_str()).collect();
        let endpoints: Vec<_> = events().map(|event| &*event.endpoint).collect();
        let statuses = events().map(|event| status_codes(event.status));
        let (http, grpc): (Vec<_>, Vec<_>) = statuses.unzip();
        let outcomes: Vec<_> = events().map(|event| event.outcome.as_str()).collect();
        let causes = events().map(|event| event.cause.map(|cause| cause.as_str()));
        let classes = events().map(|event| event.status.class().as_str());
        // Ordered by hash, to prevent deadlocks.
        let insert = self.sql(
            "INSERT INTO §series (hash, key_id, owner, method, endpoint, http_status, grpc_status,
                outcome, cause, status_class, last_seen_day)
            SELECT *, $11::bigint FROM UNNEST($1::bytea[], $2::text[], $3::text[], $4::text[],
                $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[])
            ON CONFLICT (hash) DO NOTHING",
        );
        sqlx::query(insert)
            .bind(&hashes)
            .bind(keys)
            .bind(owners)
            .bind(methods)
            .bind(endpoints)
            .bind(http)
            .bind(grpc)
            .bind(outcomes)
            .bind(causes.collect::<Vec<_>>())
            .bind(classes.collect::<Vec<_>>())
            .bind(today)
            .execute(&mut *self.connection)
            .await?;
        let update = self.sql(
            "WITH held AS (SELECT id FROM §series WHERE hash = ANY($1) AND last_seen_day < $2
                ORDER BY hash FOR NO KEY UPDATE)
            UPDATE §series s SET last_seen_day = $2 FROM held WHERE s.id = held.id",
        );
        sqlx::query(update)
            .bind(&hashes)
            .bind(today)
            .execute(&mut *self.connection)
            .await?;
        let read = self.sql("SELECT hash, id FROM §series WHERE hash = ANY($1)");
        let rows = sqlx::query(read)
            .bind(&hashes)
            .fetch_all(&mut *self.connection)
            .await?;
        rows.iter().map(decoded).collect()
    }
}

fn decoded(row: &PgRow) -> Result<(Hash, i64), SqlError> {
    let hash: &[u8] = row.try_get(0)?;
    Ok((Hash::try_from(hash).map_err(decode)?, row.try_get(1)?))
}
