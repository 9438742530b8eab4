//! Changes as announced to caches.

#[cfg(feature = "postgres")]
use std::borrow::Cow;
use std::sync::Arc;

use crate::id::KeyId;
use crate::key::InvalidationFeed;

/// A change to announce.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::backend) enum Changed {
    Key(KeyId),
    Owner(Arc<str>),
    /// A plan, which any key may have.
    Plans,
}

impl Changed {
    pub(in crate::backend) fn publish(&self, feed: &InvalidationFeed) {
        match self {
            Self::Key(id) => feed.publish(*id),
            Self::Owner(owner) => feed.publish_owner(owner),
            Self::Plans => feed.publish_all(),
        }
    }
}

#[cfg(feature = "postgres")]
impl Changed {
    /// The payload of a notification. Processes with a schema version before 4 evict everything if it is not a key id.
    pub(in crate::backend) fn payload(&self) -> Cow<'_, str> {
        match self {
            Self::Key(id) => id.as_str().into(),
            Self::Owner(owner) => format!("owner={owner}").into(),
            Self::Plans => "plans".into(),
        }
    }

    /// Any other payload means that all keys may have changed.
    pub(in crate::backend) fn of_payload(payload: &str) -> Self {
        match (payload.parse(), payload.strip_prefix("owner=")) {
            (Ok(id), _) => Self::Key(id),
            (Err(_), Some(owner)) => Self::Owner(owner.into()),
            (Err(_), None) => Self::Plans,
        }
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn payloads_round_trip() {
        for changed in [
            Changed::Key("3fK9aB0000zzZZ19".parse().unwrap()),
            Changed::Owner("3fK9aB0000zzZZ19".into()),
            Changed::Owner("owner=plans".into()),
            Changed::Plans,
        ] {
            assert_eq!(Changed::of_payload(&changed.payload()), changed);
        }
        assert_eq!(Changed::of_payload(""), Changed::Plans);
    }
}
