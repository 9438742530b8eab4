//! `VALUES` lists for statements with many rows.

use sqlx::Error as SqlError;
use sqlx::sqlite::SqliteArguments;

/// The maximum number of rows per statement: enough to make the overhead of a statement negligible.
pub(super) const ROWS: usize = 128;

/// Placeholders and arguments of a `VALUES` list.
pub(super) struct Values {
    pub(super) placeholders: String,
    pub(super) arguments: SqliteArguments,
}

impl Values {
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        let row = format!("({})", vec!["?"; columns].join(","));
        Self {
            placeholders: vec![&*row; rows].join(","),
            arguments: SqliteArguments::default(),
        }
    }

    pub(super) fn add<'q, T>(&mut self, value: T) -> Result<&mut Self, SqlError>
    where
        T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        use sqlx::Arguments as _;

        self.arguments.add(value).map_err(SqlError::Encode)?;
        Ok(self)
    }
}
