//! The numbers of series.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::Writing;
use crate::backend::sql::{Grouped, Hash, Series, decode, status_codes};

impl Writing<'_> {
    /// The numbers of the series, and which of them were looked up.
    pub(super) async fn number(
        &mut self,
        grouped: &Grouped<'_>,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let mut known = self.backend.0.engine.known.of(&grouped.series, self.today);
        self.check(&grouped.series, &mut known).await?;
        let find = self.sql("UPDATE §series SET seen = max(seen, ?2) WHERE hash = ?1 RETURNING id");
        let add = self.sql(
            "INSERT INTO §series (hash, key_id, owner, method, endpoint, http_status, grpc_status,
                outcome, cause, status_class, seen)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        );
        let (mut ids, mut learnt) = (Vec::with_capacity(known.len()), Vec::new());
        for (series, known) in grouped.series.iter().zip(known) {
            let id = match known {
                Some(id) => id,
                None => {
                    let today = self.today;
                    let found = sqlx::query(AssertSqlSafe(&*find))
                        .bind(&series.hash[..])
                        .bind(today)
                        .fetch_optional(self.connection())
                        .await?;
                    let row = match found {
                        Some(row) => row,
                        None => {
                            let event = series.event;
                            let (http, grpc) = status_codes(event.status);
                            sqlx::query(AssertSqlSafe(&*add))
                                .bind(&series.hash[..])
                                .bind(event.key.as_ref().map(|key| key.as_str()))
                                .bind(event.owner.as_deref())
                                .bind(event.method.as_str())
                                .bind(&*event.endpoint)
                                .bind(http)
                                .bind(grpc)
                                .bind(event.outcome.as_str())
                                .bind(event.cause.map(|cause| cause.as_str()))
                                .bind(event.status.class().as_str())
                                .bind(today)
                                .fetch_one(self.connection())
                                .await?
                        }
                    };
                    let id = row.try_get(0)?;
                    learnt.push((series.hash, id));
                    id
                }
            };
            ids.push(id);
        }
        Ok((ids, learnt))
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
