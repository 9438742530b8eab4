//! Table names.

use std::borrow::Cow;
use std::fmt;

use super::dialect::Dialect;
use crate::invalid_config::InvalidConfig;

/// The name of a database schema, or a prefix of table names.
///
/// ```
/// use keytally::backend::SqlName;
///
/// assert!(SqlName::new("gateway").is_ok());
/// assert!(SqlName::new("Robert'); DROP TABLE keys; --").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SqlName(Cow<'static, str>);

impl SqlName {
    /// A name that the caller knows to be valid: it is not checked.
    pub(in crate::backend) const fn from_static(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A name with 1 to 32 characters of `a-z`, `0-9` and `_`. SQL keywords are valid, since names are quoted where
    /// needed.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] for any other text, and for names that begin with a digit, `sqlite_` or `pg_`.
    pub fn new(name: &str) -> Result<Self, InvalidConfig> {
        let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let valid = (1..=32).contains(&name.len())
            && name.bytes().all(fits)
            && !name.starts_with(|c: char| c.is_ascii_digit())
            // Reserved by SQLite and PostgreSQL.
            && !name.starts_with("sqlite_")
            && !name.starts_with("pg_");
        if !valid {
            let reason =
                "1 to 32 characters of a-z, 0-9 and _, not beginning with a digit, sqlite_ or pg_";
            return Err(InvalidConfig::new("table prefix or schema", reason));
        }
        Ok(Self(Cow::Owned(name.into())))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The prefix of the table names and the schema that they are in. Both are validated, so they need no
/// escaping.
#[derive(Clone)]
pub(in crate::backend) struct Names {
    schema: Option<SqlName>,
    prefix: SqlName,
    pub(in crate::backend) dialect: Dialect,
}

impl Names {
    /// Names with the prefix `keytally_`.
    pub(in crate::backend) fn new(dialect: Dialect) -> Self {
        Self {
            schema: None,
            prefix: SqlName::from_static("keytally_"),
            dialect,
        }
    }

    /// Names with this prefix.
    pub(in crate::backend) fn with_prefix(self, prefix: SqlName) -> Self {
        Self { prefix, ..self }
    }

    /// Names in this schema.
    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn with_schema(self, schema: SqlName) -> Self {
        let schema = Some(schema);
        Self { schema, ..self }
    }

    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn schema(&self) -> Option<&str> {
        self.schema.as_ref().map(SqlName::as_str)
    }

    /// An SQL expression for the schema name. Without a configured schema, the one in which tables are created.
    #[cfg(feature = "postgres")]
    pub(in crate::backend) fn schema_in_sql(&self) -> String {
        match &self.schema {
            Some(SqlName(schema)) => format!("'{schema}'"),
            None => "current_schema()".into(),
        }
    }

    /// A query that returns a row if the migrations table exists.
    pub(super) fn has_migrations(&self) -> String {
        match self.dialect {
            #[cfg(feature = "_sqlite")]
            Dialect::Sqlite => {
                "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{unqualified_prefix}migrations'".into()
            }
            // Only in this schema, not elsewhere on the `search_path`.
            #[cfg(feature = "postgres")]
            Dialect::Postgres => format!(
                "SELECT 1 FROM pg_tables WHERE tablename = '{{unqualified_prefix}}migrations' AND schemaname = {}",
                self.schema_in_sql()
            ),
        }
    }

    /// Replaces the placeholders of prefixes: `{prefix}keys` becomes a name that is qualified with the schema,
    /// `{unqualified_prefix}keys` one without it.
    pub(in crate::backend) fn sql(&self, template: &str) -> String {
        let qualified = match &self.schema {
            Some(SqlName(schema)) => format!("\"{schema}\".{}", self.prefix.0),
            None => self.prefix.0.to_string(),
        };
        template
            .replace("{prefix}", &qualified)
            .replace("{unqualified_prefix}", &self.prefix.0)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql("{prefix}"))
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    const ANY: Dialect = Dialect::Postgres;

    #[test]
    fn prefixes_and_schemas_are_plain_identifiers() {
        for text in ["keytally_", "_", "a1", &"a".repeat(32)] {
            let name = SqlName::new(text).unwrap();
            assert_eq!(
                Names::new(ANY)
                    .with_prefix(name.clone())
                    .sql("{unqualified_prefix}"),
                text
            );
            let schema = Names::new(ANY).with_schema(name);
            assert_eq!(schema.sql("{prefix}x"), format!("\"{text}\".keytally_x"));
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
            let error = SqlName::new(text).unwrap_err();
            assert_eq!(error.field, "table prefix or schema", "{text}");
        }
    }

    #[test]
    fn table_placeholders_are_replaced() {
        let names = Names::new(ANY).with_prefix(SqlName::from_static("app_"));
        assert_eq!(
            names.sql("SELECT * FROM {prefix}keys, {prefix}batches"),
            "SELECT * FROM app_keys, app_batches"
        );
        let names = names.with_schema(SqlName::from_static("gateway"));
        assert_eq!(
            names.sql("CREATE INDEX {unqualified_prefix}by ON {prefix}keys"),
            "CREATE INDEX app_by ON \"gateway\".app_keys"
        );
    }
}
