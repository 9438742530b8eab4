//! Steps of a schema. Each is applied once, in order, in a transaction of its own.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::Error as SqlError;

use super::engine::{Engine, Row, Session, Statement, Value};
use super::error::BackendError;
use super::value::{as_micros, text, there};

/// A step of the schema. Once released, its text never changes.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) struct Migration {
    /// Its place, counted from 1.
    pub(in crate::backend) version: i64,
    /// What it is for.
    pub(in crate::backend) name: &'static str,
    /// Its statements; `§` stands for the tables' prefix and schema, `¶` for the prefix.
    pub(in crate::backend) sql: &'static str,
}

impl Migration {
    /// Tells whether the text is the one that was applied.
    fn checksum(&self) -> String {
        let digest = Sha256::digest(self.sql.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The steps of every database, each in its own SQL.
pub(in crate::backend) const fn steps([first, second, third]: [&'static str; 3]) -> [Migration; 3] {
    [
        Migration {
            version: 1,
            name: "keys, the request log and its sums",
            sql: first,
        },
        Migration {
            version: 2,
            name: "cursors for the request log",
            sql: second,
        },
        Migration {
            version: 3,
            name: "standard names",
            sql: third,
        },
    ]
}

/// Applies the steps that are missing, each in a transaction of its own.
pub(in crate::backend) async fn migrate<E: Engine>(
    engine: &E,
    steps: &[Migration],
) -> Result<(), BackendError> {
    let names = engine.names();
    let encoding = Statement::new(names, names.dialect.encoding());
    let rows = engine.reader().await?.rows(encoding).await?;
    let encoding = text(there(rows.first())?, "encoding")?;
    if !matches!(&*encoding, "UTF8" | "UTF-8") {
        return Err(BackendError::Encoding(encoding));
    }
    while apply_next(engine, steps).await? {}
    Ok(())
}

/// Applies the next step; whether there was one.
async fn apply_next<E: Engine>(engine: &E, steps: &[Migration]) -> Result<bool, BackendError> {
    let names = engine.names();
    let mut session = engine.migrator().await?;
    let applied = applied(engine, &mut session).await?;
    let Some(step) = next_step(steps, &applied)? else {
        return Ok(false);
    };
    session.script(&names.sql(step.sql)).await?;
    let add = "INSERT INTO §migrations (version, name, checksum, applied) VALUES ($1, $2, $3, $4)";
    let add = Statement::new(names, add)
        .bind(step.version)
        .bind(step.name)
        .bind(&*step.checksum())
        .bind(Value::Time(Some(as_micros(Timestamp::now()))));
    session.run(add).await?;
    session.commit().await?;
    Ok(true)
}

/// The steps that were applied, in order.
async fn applied<E: Engine>(
    engine: &E,
    session: &mut E::Session,
) -> Result<Vec<(i64, String)>, SqlError> {
    let names = engine.names();
    // Asking first: who may not make tables may well have them.
    let found = Statement::new(names, &names.has_migrations());
    if session.rows(found).await?.is_empty() {
        let make = names.sql(names.dialect.migrations());
        session.script(&make).await?;
    }
    let list = "SELECT version, checksum FROM §migrations ORDER BY version";
    let rows = session.rows(Statement::new(names, list)).await?;
    rows.iter()
        .map(|row| Ok((there(row.integer("version")?)?, text(row, "checksum")?)))
        .collect()
}

/// The step that follows those that were applied, given as version and checksum in order; `None` when
/// there is none left.
fn next_step<'a>(
    steps: &'a [Migration],
    applied: &[(i64, String)],
) -> Result<Option<&'a Migration>, BackendError> {
    let known = steps.last().map_or(0, |step| step.version);
    if let Some(&(found, _)) = applied.last()
        && found > known
    {
        return Err(BackendError::NewerSchema { found, known });
    }
    for (index, (version, checksum)) in applied.iter().enumerate() {
        let same = |step: &Migration| step.version == *version && step.checksum() == *checksum;
        if !steps.get(index).is_some_and(same) {
            return Err(BackendError::OtherSchema { version: *version });
        }
    }
    Ok(steps.get(applied.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Migration; 2] = [
        Migration {
            version: 1,
            name: "one",
            sql: "one",
        },
        Migration {
            version: 2,
            name: "two",
            sql: "two",
        },
    ];

    #[test]
    fn steps_follow_each_other() {
        let mut applied = Vec::new();
        while let Some(step) = next_step(&STEPS, &applied).unwrap() {
            assert_eq!(step.version, applied.len() as i64 + 1);
            applied.push((step.version, step.checksum()));
        }
        assert_eq!(applied.len(), 2);
    }

    #[test]
    fn what_is_newer_or_other_is_refused() {
        let mut applied = vec![(1, STEPS[0].checksum()), (2, STEPS[1].checksum())];
        let newer = next_step(&STEPS[..1], &applied).unwrap_err();
        assert!(matches!(
            newer,
            BackendError::NewerSchema { found: 2, known: 1 }
        ));
        applied[0].1 = "else".into();
        let other = next_step(&STEPS, &applied).unwrap_err();
        assert!(matches!(other, BackendError::OtherSchema { version: 1 }));
        // The first one is missing.
        let other = next_step(&STEPS, &[(2, STEPS[1].checksum())]).unwrap_err();
        assert!(matches!(other, BackendError::OtherSchema { version: 2 }));
    }
}
