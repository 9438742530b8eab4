//! Schema migrations. Each is applied once, in order, in its own transaction.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::Error as SqlError;

use super::engine::{Engine, Row, Session, Statement, Value};
use super::error::BackendError;
use super::value::{as_micros, required, text};

/// A schema migration. Once released, its SQL never changes.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) struct Migration {
    /// The version of the schema after the migration, counted from 1.
    pub(in crate::backend) version: i64,
    /// A short description.
    pub(in crate::backend) name: &'static str,
    /// The statements. `{prefix}` stands for the schema and the table prefix, `{unqualified_prefix}` for the latter alone.
    pub(in crate::backend) sql: &'static str,
}

impl Migration {
    /// The SHA-256 of the SQL, to detect changes of an applied migration.
    fn checksum(&self) -> String {
        let digest = Sha256::digest(self.sql.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The migrations of a backend, from their SQL in the database's dialect.
pub(in crate::backend) const fn migrations(
    [first, second, third, fourth]: [&'static str; 4],
) -> [Migration; 4] {
    [
        Migration {
            version: 1,
            name: "keys, request log and rollups",
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
        Migration {
            version: 4,
            name: "rollup records",
            sql: fourth,
        },
    ]
}

/// Applies the pending migrations, each in its own transaction.
pub(in crate::backend) async fn migrate<E: Engine>(
    engine: &E,
    migrations: &[Migration],
) -> Result<(), BackendError> {
    let names = engine.names();
    let encoding = Statement::new(names, names.dialect.encoding());
    let rows = engine.reader().await?.fetch(encoding).await?;
    let encoding = text(required(rows.first())?, "encoding")?;
    if !matches!(&*encoding, "UTF8" | "UTF-8") {
        return Err(BackendError::Encoding(encoding));
    }
    while apply_next(engine, migrations).await? {}
    Ok(())
}

/// Applies the next pending migration. Returns whether there was one.
async fn apply_next<E: Engine>(engine: &E, migrations: &[Migration]) -> Result<bool, BackendError> {
    let names = engine.names();
    let mut session = engine.migrator().await?;
    let applied = applied(engine, &mut session).await?;
    let Some(migration) = next_migration(migrations, &applied)? else {
        return Ok(false);
    };
    session.execute_script(&names.sql(migration.sql)).await?;
    let insert =
        "INSERT INTO {prefix}migrations (version, name, checksum, applied) VALUES ($1, $2, $3, $4)";
    let insert = Statement::new(names, insert)
        .bind(migration.version)
        .bind(migration.name)
        .bind(&*migration.checksum())
        .bind(Value::Time(Some(as_micros(Timestamp::now()))));
    session.execute(insert).await?;
    session.commit().await?;
    Ok(true)
}

/// The applied migrations as version and checksum, in order.
async fn applied<E: Engine>(
    engine: &E,
    session: &mut E::Session,
) -> Result<Vec<(i64, String)>, SqlError> {
    let names = engine.names();
    // Checked first, since the user may lack the privilege to create tables that already exist.
    let exists = Statement::new(names, &names.has_migrations());
    if session.fetch(exists).await?.is_empty() {
        let create = names.sql(names.dialect.create_migrations_table());
        session.execute_script(&create).await?;
    }
    let list = "SELECT version, checksum FROM {prefix}migrations ORDER BY version";
    let rows = session.fetch(Statement::new(names, list)).await?;
    rows.iter()
        .map(|row| Ok((required(row.integer("version")?)?, text(row, "checksum")?)))
        .collect()
}

/// The migration that follows the applied ones, which are given as version and checksum in order. `None` if all
/// are applied.
fn next_migration<'a>(
    migrations: &'a [Migration],
    applied: &[(i64, String)],
) -> Result<Option<&'a Migration>, BackendError> {
    let known = migrations.last().map_or(0, |last| last.version);
    if let Some(&(found, _)) = applied.last()
        && found > known
    {
        return Err(BackendError::NewerSchema { found, known });
    }
    for (index, (version, checksum)) in applied.iter().enumerate() {
        let is_same = |it: &Migration| it.version == *version && it.checksum() == *checksum;
        if !migrations.get(index).is_some_and(is_same) {
            return Err(BackendError::MigrationMismatch { version: *version });
        }
    }
    Ok(migrations.get(applied.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIGRATIONS: [Migration; 2] = [
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
    fn migrations_follow_each_other() {
        let mut applied = Vec::new();
        while let Some(next) = next_migration(&MIGRATIONS, &applied).unwrap() {
            assert_eq!(next.version, applied.len() as i64 + 1);
            applied.push((next.version, next.checksum()));
        }
        assert_eq!(applied.len(), 2);
    }

    #[test]
    fn newer_and_changed_migrations_are_errors() {
        let mut applied = vec![(1, MIGRATIONS[0].checksum()), (2, MIGRATIONS[1].checksum())];
        let newer = next_migration(&MIGRATIONS[..1], &applied).unwrap_err();
        assert!(matches!(
            newer,
            BackendError::NewerSchema { found: 2, known: 1 }
        ));
        applied[0].1 = "else".into();
        let other = next_migration(&MIGRATIONS, &applied).unwrap_err();
        assert!(matches!(
            other,
            BackendError::MigrationMismatch { version: 1 }
        ));
        // The first migration is missing.
        let other = next_migration(&MIGRATIONS, &[(2, MIGRATIONS[1].checksum())]).unwrap_err();
        assert!(matches!(
            other,
            BackendError::MigrationMismatch { version: 2 }
        ));
    }
}
