//! Rules by path, for services without routes of their own.

use crate::invalid_config::InvalidConfig;

/// Values by path. The first pattern that matches applies.
#[derive(Debug, Clone)]
pub(super) struct PathRules<T>(Vec<Rule<T>>);

#[derive(Debug, Clone)]
struct Rule<T> {
    pattern: Pattern,
    value: T,
}

#[derive(Debug, Clone)]
enum Pattern {
    All,
    Exactly(Box<str>),
    /// All paths with this prefix, which ends with a slash.
    Below(Box<str>),
}

impl<T> PathRules<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// One value for all paths.
    pub(super) fn all(value: T) -> Self {
        let pattern = Pattern::All;
        Self(vec![Rule { pattern, value }])
    }

    /// Adds a rule: `/a/b` applies to exactly this path, `/a/*` to every path below `/a/`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] of this field if the pattern is invalid or can never apply.
    pub(super) fn add(
        &mut self,
        field: &'static str,
        path: Box<str>,
        value: T,
    ) -> Result<(), InvalidConfig> {
        let Some(pattern) = Pattern::parse(path) else {
            let reason =
                "a path must begin with `/`, and `*` must follow the last `/` of a plain path";
            return Err(InvalidConfig::new(field, reason));
        };
        if self.0.iter().any(|rule| rule.pattern.covers(&pattern)) {
            let reason = "an earlier path includes a later one";
            return Err(InvalidConfig::new(field, reason));
        }
        self.0.push(Rule { pattern, value });
        Ok(())
    }

    /// The value for a path.
    pub(super) fn get(&self, path: &str) -> Option<&T> {
        let rule = self.0.iter().find(|rule| rule.pattern.applies_to(path))?;
        Some(&rule.value)
    }
}

impl Pattern {
    fn parse(path: Box<str>) -> Option<Self> {
        match path.strip_suffix('*') {
            Some("/") => Some(Self::Below("/".into())),
            Some(prefix) => {
                let literal = prefix.strip_suffix('/')?;
                let is_valid = literal.starts_with('/') && is_plain(literal);
                is_valid.then(|| Self::Below(prefix.into()))
            }
            None if path.starts_with('/') && !path.contains('*') => Some(Self::Exactly(path)),
            None => None,
        }
    }

    /// Whether this pattern applies to all paths of another one.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (_, Self::All) => false,
            (Self::Exactly(own), Self::Exactly(other)) => own == other,
            (Self::Exactly(_), Self::Below(_)) => false,
            (Self::Below(prefix), Self::Exactly(other) | Self::Below(other)) => {
                other.starts_with(&**prefix)
            }
        }
    }

    fn applies_to(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exactly(own) => path == &**own,
            Self::Below(prefix) => path.starts_with(&**prefix) && is_plain(path),
        }
    }
}

/// Whether servers interpret a path in the same way, apart from its case.
fn is_plain(path: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let mut segments = path.split('/').skip(1);
    segments.all(|segment| {
        let is_dotted = segment.starts_with("..") || segment.ends_with('.');
        !segment.is_empty() && !is_dotted && segment.bytes().all(is_plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_can_never_apply_are_invalid() {
        let rules = |paths: &[&str]| {
            let mut rules = PathRules::new();
            let mut add = |path: &&str| rules.add("test", (*path).into(), ());
            paths.iter().try_for_each(&mut add)
        };
        for paths in [
            &["/*"][..],
            &["/a/b", "/a/*", "/*"],
            &["/a.v1.B/C", "/a.v1.B/*", "/", "/a%20b"],
            &["/b/*", "/a/*"],
        ] {
            assert!(rules(paths).is_ok(), "{paths:?}");
        }
        for paths in [
            &["a"][..],
            &["*"],
            &["/a*"],
            &["/*/a"],
            &["//*"],
            &["/a%20b/*"],
            &["/{id}/*"],
            &["/a/*", "/a/b"],
            &["/a/*", "/a/b/*"],
            &["/a", "/a"],
        ] {
            assert!(rules(paths).is_err(), "{paths:?}");
        }
        assert!(PathRules::all(()).add("test", "/a".into(), ()).is_err());
    }

    #[test]
    fn ambiguous_paths_match_no_wildcard() {
        let pattern = Pattern::parse("/a/*".into()).unwrap();
        for path in ["/a/b", "/a/b/c.d", "/a/.hidden", "/a/1-2_3~4"] {
            assert!(pattern.applies_to(path), "{path}");
        }
        for path in [
            "/a", "/a/", "/a//b", "/a/b/", "/a/.", "/a/..", "/a/..b", "/a/b.", "/a/b%2Ec",
            "/a/b;c", "/a/b:c", "/a/b\\c", "/ab", "a/b", "*", "",
        ] {
            assert!(!pattern.applies_to(path), "{path}");
        }
    }
}
