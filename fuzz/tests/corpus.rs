//! Runs every target on its corpus and on mutations of it, on any toolchain.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use fastrand::Rng;
use keytally_fuzz::{Check, TARGETS};

/// The maximum length of an input, as in `scripts/fuzz`.
const MAX_LEN: usize = 1024;

#[test]
fn corpus_passes() {
    for (target, check) in TARGETS {
        let inputs = corpus(target);
        assert!(!inputs.is_empty(), "{target}");
        for input in inputs {
            run(target, check, &input);
        }
    }
}

/// Deterministic and without coverage guidance: every run uses the same inputs.
#[test]
fn mutated_corpus_passes() {
    for (target, check) in TARGETS {
        let mut mutator = Mutator {
            corpus: corpus(target),
            words: words(target),
            rng: Rng::with_seed(1),
        };
        for _ in 0..10_000 {
            run(target, check, &mutator.input());
        }
    }
}

fn run(target: &str, check: Check, input: &[u8]) {
    if catch_unwind(|| check(input)).is_err() {
        panic!("{target}: {}", input.escape_ascii());
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The target's dictionary: one quoted word per line, with `\xNN` for non-printable bytes.
fn words(target: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/dictionaries/{target}.dict", env!("CARGO_MANIFEST_DIR"));
    let word = |line: &str| {
        let quoted = line.strip_prefix('"')?.strip_suffix('"')?;
        assert!(quoted.is_ascii(), "{target}: {line}");
        let mut word = Vec::new();
        let mut rest = quoted;
        while !rest.is_empty() {
            let (byte, length) = match (rest.strip_prefix("\\x"), rest.strip_prefix('\\')) {
                (Some(hex), _) => (u8::from_str_radix(&hex[..2], 16).unwrap(), 4),
                (None, Some(itself)) => (itself.as_bytes()[0], 2),
                (None, None) => (rest.as_bytes()[0], 1),
            };
            word.push(byte);
            rest = &rest[length..];
        }
        Some(word)
    };
    let text = fs::read_to_string(&path).unwrap();
    text.lines().filter_map(word).collect()
}

/// Mutates corpus inputs with dictionary words, identically on every machine.
struct Mutator {
    corpus: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    rng: Rng,
}

impl Mutator {
    fn input(&mut self) -> Vec<u8> {
        let mut input = self.pick();
        for _ in 0..=self.below(4) {
            let start = self.below(input.len() + 1);
            let end = start + self.below(input.len() - start + 1).min(16);
            let new = match self.below(6) {
                0 => Vec::new(),
                1 => vec![self.below(256) as u8],
                2 => input[start..end].repeat(2),
                3 => {
                    let other = self.pick();
                    other[self.below(other.len() + 1)..].to_vec()
                }
                4 if start < input.len() => vec![input[start] ^ (1 << self.below(8))],
                _ => {
                    let word = self.below(self.words.len());
                    self.words[word].clone()
                }
            };
            // Either replaces bytes or inserts.
            let end = if self.below(2) == 0 { start } else { end };
            input.splice(start..end, new);
        }
        input.truncate(MAX_LEN);
        input
    }

    fn pick(&mut self) -> Vec<u8> {
        let nth = self.below(self.corpus.len());
        self.corpus[nth].clone()
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.usize(..bound)
    }
}
