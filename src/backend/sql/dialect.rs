//! What databases say in words of their own; all other SQL is the same for each.

/// Which words a database understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Dialect {
    #[cfg(feature = "_sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// Chooses by dialect, where only those that are built in are known.
macro_rules! say {
    ($dialect:expr, sqlite: $sqlite:expr, postgres: $postgres:expr $(,)?) => {
        match $dialect {
            #[cfg(feature = "_sqlite")]
            Dialect::Sqlite => $sqlite,
            #[cfg(feature = "postgres")]
            Dialect::Postgres => $postgres,
        }
    };
}

impl Dialect {
    /// Behind a `SELECT`: holds what is read until the transaction ends. SQLite has one writer, which
    /// holds everything.
    pub(super) fn lock_rows(self) -> &'static str {
        say!(self, sqlite: "", postgres: " FOR UPDATE")
    }

    /// Passes over rows that others hold.
    pub(super) fn skip_locked(self) -> &'static str {
        say!(self, sqlite: "", postgres: " FOR UPDATE SKIP LOCKED")
    }

    /// Where a text stands in a column, counted from 1: what comes before the text's place and what
    /// comes after it.
    pub(super) fn position(self, column: &str) -> (String, &'static str) {
        say!(
            self,
            sqlite: (format!("instr({column}, "), ")"),
            postgres: (format!("strpos({column}, "), ")"),
        )
    }

    /// A sum that stops at 2⁶³ - 1. SQLite has no wider number than that and fails beyond it, so the
    /// halves are summed up.
    pub(super) fn capped_sum(self, column: &str) -> String {
        let most = i64::MAX;
        say!(
            self,
            sqlite: format!(
                "CASE WHEN sum({column} >> 32) + (sum({column} & 4294967295) >> 32) >= 2147483648
                THEN {most} ELSE (sum({column} >> 32) << 32) + sum({column} & 4294967295) END"
            ),
            postgres: format!("least(sum({column}), {most})::bigint"),
        )
    }

    /// Adds to a column what comes in, up to 2⁶³ - 1; `t` is the table.
    pub(in crate::backend) fn capped_add(self, column: &str) -> String {
        let most = i64::MAX;
        format!(
            "{column} = CASE WHEN t.{column} > {most} - excluded.{column} THEN {most}
            ELSE t.{column} + excluded.{column} END"
        )
    }

    /// Adds to the column of latencies what comes in; `t` is the table.
    pub(in crate::backend) fn add_latency(self) -> &'static str {
        say!(
            self,
            sqlite: "latency = CAST(t.latency || excluded.latency AS BLOB)",
            postgres: "latency = t.latency || excluded.latency",
        )
    }

    /// A column's bytes of all rows, one behind the other.
    pub(super) fn joined(self, column: &str) -> String {
        say!(
            self,
            sqlite: format!("CAST(group_concat({column}, '') AS BLOB)"),
            postgres: format!("string_agg({column}, ''::bytea)"),
        )
    }

    /// The whole seconds of a time since 1970.
    pub(super) fn seconds(self, column: &str) -> String {
        say!(
            self,
            sqlite: format!("({column} / 1000000)"),
            postgres: format!("extract(epoch FROM {column})::bigint"),
        )
    }

    /// Whether each day of the log is a table of its own.
    pub(super) fn has_log_in_days(self) -> bool {
        say!(self, sqlite: false, postgres: true)
    }

    /// The encoding of texts in the database.
    pub(super) fn encoding(self) -> &'static str {
        say!(
            self,
            sqlite: "SELECT encoding FROM pragma_encoding",
            postgres: "SELECT current_setting('server_encoding') AS encoding",
        )
    }

    /// Makes the table of the steps that were applied.
    pub(super) fn migrations(self) -> &'static str {
        say!(
            self,
            sqlite: "CREATE TABLE IF NOT EXISTS §migrations (
                version INTEGER NOT NULL PRIMARY KEY,
                name TEXT NOT NULL,
                checksum TEXT NOT NULL,
                applied INTEGER NOT NULL
            ) STRICT",
            postgres: "CREATE TABLE IF NOT EXISTS §migrations (
                version bigint PRIMARY KEY,
                name text NOT NULL,
                checksum text NOT NULL,
                applied timestamptz NOT NULL
            )",
        )
    }

    /// A column whose index would find all that matches, where another finds the newest first. SQLite
    /// does not know how much matches.
    pub(super) fn not_looked_up(self, column: &str) -> String {
        say!(self, sqlite: format!("+{column}"), postgres: column.into())
    }

    /// A sum of whole numbers that cannot grow too large.
    pub(super) fn sum(self, column: &str) -> String {
        say!(
            self,
            sqlite: format!("sum({column})"),
            postgres: format!("sum({column})::bigint"),
        )
    }

    /// Whether a text that can be of any length is this one: by what its index holds, and then whole.
    pub(super) fn is_text(self, column: &str, place: &str) -> String {
        say!(
            self,
            sqlite: format!("{column} = {place}"),
            postgres: format!(
                "left({column}, 64) = left({place}::text, 64) AND {column} = {place}"
            ),
        )
    }

    /// The requests `r` whose text in a column is that of a place, up to the `WHERE` and what it says of
    /// that, read by the column's index. In SQLite that has a part for each block of rows, and each of
    /// them is looked into; else a text would be put anywhere in an index of the whole log, and a batch
    /// would touch a page for each.
    pub(super) fn with_text(self, column: &str, place: &str) -> String {
        say!(
            self,
            sqlite: format!(
                "(WITH RECURSIVE blocks(block) AS (
                    SELECT max(row) >> 16 FROM §requests
                    UNION ALL SELECT block - 1 FROM blocks
                    WHERE block > (SELECT min(row) >> 16 FROM §requests))
                SELECT block FROM blocks) one CROSS JOIN §requests r
                WHERE r.row >> 16 = one.block AND r.{column} = {place}"
            ),
            // An equality would let it leave the text out of the order, and read all there is by time
            // until enough of it have this text.
            postgres: format!(
                "§requests r WHERE left({column}, 64) >= left({place}::text, 64)
                AND left({column}, 64) <= left({place}::text, 64) AND {column} = {place}"
            ),
        )
    }

    /// `columns` of the newest of such requests that fulfil `which`, up to `limit`.
    pub(super) fn newest_with_text(
        self,
        columns: &str,
        column: &str,
        place: &str,
        which: &str,
        limit: &str,
    ) -> String {
        let with_text = self.with_text(column, place);
        say!(
            self,
            sqlite: format!(
                "SELECT {columns} FROM {with_text}{which} AND r.time >= coalesce(
                    (SELECT time FROM §requests WHERE row >> 16 = one.block AND {column} = {place}{which}
                    ORDER BY time DESC LIMIT 1 OFFSET {limit} - 1), {})
                ORDER BY time DESC, id DESC LIMIT {limit}",
                i64::MIN
            ),
            postgres: format!(
                "SELECT {columns} FROM {with_text}{which}
                ORDER BY left({column}, 64) DESC, time DESC, id DESC LIMIT {limit}"
            ),
        )
    }

    /// The series `s` and what a table `t` has of each that fulfils `which`, read series by series: each
    /// has its rows side by side. PostgreSQL would read the rows of all series, where it does not
    /// expect many.
    pub(super) fn series_and(self, table: &str, which: &str) -> String {
        say!(
            self,
            sqlite: format!(
                "§series s CROSS JOIN {table} t WHERE t.series_id = s.id AND {which}"
            ),
            postgres: format!(
                "§series s CROSS JOIN LATERAL
                (SELECT * FROM {table} t WHERE t.series_id = s.id AND {which} OFFSET 0) t
                WHERE TRUE"
            ),
        )
    }

    /// `columns` of the requests `r` that fulfil `which`, of each of the series that `series` selects as
    /// `series_id`, read series by series. PostgreSQL is given a limit to each, which is that to all.
    pub(super) fn of_each_series(
        self,
        columns: &str,
        series: &str,
        which: &str,
        order: &str,
        limit: &str,
    ) -> String {
        say!(
            self,
            sqlite: {
                let _ = limit;
                format!(
                    "SELECT {columns} FROM ({series}) one CROSS JOIN §requests r
                    WHERE r.series_id = one.series_id{which} {order}"
                )
            },
            postgres: format!(
                "SELECT {columns} FROM ({series}) one CROSS JOIN LATERAL
                (SELECT * FROM §requests WHERE series_id = one.series_id{which} {order}
                LIMIT {limit}) r"
            ),
        )
    }

    /// The time of the last one of so many newest requests of all these series. Told by the index alone:
    /// most of what would otherwise be read of each series is older than that.
    pub(super) fn time_of_last(self, series: &str, which: &str, limit: &str) -> String {
        let newest = say!(
            self,
            sqlite: format!(
                "SELECT r.time AS time FROM ({series}) one CROSS JOIN §requests r
                WHERE r.series_id = one.series_id{which} AND r.time >= coalesce(
                    (SELECT time FROM §requests WHERE series_id = one.series_id{which}
                    ORDER BY time DESC LIMIT 1 OFFSET {limit} - 1), {})",
                i64::MIN
            ),
            postgres: format!(
                "SELECT r.time FROM ({series}) one CROSS JOIN LATERAL
                (SELECT time FROM §requests WHERE series_id = one.series_id{which}
                ORDER BY time DESC LIMIT {limit}) r"
            ),
        );
        format!(
            "SELECT min(time) FROM (SELECT time FROM ({newest}) newest ORDER BY time DESC LIMIT {limit}) last"
        )
    }
}
