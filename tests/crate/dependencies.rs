//! The crates that keytally pulls in, according to its lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The crates in a build with these features, including keytally itself.
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
    // Lines read "name v1.2.3"; keytally's own line also has its path.
    let crates: BTreeSet<_> = lines.lines().map(String::from).collect();
    assert!(crates.iter().any(|it| it.starts_with("keytally v")));
    crates
}

fn starting_with<'a>(crates: &'a BTreeSet<String>, names: &[&str]) -> Vec<&'a String> {
    let starts = |it: &&String| names.iter().any(|name| it.starts_with(name));
    crates.iter().filter(starts).collect()
}

#[test]
fn default_features_need_few_crates_and_no_server_or_database() {
    let crates = crates("");
    assert!(crates.len() <= 74, "{}: {crates:?}", crates.len());
    let unwanted = starting_with(&crates, &["axum", "tonic", "hyper", "sqlx"]);
    assert!(unwanted.is_empty(), "{unwanted:?}");
}

#[test]
fn each_database_feature_excludes_the_other_driver() {
    let sqlite = ["sqlx-sqlite ", "libsqlite3-sys "];
    let postgres = ["sqlx-postgres "];
    for (feature, own, others) in [
        ("sqlite", &sqlite[..], &postgres[..]),
        ("postgres", &postgres, &sqlite),
    ] {
        let crates = crates(feature);
        assert_eq!(starting_with(&crates, own).len(), own.len(), "{crates:?}");
        assert!(starting_with(&crates, others).is_empty(), "{crates:?}");
    }
}

/// Name, version, license and source of every package that some feature needs.
fn packages() -> Vec<[String; 4]> {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(["--no-dedupe", "--all-features", "--format", "{p}|{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{errors}");
    let lines: BTreeSet<String> = String::from_utf8(tree.stdout)
        .unwrap()
        .lines()
        .map(String::from)
        .collect();
    assert!(lines.len() > 100, "{}", lines.len());
    let packages = lines.iter().map(|line| {
        let (package, license) = line.split_once('|').unwrap();
        let mut words = package.splitn(3, ' ').map(String::from);
        let mut next = || words.next().unwrap_or_default();
        [next(), next(), license.to_owned(), next()]
    });
    packages.collect()
}

#[test]
fn licenses_are_permissive() {
    const PERMISSIVE: [&str; 9] = [
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "ISC",
        "MIT",
        "Unicode-3.0",
        "Zlib",
    ];
    for [name, _, license, _] in packages() {
        // One alternative is enough; each alternative needs all of its parts.
        let mut alternatives = license.split(" OR ").flat_map(|it| it.split('/'));
        let is_permissive = alternatives.any(|alternative| {
            let mut parts = alternative.split(" AND ");
            parts.all(|part| {
                let part = part.trim_matches(['(', ')', ' ']);
                PERMISSIVE.contains(&part.split(" WITH ").next().unwrap_or_default())
            })
        });
        assert!(is_permissive, "{name}: {license}");
    }
}

#[test]
fn dependencies_come_from_crates_io() {
    // Those of other sources have them behind the version.
    for [name, _, _, source] in packages() {
        let is_registry = source.is_empty() || source == "(proc-macro)";
        assert!(is_registry || name == "keytally", "{name} {source}");
    }
}

#[test]
fn no_crate_has_two_versions() {
    // Older versions that other crates still need.
    const OLDER: [&str; 9] = [
        "base64",
        "block-buffer",
        "cpufeatures",
        "crypto-common",
        "digest",
        "hashbrown",
        "sha2",
        "shlex",
        "syn",
    ];
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for [name, version, ..] in packages() {
        versions.entry(name).or_default().insert(version);
    }
    versions.retain(|name, versions| versions.len() > 1 && !OLDER.contains(&&**name));
    assert!(versions.is_empty(), "{versions:?}");
}

#[test]
fn unwanted_crates_are_absent() {
    // No TLS of its own, and time is jiff's.
    for [name, ..] in packages() {
        assert!(
            !["openssl-sys", "chrono", "time"].contains(&&*name),
            "{name}"
        );
    }
}
