//! The credential of a request and the sources in which it was found.

use std::borrow::Cow;

/// The credential of a request.
#[derive(Default)]
pub(crate) enum Presented<'a> {
    #[default]
    Missing,
    Secret(Cow<'a, [u8]>),
    /// A credential with non-ASCII characters, which cannot be a key.
    Malformed,
    /// Two different credentials.
    Ambiguous,
}

/// The sources in which a credential was found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SourceSet {
    /// A bit for each of the first eight sources.
    bits: u8,
    /// Whether `Authorization` may also contain other credentials.
    pub(super) mixed: bool,
}

impl SourceSet {
    #[inline]
    pub(super) fn add(&mut self, index: usize) {
        self.bits |= 1_u8.checked_shl(index as u32).unwrap_or(0);
    }

    #[inline]
    pub(super) fn has(self, index: usize) -> bool {
        index >= 8 || self.bits & (1 << index) != 0
    }
}

impl<'a> Presented<'a> {
    #[cold]
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Missing, other) => other,
            (first, Self::Missing) => first,
            (Self::Secret(first), Self::Secret(second)) if first == second => Self::Secret(first),
            (Self::Malformed, Self::Malformed) => Self::Malformed,
            _ => Self::Ambiguous,
        }
    }

    #[inline]
    pub(super) fn text(text: &'a [u8]) -> Self {
        if text.is_ascii() {
            Self::Secret(Cow::Borrowed(text))
        } else {
            Self::Malformed
        }
    }
}
