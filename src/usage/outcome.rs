//! What came of a request.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::wire::{Status, StatusClass};

/// What came of a request, as totals count it: every event has exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered below 400, or with gRPC OK.
    Completed,
    /// Everything else; [`Cause`] tells why.
    Failed,
    /// Refused because a limit of its key was reached.
    RateLimited,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// Refused before the work for another reason than a limit; see [`RejectionReason`].
    Refused,
    /// Answered with a 4xx, or a gRPC code that names the client's fault.
    ClientError,
    /// Answered with a 5xx, a gRPC code that names the server's fault, an error or a panic.
    ServerError,
    /// The client left before the answer was whole, or the process shut down during it.
    Cancelled,
}

/// Why a request was refused.
///
/// Clients learn less than this: every reason up to [`RejectionReason::Expired`] looks the same to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectionReason {
    /// No key was sent.
    Missing,
    /// What was sent does not have the form of a key, or its checksum is wrong.
    Malformed,
    /// Two different keys were sent in one request.
    Ambiguous,
    /// No key has this id.
    Unknown,
    /// The id exists but the rest of the secret is wrong.
    WrongSecret,
    /// The key is switched off.
    Disabled,
    /// The key was revoked.
    Revoked,
    /// The key's time is over.
    Expired,
    /// The client's address is not on the key's list, or cannot be told.
    Address,
    /// The key lacks a scope that the route asks for.
    Scope,
    /// One of the key's rate limits is reached.
    RateLimited,
    /// The store of keys did not answer.
    StoreUnavailable,
    /// The limiter did not answer or has no room for another key.
    LimiterUnavailable,
    /// The recorder is full or shut down, and was told to refuse rather than to lose events.
    RecorderFull,
    /// The client's address caused more look-ups that came to nothing than it may. An event with it is
    /// one of a key that is disabled, revoked or expired.
    #[serde(alias = "lookup_budget")]
    LookupLimit,
}

impl Outcome {
    /// Every outcome there is, in the order of the enum.
    pub const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::RateLimited];

    /// The name in `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::RateLimited => "rate_limited",
        }
    }

    /// The outcome of a refused request.
    pub(crate) fn of_rejection(reason: RejectionReason) -> (Self, Option<Cause>) {
        match reason {
            RejectionReason::RateLimited => (Self::RateLimited, None),
            _ => (Self::Failed, Some(Cause::Refused)),
        }
    }

    /// The outcome that a status stands for where no hook says otherwise.
    pub fn of(status: Status) -> (Self, Option<Cause>) {
        match status.class() {
            StatusClass::Informational | StatusClass::Success | StatusClass::Redirection => {
                (Self::Completed, None)
            }
            StatusClass::ClientError => (Self::Failed, Some(Cause::ClientError)),
            StatusClass::ServerError => (Self::Failed, Some(Cause::ServerError)),
            StatusClass::None => (Self::Failed, Some(Cause::Cancelled)),
        }
    }
}

impl Cause {
    /// Every cause there is, in the order of the enum.
    pub const ALL: [Self; 4] = [
        Self::Refused,
        Self::ClientError,
        Self::ServerError,
        Self::Cancelled,
    ];

    /// The name in `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Cancelled => "cancelled",
        }
    }
}

impl RejectionReason {
    /// Every reason there is, in the order of the enum.
    pub const ALL: [Self; 15] = [
        Self::Missing,
        Self::Malformed,
        Self::Ambiguous,
        Self::Unknown,
        Self::WrongSecret,
        Self::Disabled,
        Self::Revoked,
        Self::Expired,
        Self::Address,
        Self::Scope,
        Self::RateLimited,
        Self::StoreUnavailable,
        Self::LimiterUnavailable,
        Self::RecorderFull,
        Self::LookupLimit,
    ];

    /// The name in `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Ambiguous => "ambiguous",
            Self::Unknown => "unknown",
            Self::WrongSecret => "wrong_secret",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Address => "address",
            Self::Scope => "scope",
            Self::RateLimited => "rate_limited",
            Self::StoreUnavailable => "store_unavailable",
            Self::LimiterUnavailable => "limiter_unavailable",
            Self::RecorderFull => "recorder_full",
            Self::LookupLimit => "lookup_limit",
        }
    }
}

/// Displays a closed set by its members' names.
macro_rules! display_as_str {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    )*};
}

display_as_str!(Outcome, Cause, RejectionReason);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_serde() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
        for (index, refusal) in RejectionReason::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(refusal).unwrap(), refusal.as_str());
            assert_eq!(refusal as usize, index);
        }
    }

    #[test]
    fn statuses_stand_for_outcomes() {
        assert_eq!(Outcome::of(Status::Http(399)), (Outcome::Completed, None));
        assert_eq!(
            Outcome::of(Status::Http(400)),
            (Outcome::Failed, Some(Cause::ClientError))
        );
        assert_eq!(
            Outcome::of(Status::Grpc(14)),
            (Outcome::Failed, Some(Cause::ServerError))
        );
    }
}
