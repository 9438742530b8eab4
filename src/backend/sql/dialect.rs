//! Differences between the SQL dialects. All other SQL is shared.

/// The SQL dialect of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Dialect {
    #[cfg(feature = "_sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// A subquery whose rows each select requests `r` in the order of an index.
pub(super) struct Source {
    /// The subquery.
    pub(super) rows: String,
    /// The condition on `r` for a row `one`.
    pub(super) condition: String,
    /// Whether the times of `r` are also from `one.first` to `one.last`.
    pub(super) has_times: bool,
}

/// Expressions for the first and the last time that requests `r` may have.
#[derive(Clone, Default)]
pub(super) struct Times {
    pub(super) from: Vec<String>,
    pub(super) to: Vec<String>,
}

impl Source {
    fn times(&self, times: &Times) -> Times {
        let mut times = times.clone();
        if self.has_times {
            times.from.push("one.first".into());
            times.to.push("one.last".into());
        }
        times
    }
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
            // Not `least`, which ignores NULL, the sum of no rows.
            postgres: format!(
                "(CASE WHEN sum({column}) > {most} THEN {most} ELSE sum({column}) END)::bigint"
            ),
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
    /// selects them as `number`.
    pub(super) fn numbers(self, numbers: &[i64]) -> (String, [&'static str; 2]) {
        let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
        let numbers = numbers.join(",");
        by_dialect!(
            self,
            sqlite: (format!("[{numbers}]"), ["SELECT value AS number FROM json_each(", ")"]),
            postgres: (
                format!("{{{numbers}}}"),
                ["SELECT unnest(", "::text::bigint[]) AS number"],
            ),
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
    /// `WHERE` clause. In SQLite the index is divided into segments, and each segment is searched: in an undivided
    /// index, a batch would insert each text into a different page.
    pub(super) fn with_text(self, column: &str, place: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!(
                "§log_segments one CROSS JOIN §requests r
                WHERE r.row >> 16 = +one.number AND r.{column} = {place}"
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
                    (SELECT time FROM §requests r WHERE r.row >> 16 = +one.number AND {column} = {place}{which}
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

    /// The rollups `t` of callers `c` that match `which`, read caller by caller, since the rows of a caller are
    /// adjacent: the joined tables and the `WHERE` clause. Without the lateral join, PostgreSQL may read the rows of
    /// all callers.
    pub(super) fn join_callers(self, table: &str, which: &str) -> (String, String) {
        by_dialect!(
            self,
            sqlite: (
                format!("§callers c CROSS JOIN {table} t"),
                format!("t.caller_id = c.id AND {which}"),
            ),
            postgres: (
                format!(
                    "§callers c CROSS JOIN LATERAL
                    (SELECT * FROM {table} t WHERE t.caller_id = c.id AND {which} OFFSET 0) t"
                ),
                "TRUE".into(),
            ),
        )
    }

    /// The number of the segment of the log that a request `r` is in. In SQLite, segments are blocks of rows.
    pub(super) fn segment(self) -> &'static str {
        by_dialect!(self, sqlite: "r.row >> 16", postgres: "r.segment")
    }

    /// A time some microseconds after that of a column.
    pub(super) fn later(self, column: &str, micros: i64) -> String {
        by_dialect!(
            self,
            sqlite: format!("{column} + {micros}"),
            postgres: format!("{column} + interval '{micros} microseconds'"),
        )
    }

    /// The condition that requests `r` are within these times. SQLite would use only one of several bounds to search an
    /// index, so they are combined.
    pub(super) fn within(self, times: &Times) -> String {
        let bound = |sign: &str, function: &str, bounds: &[String]| match bounds {
            [] => String::new(),
            [one] => format!(" AND r.time {sign} {one}"),
            all => by_dialect!(
                self,
                sqlite: format!(" AND r.time {sign} {function}({})", all.join(", ")),
                postgres: {
                    let _ = function;
                    let each = all.iter().map(|one| format!(" AND r.time {sign} {one}"));
                    each.collect()
                },
            ),
        };
        bound(">=", "max", &times.from) + &bound("<=", "min", &times.to)
    }

    /// Selects `columns` of the requests `r` that match `which`, for each row of a source. In PostgreSQL, the overall
    /// limit also applies to each row.
    pub(super) fn for_each(
        self,
        columns: &str,
        source: &Source,
        times: &Times,
        which: &str,
        order: &str,
        limit: &str,
    ) -> String {
        let within = self.within(&source.times(times));
        let Source {
            rows, condition, ..
        } = source;
        by_dialect!(
            self,
            sqlite: {
                let _ = limit;
                format!(
                    "SELECT {columns} FROM ({rows}) one CROSS JOIN §requests r
                    WHERE {condition}{within}{which} {order}"
                )
            },
            postgres: format!(
                "SELECT {columns} FROM ({rows}) one CROSS JOIN LATERAL
                (SELECT * FROM §requests r WHERE {condition}{within}{which} {order} LIMIT {limit}) r"
            ),
        )
    }

    /// The time of the last of the `limit` newest requests of a source. It saves reading rows that are older than that,
    /// and needs only the index unless `which` has conditions on other columns.
    pub(super) fn time_of_last(
        self,
        source: &Source,
        times: &Times,
        which: &str,
        limit: &str,
    ) -> String {
        let times = source.times(times);
        let within = self.within(&times);
        let Source {
            rows, condition, ..
        } = source;
        let newest = by_dialect!(
            self,
            sqlite: {
                let mut newer = times;
                newer.from.push(format!(
                    "coalesce((SELECT time FROM §requests r WHERE {condition}{within}{which}
                    ORDER BY time DESC LIMIT 1 OFFSET {limit} - 1), {})",
                    i64::MIN
                ));
                let newer = self.within(&newer);
                format!(
                    "SELECT r.time AS time FROM ({rows}) one CROSS JOIN §requests r
                    WHERE {condition}{newer}{which}"
                )
            },
            postgres: format!(
                "SELECT r.time FROM ({rows}) one CROSS JOIN LATERAL
                (SELECT time FROM §requests r WHERE {condition}{within}{which}
                ORDER BY time DESC LIMIT {limit}) r"
            ),
        );
        format!(
            "SELECT min(time) FROM (SELECT time FROM ({newest}) newest ORDER BY time DESC LIMIT {limit}) last"
        )
    }
}
