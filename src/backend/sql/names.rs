//! The names of a backend's tables.

use std::fmt;

use super::dialect::Dialect;

/// What the names of the tables begin with, and the schema they are in. Checked, so that they can
/// stand in SQL as they are.
#[derive(Clone)]
pub(in crate::backend) struct Names {
    schema: Option<Box<str>>,
    prefix: Box<str>,
    pub(in crate::backend) dialect: Dialect,
}

/// A text that names of tables cannot begin with, or that cannot be a schema's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a table prefix or a schema is 1 to 32 characters of a-z, 0-9 and `_`, and does not begin with a digit"
)]
pub struct InvalidTablePrefix;

impl Names {
    /// Names that begin with `keytally_`.
    pub(in crate::backend) fn new(dialect: Dialect) -> Self {
        Self {
            schema: None,
            prefix: "keytally_".into(),
            dialect,
        }
    }

    /// Names that begin with this.
    pub(in crate::backend) fn with_prefix(self, text: &str) -> Result<Self, InvalidTablePrefix> {
        let prefix = checked(text)?;
        Ok(Self { prefix, ..self })
    }

    /// Names in this schema.
    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn with_schema(self, text: &str) -> Result<Self, InvalidTablePrefix> {
        let schema = Some(checked(text)?);
        Ok(Self { schema, ..self })
    }

    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The schema's name, in SQL: where none was chosen, the one in which tables are made.
    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn schema_in_sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!("'{schema}'"),
            None => "current_schema()".into(),
        }
    }

    /// Selects a row if the table of applied migrations exists.
    pub(super) fn has_migrations(&self) -> String {
        match self.dialect {
            #[cfg(feature = "_sqlite")]
            Dialect::Sqlite => {
                "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '¶migrations'".into()
            }
            // Not one that `search_path` finds elsewhere.
            #[cfg(feature = "postgres")]
            Dialect::Postgres => format!(
                "SELECT 1 FROM pg_tables WHERE tablename = '¶migrations' AND schemaname = {}",
                self.schema_in_sql()
            ),
        }
    }

    /// A statement with the names in it: `§keys` stands for `keytally_keys` in its schema, `¶keys` for
    /// the name without the schema.
    pub(in crate::backend) fn sql(&self, template: &str) -> String {
        let qualified = match &self.schema {
            Some(schema) => format!("\"{schema}\".{}", self.prefix),
            None => self.prefix.to_string(),
        };
        template.replace('§', &qualified).replace('¶', &self.prefix)
    }
}

fn checked(text: &str) -> Result<Box<str>, InvalidTablePrefix> {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
    let valid = (1..=32).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with(|c: char| c.is_ascii_digit())
        // SQLite keeps these names for itself, PostgreSQL those that begin with `pg_`.
        && !text.starts_with("sqlite_")
        && !text.starts_with("pg_");
    if valid {
        Ok(text.into())
    } else {
        Err(InvalidTablePrefix)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql("§"))
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    const ANY: Dialect = Dialect::Postgres;

    #[test]
    fn only_plain_names_are_prefixes_and_schemas() {
        for text in ["keytally_", "_", "a1", &"a".repeat(32)] {
            assert_eq!(Names::new(ANY).with_prefix(text).unwrap().sql("¶"), text);
            let schema = Names::new(ANY).with_schema(text).unwrap();
            assert_eq!(schema.sql("§x"), format!("\"{text}\".keytally_x"));
        }
        for text in [
            "",
            "1a",
            "A_",
            "a\"",
            "a'",
            "a;b",
            "a b",
            "a.b",
            "é",
            "a\0",
            "sqlite_x",
            "pg_x",
            &"a".repeat(33),
        ] {
            let prefix = Names::new(ANY).with_prefix(text);
            assert_eq!(prefix.unwrap_err(), InvalidTablePrefix, "{text}");
            let schema = Names::new(ANY).with_schema(text);
            assert_eq!(schema.unwrap_err(), InvalidTablePrefix, "{text}");
        }
    }

    #[test]
    fn every_table_of_a_statement_gets_its_name() {
        let names = Names::new(ANY).with_prefix("app_").unwrap();
        assert_eq!(
            names.sql("SELECT * FROM §keys, §batches"),
            "SELECT * FROM app_keys, app_batches"
        );
        let names = names.with_schema("gateway").unwrap();
        assert_eq!(
            names.sql("CREATE INDEX ¶by ON §keys"),
            "CREATE INDEX app_by ON \"gateway\".app_keys"
        );
    }
}
