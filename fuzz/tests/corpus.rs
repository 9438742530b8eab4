//! Every kept input, on any toolchain.

use std::fs;
use std::path::Path;

use keytally_fuzz::TARGETS;

#[test]
fn whatever_was_kept_still_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, check) in TARGETS {
        let mut paths: Vec<_> = fs::read_dir(corpus.join(target))
            .unwrap_or_else(|error| panic!("{target}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{target}");
        for path in &paths {
            // Shown when it fails.
            println!("{}", path.display());
            check(&fs::read(path).unwrap());
        }
    }
}
