//! The numbers of series.

use sqlx::{AssertSqlSafe, Error as SqlError, Row};

use super::Writing;
use crate::backend::sql::{Grouped, Hash, status_codes};

impl Writing<'_> {
    /// The numbers of the series, and which of them were looked up.
    pub(super) async fn number(
        &mut self,
        grouped: &Grouped<'_>,
    ) -> Result<(Vec<i64>, Vec<(Hash, i64)>), SqlError> {
        let known = self.backend.0.engine.known.of(&grouped.series, self.today);
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
}
