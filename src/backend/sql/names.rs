//! Table names.

use std::fmt;

use super::dialect::Dialect;
use crate::invalid_config::InvalidConfig;

/// The prefix of the table names and the schema that they are in. Both are validated, so they are safe to use in
/// SQL without quoting.
#[derive(Clone)]
pub(in crate::backend) struct Names {
    schema: Option<Box<str>>,
    prefix: Box<str>,
    pub(in crate::backend) dialect: Dialect,
}

impl Names {
    /// Names with the prefix `keytally_`.
    pub(in crate::backend) fn new(dialect: Dialect) -> Self {
        Self {
            schema: None,
            prefix: "keytally_".into(),
            dialect,
        }
    }

    /// Names with this prefix.
    pub(in crate::backend) fn with_prefix(self, text: &str) -> Result<Self, InvalidConfig> {
        let prefix = checked(text)?;
        Ok(Self { prefix, ..self })
    }

    /// Names in this schema.
    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn with_schema(self, text: &str) -> Result<Self, InvalidConfig> {
        let schema = Some(checked(text)?);
        Ok(Self { schema, ..self })
    }

    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// An SQL expression for the schema name. Without a configured schema, the one in which tables are created.
    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn schema_in_sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!("'{schema}'"),
            None => "current_schema()".into(),
        }
    }

    /// A query that returns a row if the migrations table exists.
    pub(super) fn has_migrations(&self) -> String {
        match self.dialect {
            #[cfg(feature = "_sqlite")]
            Dialect::Sqlite => {
                "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '¶migrations'".into()
            }
            // Only in this schema, not elsewhere on the `search_path`.
            #[cfg(feature = "postgres")]
            Dialect::Postgres => format!(
                "SELECT 1 FROM pg_tables WHERE tablename = '¶migrations' AND schemaname = {}",
                self.schema_in_sql()
            ),
        }
    }

    /// Replaces placeholders by table names: `§keys` by the qualified name `keytally_keys`, `¶keys` by the name
    /// without the schema.
    pub(in crate::backend) fn sql(&self, template: &str) -> String {
        let qualified = match &self.schema {
            Some(schema) => format!("\"{schema}\".{}", self.prefix),
            None => self.prefix.to_string(),
        };
        template.replace('§', &qualified).replace('¶', &self.prefix)
    }
}

fn checked(text: &str) -> Result<Box<str>, InvalidConfig> {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
    let valid = (1..=32).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with(|c: char| c.is_ascii_digit())
        // Reserved by SQLite and PostgreSQL.
        && !text.starts_with("sqlite_")
        && !text.starts_with("pg_");
    if valid {
        Ok(text.into())
    } else {
        Err(InvalidConfig::new(
            "table prefix or schema",
            "1 to 32 characters of a-z, 0-9 and _, not beginning with a digit",
        ))
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
    fn prefixes_and_schemas_are_plain_identifiers() {
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
            assert_eq!(
                prefix.unwrap_err().field,
                "table prefix or schema",
                "{text}"
            );
            let schema = Names::new(ANY).with_schema(text);
            assert_eq!(
                schema.unwrap_err().field,
                "table prefix or schema",
                "{text}"
            );
        }
    }

    #[test]
    fn table_placeholders_are_replaced() {
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
