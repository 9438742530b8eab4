//! The numbers of series.

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::{Error as SqlError, Row};

use super::Writing;
use crate::backend::sql::{Hash, Series, decode, status_codes};

impl Writing<'_> {
    /// The numbers of the series, and which of them were looked up.
    pub(super) async fn number(
        &mut self,
        series: &[Series<'_>],
        today: i64,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let mut ids = self.engine.known.of(series, today);
        self.check(series, &mut ids).await?;
        let unknown = series.iter().zip(&ids);
        let unknown: Vec<_> = unknown
            .filter_map(|(series, id)| id.is_none().then_some(series))
            .collect();
        let mut learnt = Vec::new();
        if !unknown.is_empty() {
            learnt = self.look_up(&unknown, today).await?;
            let numbers: HashMap<_, _> = learnt.iter().copied().collect();
            for (id, series) in ids.iter_mut().zip(series) {
                *id = id.or_else(|| numbers.get(&series.hash).copied());
            }
        }
        let ids: Option<Vec<i64>> = ids.into_iter().collect();
        Ok((ids.ok_or(SqlError::RowNotFound)?, learnt))
    }

    /// Strikes out the numbers that are not those of their series: the database may have been restored,
    /// or another server may have taken its place, since they were learnt.
    async fn check(
        &mut self,
        series: &[Series<'_>],
        ids: &mut [Option<i64>],
    ) -> Result<(), SqlError> {
        let known: Vec<i64> = ids.iter().flatten().copied().collect();
        if known.is_empty() {
            return Ok(());
        }
        let read = self.sql("SELECT hash, id FROM §series WHERE id = ANY($1)");
        let rows = sqlx::query(read)
            .bind(known)
            .fetch_all(&mut *self.connection)
            .await?;
        let numbers: HashMap<Hash, i64> = rows.iter().map(number).collect::<Result<_, _>>()?;
        for (id, series) in ids.iter_mut().zip(series) {
            *id = id.filter(|id| numbers.get(&series.hash) == Some(id));
        }
        Ok(())
    }

    /// Adds the series that are not there, and answers all numbers.
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
        // In the order of their hashes, as everywhere.
        let add = self.sql(
            "INSERT INTO §series (hash, key_id, owner, method, endpoint, http_status, grpc_status,
                outcome, cause, status_class, last_seen_day)
            SELECT *, $11::bigint FROM UNNEST($1::bytea[], $2::text[], $3::text[], $4::text[],
                $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[])
            ON CONFLICT (hash) DO NOTHING",
        );
        sqlx::query(add)
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
        let note = self.sql(
            "WITH held AS (SELECT id FROM §series WHERE hash = ANY($1) AND last_seen_day < $2
                ORDER BY hash FOR NO KEY UPDATE)
            UPDATE §series s SET last_seen_day = $2 FROM held WHERE s.id = held.id",
        );
        sqlx::query(note)
            .bind(&hashes)
            .bind(today)
            .execute(&mut *self.connection)
            .await?;
        let read = self.sql("SELECT hash, id FROM §series WHERE hash = ANY($1)");
        let rows = sqlx::query(read)
            .bind(&hashes)
            .fetch_all(&mut *self.connection)
            .await?;
        rows.iter().map(number).collect()
    }
}

fn number(row: &PgRow) -> Result<(Hash, i64), SqlError> {
    let hash: &[u8] = row.try_get(0)?;
    Ok((Hash::try_from(hash).map_err(decode)?, row.try_get(1)?))
}
