//! What comes along with the crate, as its lock file has it.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates of a build with these features, the crate itself included.
fn crates(features: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none"])
        .args(["--no-dedupe", "--format", "{p}", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{errors}");
    let lines = String::from_utf8(tree.stdout).unwrap();
    // "name v1.2.3", and for the crate itself where it is.
    let crates: BTreeSet<_> = lines.lines().map(String::from).collect();
    assert!(crates.iter().any(|it| it.starts_with("keytally v")));
    crates
}

fn begin_with<'a>(crates: &'a BTreeSet<String>, names: &[&str]) -> Vec<&'a String> {
    let begins = |it: &&String| names.iter().any(|name| it.starts_with(name));
    crates.iter().filter(begins).collect()
}

#[test]
fn the_default_features_need_few_crates_and_neither_server_nor_database() {
    let crates = crates("");
    assert!(crates.len() <= 70, "{}: {crates:?}", crates.len());
    let heavy = begin_with(&crates, &["axum", "tonic", "hyper", "sqlx"]);
    assert!(heavy.is_empty(), "{heavy:?}");
}

#[test]
fn who_uses_one_database_gets_nothing_of_the_other() {
    let sqlite = ["sqlx-sqlite ", "libsqlite3-sys "];
    let postgres = ["sqlx-postgres "];
    for (feature, own, others) in [
        ("sqlite", &sqlite[..], &postgres[..]),
        ("postgres", &postgres, &sqlite),
    ] {
        let crates = crates(feature);
        assert_eq!(begin_with(&crates, own).len(), own.len(), "{crates:?}");
        assert!(begin_with(&crates, others).is_empty(), "{crates:?}");
    }
}
