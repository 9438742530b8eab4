//! Every kept input, and many more that are made of them, on any toolchain.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use fastrand::Rng;
use keytally_fuzz::{Check, TARGETS};

/// As long as the inputs of `scripts/fuzz`.
const LONGEST: usize = 1024;

#[test]
fn whatever_was_kept_still_holds() {
    for (target, check) in TARGETS {
        let kept = kept(target);
        assert!(!kept.is_empty(), "{target}");
        for input in kept {
            must_hold(target, check, &input);
        }
    }
}

/// The same inputs on every run: no coverage leads them, and none is new twice.
#[test]
fn what_is_made_of_the_kept_holds_too() {
    for (target, check) in TARGETS {
        let mut maker = Maker {
            kept: kept(target),
            words: words(target),
            rng: Rng::with_seed(1),
        };
        for _ in 0..10_000 {
            must_hold(target, check, &maker.input());
        }
    }
}

fn must_hold(target: &str, check: Check, input: &[u8]) {
    if catch_unwind(|| check(input)).is_err() {
        panic!("{target}: {}", input.escape_ascii());
    }
}

fn kept(target: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The target's dictionary: a word in quotes on each line, with `\xNN` for bytes that are not shown.
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

/// Makes inputs of kept ones and of words, one like the other on every machine.
struct Maker {
    kept: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    rng: Rng,
}

impl Maker {
    fn input(&mut self) -> Vec<u8> {
        let mut input = self.one_kept();
        for _ in 0..=self.below(4) {
            let place = self.below(input.len() + 1);
            let end = place + self.below(input.len() - place + 1).min(16);
            let new = match self.below(6) {
                0 => Vec::new(),
                1 => vec![self.below(256) as u8],
                2 => input[place..end].repeat(2),
                3 => {
                    let other = self.one_kept();
                    other[self.below(other.len() + 1)..].to_vec()
                }
                4 if place < input.len() => vec![input[place] ^ (1 << self.below(8))],
                _ => {
                    let word = self.below(self.words.len());
                    self.words[word].clone()
                }
            };
            // In the place of some, or between two.
            let end = if self.below(2) == 0 { place } else { end };
            input.splice(place..end, new);
        }
        input.truncate(LONGEST);
        input
    }

    fn one_kept(&mut self) -> Vec<u8> {
        let nth = self.below(self.kept.len());
        self.kept[nth].clone()
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.usize(..bound)
    }
}
