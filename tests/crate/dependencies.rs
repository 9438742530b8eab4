//! The crates that keytally pulls in, according to its lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

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
    assert!(crates.len() <= 70, "{}: {crates:?}", crates.len());
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

/// Every package that some feature or test needs.
fn packages() -> Vec<Value> {
    let metadata = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--all-features",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&metadata.stderr);
    assert!(metadata.status.success(), "{errors}");
    let mut metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].take();
    let Value::Array(packages) = packages else {
        panic!("packages are a list: {packages}");
    };
    assert!(packages.len() > 100, "{}", packages.len());
    packages
}

#[test]
fn licenses_are_permissive() {
    const PERMISSIVE: [&str; 7] = [
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "MIT",
        "Unicode-3.0",
        "Zlib",
    ];
    for package in packages() {
        let license = package["license"].as_str().unwrap_or("none");
        // One of the alternatives is enough; all parts of it are needed.
        let alternatives = license.split(" OR ").flat_map(|it| it.split('/'));
        let is_permissive = alternatives.into_iter().any(|alternative| {
            let alternative = alternative.trim_matches(['(', ')', ' ']);
            let mut parts = alternative
                .split(" AND ")
                .flat_map(|it| it.split(" WITH ").take(1));
            parts.all(|part| PERMISSIVE.contains(&part.trim_matches(['(', ')', ' '])))
        });
        assert!(is_permissive, "{}: {license}", package["name"]);
    }
}

#[test]
fn dependencies_come_from_crates_io() {
    for package in packages() {
        let source = package["source"].as_str();
        let is_own = package["name"] == "keytally";
        let is_registry = source.is_some_and(|source| source.starts_with("registry+"));
        assert!(is_own || is_registry, "{}: {source:?}", package["name"]);
    }
}

#[test]
fn no_crate_has_two_versions() {
    // Older versions that other crates still need.
    const OLDER: [&str; 9] = [
        "block-buffer",
        "cpufeatures",
        "crypto-common",
        "digest",
        "hashbrown",
        "rand_core",
        "sha2",
        "shlex",
        "syn",
    ];
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let text = |field: &str| package[field].as_str().unwrap().to_owned();
        versions
            .entry(text("name"))
            .or_default()
            .insert(text("version"));
    }
    versions.retain(|name, versions| versions.len() > 1 && !OLDER.contains(&&**name));
    assert!(versions.is_empty(), "{versions:?}");
}

#[test]
fn unwanted_crates_are_absent() {
    // No TLS of its own, and time is jiff's.
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        assert!(!["openssl-sys", "chrono"].contains(&name), "{name}");
    }
}
