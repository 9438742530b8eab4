//! What the names of a backend's tables begin with.

use std::fmt;

use sqlx::AssertSqlSafe;

/// The beginning of the names of a backend's tables. Checked, so that it can stand in SQL as it is.
#[derive(Clone)]
pub(in crate::backend) struct TablePrefix(Box<str>);

/// A text that names of tables cannot begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a table prefix is 1 to 32 characters of a-z, 0-9 and `_`, and does not begin with a digit"
)]
pub struct InvalidTablePrefix;

impl TablePrefix {
    /// Checks a prefix.
    pub(in crate::backend) fn new(text: &str) -> Result<Self, InvalidTablePrefix> {
        let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let valid = (1..=32).contains(&text.len())
            && text.bytes().all(fits)
            && !text.starts_with(|c: char| c.is_ascii_digit())
            // SQLite keeps these names for itself, PostgreSQL those that begin with `pg_`.
            && !text.starts_with("sqlite_")
            && !text.starts_with("pg_");
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTablePrefix)
        }
    }

    /// A statement with the names of tables in it: `§keys` stands for `keytally_keys`.
    pub(in crate::backend) fn sql(&self, template: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(template.replace('§', &self.0))
    }
}

impl Default for TablePrefix {
    fn default() -> Self {
        Self("keytally_".into())
    }
}

impl fmt::Debug for TablePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_prefixes() {
        for text in ["keytally_", "_", "a1", &"a".repeat(32)] {
            assert_eq!(*TablePrefix::new(text).unwrap().0, *text);
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
            assert_eq!(
                TablePrefix::new(text).unwrap_err(),
                InvalidTablePrefix,
                "{text}"
            );
        }
    }

    #[test]
    fn every_table_of_a_statement_gets_it() {
        let sql = TablePrefix::new("app_")
            .unwrap()
            .sql("SELECT * FROM §keys, §batches");
        assert_eq!(sql.0, "SELECT * FROM app_keys, app_batches");
    }
}
