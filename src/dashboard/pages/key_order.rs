//! The order of the list of keys.

use std::cmp::Reverse;

use crate::key::Key;

/// The order of the list of keys. Keys that do not expire come last, and keys without an accepted request count as the
/// longest idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyOrder {
    Newest,
    Oldest,
    Name,
    LastAccepted,
    LongestIdle,
    Expiry,
}

impl KeyOrder {
    pub(super) const ALL: [Self; 6] = [
        Self::Newest,
        Self::Oldest,
        Self::Name,
        Self::LastAccepted,
        Self::LongestIdle,
        Self::Expiry,
    ];

    /// The value in the URL.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "",
            Self::Oldest => "oldest",
            Self::Name => "name",
            Self::LastAccepted => "last-accepted",
            Self::LongestIdle => "longest-idle",
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
            Self::LastAccepted => "Last accepted first",
            Self::LongestIdle => "Longest idle first",
            Self::Expiry => "Expires first",
        }
    }

    /// The value of `aria-sort`.
    pub(super) fn direction(self) -> &'static str {
        match self {
            Self::Newest | Self::LastAccepted => "descending",
            Self::Oldest | Self::Name | Self::LongestIdle | Self::Expiry => "ascending",
        }
    }

    /// Sorts keys in order of creation, newest first. Ties stay in this order.
    pub(super) fn sort(self, keys: &mut [Key]) {
        match self {
            Self::Newest => {}
            Self::Oldest => keys.reverse(),
            Self::Name => keys.sort_by_cached_key(|key| key.name.to_lowercase()),
            Self::LastAccepted => keys.sort_by_key(|key| Reverse(key.last_accepted_at)),
            Self::LongestIdle => keys.sort_by_key(|key| key.last_accepted_at),
            Self::Expiry => keys.sort_by_key(|key| (key.expires_at.is_none(), key.expires_at)),
        }
    }
}
