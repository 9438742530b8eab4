#![doc = include_str!("schema.md")]

#[cfg(test)]
mod tests {
    const PAGE: &str = include_str!("schema.md");
    const MIGRATIONS: [&str; 2] = [
        concat!(
            include_str!("postgres/migrations/1.sql"),
            include_str!("postgres/migrations/2.sql"),
            include_str!("postgres/migrations/3.sql"),
            include_str!("postgres/migrations/4.sql")
        ),
        concat!(
            include_str!("sqlite/migrations/1.sql"),
            include_str!("sqlite/migrations/2.sql"),
            include_str!("sqlite/migrations/3.sql"),
            include_str!("sqlite/migrations/4.sql")
        ),
    ];

    /// Columns that exist in only one of the databases.
    const SPECIFIC_COLUMNS: [&str; 5] = [
        "row",
        "batch",
        "number",
        "large_latency_us",
        "large_response_bytes",
    ];

    /// The tables that remain after the statements, with their columns.
    fn created_tables(sql: &str) -> Vec<(&str, Vec<&str>)> {
        let mut tables: Vec<(&str, Vec<&str>)> = Vec::new();
        let statements = sql.split(";\n").map(|statement| {
            let lines = statement.lines();
            let first = lines
                .clone()
                .find(|line| !line.is_empty() && !line.starts_with("--"));
            (first.unwrap_or_default(), lines)
        });
        for (first, lines) in statements {
            let words: Vec<&str> = first.trim_end_matches(';').split(' ').collect();
            let name = |word: usize| {
                words[word]
                    .trim_start_matches("{unqualified_prefix}")
                    .trim_start_matches("{prefix}")
                    .trim_end_matches(',')
            };
            let of = |tables: &[(&str, Vec<&str>)], name| {
                let table = tables.iter().position(|(table, _)| *table == name);
                table.unwrap_or_else(|| panic!("{name}: {first}"))
            };
            match words[..] {
                ["CREATE", "TABLE", _, "(LIKE", ..] => {
                    let like = of(&tables, name(4));
                    tables.push((name(2), tables[like].1.clone()));
                }
                ["CREATE", "TABLE", _, "AS"] => tables.push((name(2), Vec::new())),
                ["CREATE", "TABLE", ..] => {
                    let lines = lines.skip_while(|line| *line != first).skip(1);
                    let lines = lines.take_while(|line| !line.starts_with(')'));
                    let columns = lines.map(str::trim_start).filter(|line| {
                        !line.starts_with("--") && !line.starts_with("PRIMARY KEY (")
                    });
                    let columns = columns.map(|line| line.split(' ').next().unwrap());
                    tables.push((name(2), columns.collect()));
                }
                ["ALTER", "TABLE", _, "ADD", "COLUMN", column, ..] => {
                    let table = of(&tables, name(2));
                    tables[table].1.push(column);
                }
                ["ALTER", "TABLE", _, "RENAME", "COLUMN", old, "TO", new] => {
                    let table = of(&tables, name(2));
                    let column = tables[table].1.iter_mut().find(|column| **column == old);
                    *column.unwrap() = new;
                }
                ["ALTER", "TABLE", _, "RENAME", "TO", _] => {
                    let table = of(&tables, name(2));
                    tables[table].0 = name(5);
                }
                ["DROP", "TABLE", ..] => {
                    for word in 2..words.len() {
                        let table = of(&tables, name(word));
                        tables.remove(table);
                    }
                }
                _ => {}
            }
        }
        tables
    }

    /// The columns of each documented table.
    fn documented_tables() -> Vec<Vec<&'static str>> {
        let tables = PAGE.split("| column | type | |\n|---|---|---|\n").skip(1);
        tables
            .map(|text| {
                let rows = text.lines().take_while(|line| line.starts_with('|'));
                rows.map(|row| row.split('`').nth(1).unwrap()).collect()
            })
            .collect()
    }

    #[test]
    fn page_lists_every_table_and_column() {
        let mut documented = documented_tables();
        let contains = |documented: &[Vec<&str>], columns: &[&str]| {
            documented.iter().any(|table| {
                let table = table
                    .iter()
                    .filter(|column| !SPECIFIC_COLUMNS.contains(column));
                table.eq(columns
                    .iter()
                    .filter(|column| !SPECIFIC_COLUMNS.contains(column)))
            })
        };
        for sql in MIGRATIONS {
            let tables = created_tables(sql);
            assert_eq!(
                tables.len(),
                if sql.contains("log_batches") { 19 } else { 18 }
            );
            for (name, columns) in &tables {
                assert!(PAGE.contains(&format!("`keytally_{name}`")), "{name}");
                assert!(contains(&documented, columns), "{name}: {columns:?}");
            }
            for view in sql.split("CREATE VIEW {prefix}").skip(1) {
                let name = view.split(' ').next().unwrap();
                assert!(PAGE.contains(&format!("`keytally_{name}`")), "{name}");
            }
        }
        // The page lists no other tables, except for the migrations table, which no migration creates.
        documented.retain(|table| table[0] != "version");
        let tables: Vec<_> = MIGRATIONS.into_iter().flat_map(created_tables).collect();
        for table in documented {
            let is_same =
                |(_, columns): &(_, Vec<_>)| contains(std::slice::from_ref(&table), columns);
            assert!(tables.iter().any(is_same), "{table:?}");
        }
    }
}
