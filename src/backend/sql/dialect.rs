//! Differences between the SQL dialects. All other SQL is shared.

/// The SQL dialect of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Dialect {
    #[cfg(feature = "_sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// Selects an expression by dialect. Only the variants of enabled features exist.
macro_rules! by_dialect {
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
    /// A suffix of a `SELECT` that locks the rows until the end of the transaction. Not needed in SQLite, which
    /// has a single writer.
    pub(super) fn lock_rows(self) -> &'static str {
        by_dialect!(self, sqlite: "", postgres: " FOR UPDATE")
    }

    /// A suffix of a `SELECT` that locks the rows and skips those that are locked by others.
    pub(super) fn skip_locked(self) -> &'static str {
        by_dialect!(self, sqlite: "", postgres: " FOR UPDATE SKIP LOCKED")
    }

    /// An expression for the position of a text in a column, counted from 1, or 0 if it does not occur: the SQL
    /// before and after the placeholder of the text.
    pub(super) fn position(self, column: &str) -> (String, &'static str) {
        by_dialect!(
            self,
            sqlite: (format!("instr({column}, "), ")"),
            postgres: (format!("strpos({column}, "), ")"),
        )
    }

    /// A sum that saturates at 2⁶³ - 1. SQLite reports an error on overflow, so it adds up the upper and lower 32
    /// bits separately.
    pub(super) fn capped_sum(self, column: &str) -> String {
        let most = i64::MAX;
        by_dialect!(
            self,
            sqlite: format!(
                "CASE WHEN sum({column} >> 32) + (sum({column} & 4294967295) >> 32) >= 2147483648
                THEN {most} ELSE (sum({column} >> 32) << 32) + sum({column} & 4294967295) END"
            ),
            postgres: format!("least(sum({column}), {most})::bigint"),
        )
    }

    /// An assignment for an upsert that adds to a column and saturates at 2⁶³ - 1. `t` is the table.
    pub(super) fn capped_add(self, column: &str) -> String {
        let most = i64::MAX;
        format!(
            "{column} = CASE WHEN t.{column} > {most} - excluded.{column} THEN {most}
            ELSE t.{column} + excluded.{column} END"
        )
    }

    /// Assignments for an upsert that adds all sums of a rollup. `t` is the table.
    pub(in crate::backend) fn add_sums(self) -> String {
        ["count", "cost", "request_bytes", "response_bytes"]
            .map(|column| self.capped_add(column))
            .join(", ")
    }

    /// An assignment for an upsert that merges latency histograms. `t` is the table.
    pub(in crate::backend) fn add_latency(self) -> &'static str {
        by_dialect!(
            self,
            sqlite: "latency = CAST(t.latency || excluded.latency AS BLOB)",
            postgres: "latency = t.latency || excluded.latency",
        )
    }

    /// An aggregate that concatenates the bytes of a column.
    pub(super) fn concat_bytes(self, column: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("CAST(group_concat({column}, '') AS BLOB)"),
            postgres: format!("string_agg({column}, ''::bytea)"),
        )
    }

    /// A time column in whole seconds since 1970.
    pub(super) fn seconds(self, column: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("({column} / 1000000)"),
            postgres: format!("extract(epoch FROM {column})::bigint"),
        )
    }

    /// Whether the request log is partitioned by day.
    pub(super) fn has_partitioned_log(self) -> bool {
        by_dialect!(self, sqlite: false, postgres: true)
    }

    /// A query for the text encoding of the database.
    pub(super) fn encoding(self) -> &'static str {
        by_dialect!(
            self,
            sqlite: "SELECT encoding FROM pragma_encoding",
            postgres: "SELECT current_setting('server_encoding') AS encoding",
        )
    }

    /// Creates the migrations table.
    pub(super) fn create_migrations_table(self) -> &'static str {
        by_dialect!(
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

    /// A column whose index must not be used, since another index returns the newest rows first. SQLite cannot
    /// estimate the number of matches.
    pub(super) fn without_index(self, column: &str) -> String {
        by_dialect!(self, sqlite: format!("+{column}"), postgres: column.into())
    }

    /// A sum of integers that cannot overflow.
    pub(super) fn sum(self, column: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("sum({column})"),
            postgres: format!("sum({column})::bigint"),
        )
    }

    /// The text of a list of numbers as one parameter, and the SQL before and after its placeholder in a subquery that
    /// selects them.
    pub(super) fn numbers(self, numbers: &[i64]) -> (String, [&'static str; 2]) {
        let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
        let numbers = numbers.join(",");
        by_dialect!(
            self,
            sqlite: (format!("[{numbers}]"), ["SELECT value FROM json_each(", ")"]),
            postgres: (format!("{{{numbers}}}"), ["SELECT unnest(", "::text::bigint[])"]),
        )
    }

    /// A condition that compares a text of any length. In PostgreSQL, the index holds the first 64 characters.
    pub(super) fn text_equals(self, column: &str, place: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("{column} = {place}"),
            postgres: format!(
                "left({column}, 64) = left({place}::text, 64) AND {column} = {place}"
            ),
        )
    }

    /// The requests `r` whose column has the text at a placeholder, read by the index on the column. Ends in the
    /// `WHERE` clause. In SQLite the index is divided into blocks of rows, and each block is searched: in an
    /// undivided index, a batch would insert each text into a different page.
    pub(super) fn with_text(self, column: &str, place: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!(
                "(WITH RECURSIVE blocks(block) AS (
                    SELECT max(row) >> 16 FROM §requests
                    UNION ALL SELECT block - 1 FROM blocks
                    WHERE block > (SELECT min(row) >> 16 FROM §requests))
                SELECT block FROM blocks) one CROSS JOIN §requests r
                WHERE r.row >> 16 = one.block AND r.{column} = {place}"
            ),
            // With an equality, the planner could ignore the column in `ORDER BY`, and scan the whole log by time
            // until it has found enough matches.
            postgres: format!(
                "§requests r WHERE left({column}, 64) >= left({place}::text, 64)
                AND left({column}, 64) <= left({place}::text, 64) AND {column} = {place}"
            ),
        )
    }

    /// Selects `columns` of the newest of these requests that match `which`, up to `limit`.
    pub(super) fn newest_with_text(
        self,
        columns: &str,
        column: &str,
        place: &str,
        which: &str,
        limit: &str,
    ) -> String {
        let with_text = self.with_text(column, place);
        by_dialect!(
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

    /// The series `s`, joined with their rows in a table `t` that match `which`, read series by series, since the
    /// rows of a series are adjacent. Without the lateral join, PostgreSQL may read the rows of all series.
    pub(super) fn join_series(self, table: &str, which: &str) -> String {
        by_dialect!(
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

    /// Selects `columns` of the requests `r` that match `which`, for each `series_id` that `series` selects, read
    /// series by series. In PostgreSQL, the overall limit also applies to each series.
    pub(super) fn for_each_series(
        self,
        columns: &str,
        series: &str,
        which: &str,
        order: &str,
        limit: &str,
    ) -> String {
        by_dialect!(
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

    /// The time of the last of the `limit` newest requests of all these series. An index-only query: it saves
    /// reading rows of each series that are older than that.
    pub(super) fn time_of_last(self, series: &str, which: &str, limit: &str) -> String {
        let newest = by_dialect!(
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
