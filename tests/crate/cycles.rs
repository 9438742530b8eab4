//! Imports between the files of `src`, as far as `use` declarations show them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The path of a module, such as `["layer", "config"]`.
type Module = Vec<String>;

/// The source of each module, without comments and test modules.
fn modules(folder: &Path, parent: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut module = parent.clone();
        if !matches!(&*name, "mod" | "lib") {
            module.push(name);
        }
        if path.is_dir() {
            modules(&path, &module, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = source.lines().map(str::trim_start);
            let lines: Vec<&str> = lines.filter(|line| !line.starts_with("//")).collect();
            found.insert(module, lines.join("\n"));
        }
    }
}

/// The paths in a use tree: `a::{b, c::d}` has `a::b` and `a::c::d`.
fn paths(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let (mut depth, mut start) = (0, 0);
    let end = tree.len();
    for (at, c) in tree.char_indices().chain([(end, ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = tree[start..at].trim();
                start = at + 1;
                if let Some((before, inner)) = part.split_once('{') {
                    let inner = inner.trim_end().strip_suffix('}').unwrap();
                    paths(&format!("{prefix}{}", before.trim()), inner, found);
                } else if !part.is_empty() {
                    let path = part.split(" as ").next().unwrap().trim();
                    found.push(format!("{prefix}{path}"));
                }
            }
            _ => {}
        }
    }
}

/// The paths that a module imports, each with whether it is exported again.
fn imports(source: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut rest = source;
    let starts = |text: &str| {
        text.find("\nuse ")
            .into_iter()
            .chain(text.find(" use "))
            .min()
    };
    while let Some(start) = starts(rest) {
        let line = rest[..start].rfind('\n').map_or(0, |end| end + 1);
        let is_export = rest[line..start].starts_with("pub");
        let is_declaration = is_export || rest[start..].starts_with('\n');
        rest = &rest[start + "\nuse ".len()..];
        if is_declaration && let Some((tree, _)) = rest.split_once(';') {
            let mut tree_paths = Vec::new();
            paths("", tree, &mut tree_paths);
            found.extend(tree_paths.into_iter().map(|path| (path, is_export)));
        }
    }
    found
}

struct Crate {
    imports: BTreeMap<Module, Vec<(String, bool)>>,
}

impl Crate {
    /// The module that defines what a path names; exports are followed.
    fn resolve(&self, from: &Module, path: &str, depth: usize) -> Option<Module> {
        let mut segments = path.split("::").map(str::trim).peekable();
        let mut module = match segments.peek() {
            Some(&"crate") => Module::new(),
            Some(&("self" | "super")) => from.clone(),
            Some(first) => {
                let mut child = from.clone();
                child.push((*first).to_owned());
                self.imports.contains_key(&child).then(|| from.clone())?
            }
            None => return None,
        };
        if segments.peek() == Some(&"crate") {
            segments.next();
        }
        while let Some(&segment) = segments.peek() {
            match segment {
                "self" => {}
                "super" => drop(module.pop()),
                name => {
                    let mut child = module.clone();
                    child.push(name.to_owned());
                    if !self.imports.contains_key(&child) {
                        break;
                    }
                    module = child;
                }
            }
            segments.next();
        }
        let Some(item) = segments.next().filter(|_| depth < 8) else {
            return Some(module);
        };
        let exports = self.imports[&module].iter();
        let export = exports
            .filter(|(path, is_export)| *is_export && path.rsplit("::").next() == Some(item))
            .find_map(|(path, _)| self.resolve(&module, path, depth + 1));
        export.or(Some(module))
    }
}

#[test]
fn files_do_not_import_each_other_in_cycles() {
    let mut sources = BTreeMap::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    modules(&src, &Module::new(), &mut sources);
    let is_test = |module: &Module| {
        let mut names = module.iter();
        names.any(|name| matches!(&**name, "tests" | "models" | "test_tracing"))
    };
    sources.retain(|module, _| !is_test(module));
    assert!(sources.len() > 200, "{}", sources.len());
    let imports = sources
        .iter()
        .map(|(module, source)| (module.clone(), imports(source)));
    let all = Crate {
        imports: imports.collect(),
    };
    let mut arrows: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, paths) in &all.imports {
        let targets = paths.iter().filter_map(|(path, is_export)| {
            let target = all.resolve(module, path, 0)?;
            // A module that exports items of its children does not depend on them.
            let is_own = *is_export && target.starts_with(module);
            (target != *module && !is_own).then_some(target)
        });
        arrows.insert(module, targets.collect());
    }
    // Some well-known arrows are found, or there would be no cycles for want of arrows.
    let module = |path: &str| -> Module { path.split('/').map(String::from).collect() };
    for (from, to) in [
        ("layer/authorize", "layer/config"),
        ("layer/config", "key/cache/key_cache"),
        ("backend/sql/log", "usage/log"),
        ("dashboard/pages/keys", "dashboard/state"),
    ] {
        assert!(arrows[&module(from)].contains(&module(to)), "{from} {to}");
    }
    // Modules that import nothing else are removed, time after time; what is left is in cycles or above them.
    loop {
        let removable: Vec<&Module> = arrows
            .iter()
            .filter(|(_, targets)| targets.iter().all(|target| !arrows.contains_key(target)))
            .map(|(module, _)| *module)
            .collect();
        if removable.is_empty() {
            break;
        }
        for module in removable {
            arrows.remove(module);
        }
    }
    let left: Vec<String> = arrows.keys().map(|module| module.join("/")).collect();
    assert!(left.is_empty(), "in a cycle or importing one: {left:?}");
}
