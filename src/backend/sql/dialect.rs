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

    /// A suffix of a `SELECT` that prevents the deletion of the rows until the end of the transaction.
    pub(super) fn share_rows(self) -> &'static str {
        by_dialect!(self, sqlite: "", postgres: " FOR KEY SHARE")
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

    /// An aggregate of a column as a JSON array, which clients decode faster than rows.
    pub(super) fn json_array(self, column: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("json_group_array({column})"),
            postgres: format!("coalesce(json_agg({column}), '[]')::text"),
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
            sqlite: "CREATE TABLE IF NOT EXISTS {prefix}migrations (
                version INTEGER NOT NULL PRIMARY KEY,
                name TEXT NOT NULL,
                checksum TEXT NOT NULL,
                applied INTEGER NOT NULL
            ) STRICT",
            postgres: "CREATE TABLE IF NOT EXISTS {prefix}migrations (
                version bigint PRIMARY KEY,
                name text NOT NULL,
                checksum text NOT NULL,
                applied timestamptz NOT NULL
            )",
        )
    }

    /// An integer column, written so that no index on it is used: another index has fewer matches.
    pub(super) fn without_index(self, column: &str) -> String {
        by_dialect!(self, sqlite: format!("+{column}"), postgres: format!("({column} + 0)"))
    }

    /// A time column whose comparison must not replace that with another bound in a search by an index: SQLite uses one
    /// lower and one upper bound, the first.
    pub(super) fn second_bound(self, column: &str) -> String {
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

    /// The condition that a column is one of the numbers at a placeholder.
    pub(super) fn is_one_of(self, column: &str, place: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("{column} IN (SELECT value FROM json_each({place}))"),
            postgres: format!("{column} = ANY({place})"),
        )
    }

    /// [`is_one_of`](Self::is_one_of) for hundreds of numbers or more, which PostgreSQL may otherwise compare one by
    /// one.
    pub(super) fn is_one_of_many(self, column: &str, place: &str) -> String {
        by_dialect!(
            self,
            sqlite: self.is_one_of(column, place),
            postgres: format!("{column} IN (SELECT unnest({place}))"),
        )
    }

    /// The condition that a column is one of the texts in the JSON array at a placeholder.
    pub(super) fn is_one_of_texts(self, column: &str, place: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("{column} IN (SELECT value FROM json_each({place}))"),
            postgres: format!("{column} IN (SELECT jsonb_array_elements_text({place}))"),
        )
    }

    /// A text column in the order of its bytes.
    pub(super) fn in_byte_order(self, column: &str) -> String {
        by_dialect!(self, sqlite: column.into(), postgres: format!("{column} COLLATE \"C\""))
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

    /// A text column with byte order, to be compared with one without it by the index on that.
    pub(super) fn with_default_collation(self, column: &str) -> String {
        by_dialect!(
            self,
            sqlite: column.into(),
            postgres: format!("{column} COLLATE \"default\""),
        )
    }

    /// A condition that compares an IP address with its text.
    pub(super) fn address_equals(self, column: &str, place: &str) -> String {
        by_dialect!(
            self,
            sqlite: format!("{column} = {place}"),
            postgres: format!("{column} = {place}::inet"),
        )
    }

    /// The rollups `t` of callers `c` that match `which`, read caller by caller, since the rows of a caller are
    /// adjacent: the joined tables and the `WHERE` clause. Without the lateral join, PostgreSQL may read the rows of
    /// all callers.
    pub(super) fn join_callers(self, table: &str, which: &str) -> (String, String) {
        by_dialect!(
            self,
            sqlite: (
                format!("{{prefix}}callers c CROSS JOIN {table} t"),
                format!("t.caller_id = c.id AND {which}"),
            ),
            postgres: (
                format!(
                    "{{prefix}}callers c CROSS JOIN LATERAL
                    (SELECT * FROM {table} t WHERE t.caller_id = c.id AND {which} OFFSET 0) t"
                ),
                "TRUE".into(),
            ),
        )
    }

    /// Selects up to `limit` requests `r` of the segments `one` that match `which`.
    pub(super) fn for_each_segment(
        self,
        columns: &str,
        segments: &str,
        which: &str,
        order: &str,
        limit: &str,
    ) -> String {
        by_dialect!(
            self,
            sqlite: format!(
                "SELECT {columns} FROM ({segments}) one CROSS JOIN {{prefix}}requests r
                WHERE {which} {order} LIMIT {limit}"
            ),
            postgres: format!(
                "SELECT {columns} FROM ({segments}) one CROSS JOIN LATERAL
                (SELECT * FROM {{prefix}}requests r WHERE {which} {order} LIMIT {limit}) r {order} LIMIT {limit}"
            ),
        )
    }

    /// The columns of requests `r`.
    pub(super) fn request_columns(self) -> String {
        let large = by_dialect!(
            self,
            sqlite: "",
            postgres: ", r.large_latency_us, r.large_response_bytes",
        );
        format!(
            "r.time, r.id, r.caller_id, r.kind_id, r.request_id, r.path, r.resource_id, r.rejection_reason, r.cost,
            r.latency_us, r.request_bytes, r.response_bytes, r.client_ip{large}"
        )
    }

    /// A time some microseconds before that of a column.
    pub(super) fn earlier(self, column: &str, micros: i64) -> String {
        by_dialect!(
            self,
            sqlite: format!("{column} - {micros}"),
            postgres: format!("{column} - interval '{micros} microseconds'"),
        )
    }
}
