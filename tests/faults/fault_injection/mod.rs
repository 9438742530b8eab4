//! Fault injection: application hooks, the limiter, the store and the sink fail, one at a time and all at once, and
//! every request is still recorded or counted correctly.
#![cfg(feature = "axum")]

mod faulty;
mod in_time;
use crate::support;
mod whole;

use keytally::RequestParts;

/// The fault injected into a request, selected by its `x-fault` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    None,
    Credential,
    Cost,
    Endpoint,
    ResourceId,
    PeerAddress,
    Classify,
    /// The `on_rejection` hook panics for a revoked key.
    OnRejection,
    Attach,
    Take,
    Later,
    Late,
    LimiterHangs,
    LimiterFails,
    StoreHangs,
    StorePanics,
    AnothersRecord,
}

impl Fault {
    const ALL: [Self; 17] = [
        Self::None,
        Self::Credential,
        Self::Cost,
        Self::Endpoint,
        Self::ResourceId,
        Self::PeerAddress,
        Self::Classify,
        Self::OnRejection,
        Self::Attach,
        Self::Take,
        Self::Later,
        Self::Late,
        Self::LimiterHangs,
        Self::LimiterFails,
        Self::StoreHangs,
        Self::StorePanics,
        Self::AnothersRecord,
    ];

    fn of(head: RequestParts<'_>) -> Self {
        let number = head.headers().get("x-fault").map(|it| it.to_str().unwrap());
        number.map_or(Self::None, |it| Self::ALL[it.parse::<usize>().unwrap()])
    }

    /// Panics if the request selects this fault.
    fn inject(self, head: RequestParts<'_>) {
        assert!(Self::of(head) != self, "simulated {self:?} panic");
    }

    /// Whether the request waits for the limiter.
    fn waits(self) -> bool {
        matches!(
            self,
            Self::Later | Self::Late | Self::LimiterHangs | Self::LimiterFails
        )
    }

    /// The status that the client receives (`None` if the connection breaks), and how the request is recorded.
    fn expected(self) -> (Option<u16>, Recorded) {
        match self {
            Self::None | Self::Late | Self::Classify => (Some(200), Recorded::Event(Some(200))),
            // Fails before the key is known.
            Self::Credential => (None, Recorded::Nothing),
            // The event cannot be created and is counted as lost.
            Self::Cost
            | Self::Endpoint
            | Self::ResourceId
            | Self::PeerAddress
            | Self::OnRejection
            | Self::Attach
            | Self::Take => (None, Recorded::Lost),
            Self::Later => (None, Recorded::Event(Some(500))),
            Self::LimiterHangs | Self::LimiterFails => (Some(503), Recorded::Event(Some(503))),
            Self::StoreHangs | Self::StorePanics | Self::AnothersRecord => {
                (Some(503), Recorded::Counted)
            }
        }
    }
}

/// How a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    Nothing,
    /// Only counted: rejected without a known key.
    Counted,
    Lost,
    Event(Option<u16>),
}
