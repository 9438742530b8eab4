//! The parts that an application brings along fail: hooks, the limiter, the store and the sink, each
//! alone and all at once, and what is told of it is the truth.
#![cfg(feature = "axum")]

mod faulty;
mod in_time;
use crate::support;
mod whole;

use keytally::RequestParts;

/// What goes wrong with a request: its client says so in `x-fault`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    None,
    Credential,
    Cost,
    Endpoint,
    ResourceId,
    PeerAddress,
    Classify,
    /// The answer of the refusal of a revoked key cannot be made.
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

    /// Panics if this is what goes wrong.
    fn strikes(self, head: RequestParts<'_>) {
        assert!(Self::of(head) != self, "{self:?} panics, on purpose");
    }

    /// Whether its limiter is waited for.
    fn waits(self) -> bool {
        matches!(
            self,
            Self::Later | Self::Late | Self::LimiterHangs | Self::LimiterFails
        )
    }

    /// What its client gets, and what is told of the request.
    fn expected(self) -> (Option<u16>, Told) {
        match self {
            Self::None | Self::Late | Self::Classify => (Some(200), Told::Event(Some(200))),
            // Before anything is known of a key.
            Self::Credential => (None, Told::Nothing),
            // The event could not be made: that is not hidden.
            Self::Cost
            | Self::Endpoint
            | Self::ResourceId
            | Self::PeerAddress
            | Self::OnRejection
            | Self::Attach
            | Self::Take => (None, Told::Lost),
            Self::Later => (None, Told::Event(Some(500))),
            Self::LimiterHangs | Self::LimiterFails => (Some(503), Told::Event(Some(503))),
            Self::StoreHangs | Self::StorePanics | Self::AnothersRecord => {
                (Some(503), Told::Counted)
            }
        }
    }
}

/// What is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// Refused without a known key.
    Counted,
    Lost,
    Event(Option<u16>),
}
