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
    const SPECIFIC_COLUMNS: [&str; 3] = ["row", "batch", "number"];

    /// The tables that the statements create, with their columns.
    fn created_tables(sql: &str) -> Vec<(&str, Vec<&str>)> {
        let tables = sql.split("CREATE TABLE §").skip(1);
        let mut tables: Vec<(&str, Vec<&str>)> = tables
            .map(|text| {
                let (name, rest) = text.split_once(" (\n").unwrap();
                let (body, _) = rest.split_once("\n)").unwrap();
                let lines = body.lines().map(str::trim_start);
                let columns = lines
                    .filter(|line| !line.starts_with("--") && !line.starts_with("PRIMARY KEY ("));
                let names = columns.map(|line| line.split(' ').next().unwrap());
                (name, names.collect())
            })
            .collect();
        for alteration in sql.split("ALTER TABLE §").skip(1) {
            let (statement, _) = alteration.split_once(';').unwrap();
            let words: Vec<&str> = statement.split(' ').collect();
            let Some((name, columns)) = tables.iter_mut().find(|(name, _)| *name == words[0])
            else {
                continue;
            };
            match words[1..] {
                ["ADD", "COLUMN", column, ..] => columns.push(column),
                ["RENAME", "COLUMN", old, "TO", new] => {
                    let column = columns.iter_mut().find(|column| **column == old);
                    *column.unwrap() = new;
                }
                ["RENAME", "TO", new] => *name = new.trim_start_matches(['§', '¶']),
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
                if sql.contains("log_batches") { 14 } else { 13 }
            );
            for (name, columns) in &tables {
                assert!(PAGE.contains(&format!("`keytally_{name}`")), "{name}");
                assert!(contains(&documented, columns), "{name}: {columns:?}");
            }
            for view in sql.split("CREATE VIEW §").skip(1) {
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
