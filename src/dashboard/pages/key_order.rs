//! The order of the list of keys.

use std::cmp::Reverse;

use crate::key::Key;

/// The order of the list of keys. Keys that do not expire come last, and keys that were never used count as the least
/// recently used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyOrder {
    Newest,
    Oldest,
    Name,
    LastUsed,
    LeastUsed,
    Expiry,
}

impl KeyOrder {
    pub(super) const ALL: [Self; 6] = [
        Self::Newest,
        Self::Oldest,
        Self::Name,
        Self::LastUsed,
        Self::LeastUsed,
        Self::Expiry,
    ];

    /// The value in the URL.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "",
            Self::Oldest => "oldest",
            Self::Name => "name",
            Self::LastUsed => "last-used",
            Self::LeastUsed => "least-used",
            Self::Expiry => "expiry",
        }
    }

    /// The order with this value. The newest first by default.
    pub(super) fn named(name: Option<&str>) -> Option<Self> {
        let name = name.unwrap_or_default();
        Self::ALL.into_iter().find(|order| order.as_str() == name)
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Newest => "Newest first",
            Self::Oldest => "Oldest first",
            Self::Name => "Name",
            Self::LastUsed => "Recently used first",
            Self::LeastUsed => "Least recently used first",
            Self::Expiry => "Expires first",
        }
    }

    /// The value of `aria-sort`.
    pub(super) fn direction(self) -> &'static str {
        match self {
            Self::Newest | Self::LastUsed => "descending",
            Self::Oldest | Self::Name | Self::LeastUsed | Self::Expiry => "ascending",
        }
    }

    /// Sorts keys in order of creation, newest first. Ties stay in this order.
    pub(super) fn sort(self, keys: &mut [Key]) {
        match self {
            Self::Newest => {}
            Self::Oldest => keys.reverse(),
            Self::Name => keys.sort_by_cached_key(|key| key.name.to_lowercase()),
            Self::LastUsed => keys.sort_by_key(|key| Reverse(key.last_accepted_at)),
            Self::LeastUsed => keys.sort_by_key(|key| key.last_accepted_at),
            Self::Expiry => keys.sort_by_key(|key| (key.expires_at.is_none(), key.expires_at)),
        }
    }
}
