//! Outcomes, failure causes and rejection reasons.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::wire::{Status, StatusClass};

/// The outcome of a request. Every event has exactly one, so totals add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The response had an HTTP status below 400, or gRPC status OK.
    Completed,
    /// Any other result; [`Cause`] classifies it.
    Failed,
    /// Rejected because the key exceeded a rate limit.
    RateLimited,
}

/// The cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// Rejected by the layer for a reason other than a rate limit; see [`RejectionReason`].
    #[serde(alias = "refused")]
    Rejected,
    /// A 4xx status or a gRPC code for a client error.
    ClientError,
    /// A 5xx status, a gRPC code for a server error, or a service that returned an error or panicked.
    ServerError,
    /// The client disconnected or the process shut down before the response was complete.
    Cancelled,
}

/// The reason why the layer rejected a request.
///
/// Clients see less than this: all reasons from [`RejectionReason::Missing`] to
/// [`RejectionReason::OwnerSuspended`] produce the same response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectionReason {
    /// No key was sent.
    Missing,
    /// The credential is not a well-formed secret, or its checksum is wrong.
    Malformed,
    /// The request carries two different keys.
    Ambiguous,
    /// There is no key with this id.
    Unknown,
    /// The key id exists, but the secret does not match.
    WrongSecret,
    /// The key is disabled.
    Disabled,
    /// The key has been revoked.
    Revoked,
    /// The key has expired.
    Expired,
    /// The owner of the key is suspended.
    OwnerSuspended,
    /// The client IP is unknown or not in the key's address list.
    #[serde(alias = "address")]
    ClientIp,
    /// The key lacks a scope that the route requires, or the path has no rule in
    /// [`RequireScope::by_path`](crate::RequireScope::by_path).
    Scope,
    /// The key exceeded one of its rate limits.
    RateLimited,
    /// The key store is unavailable.
    StoreUnavailable,
    /// The limiter is unavailable or cannot track another key.
    LimiterUnavailable,
    /// The recorder is full or shut down and uses [`WhenFull::Reject`](super::WhenFull::Reject).
    RecorderFull,
    /// The client IP exceeded the lookup limit. Events with this reason belong to a disabled, revoked or expired
    /// key.
    #[serde(alias = "lookup_budget")]
    LookupLimit,
}

impl Outcome {
    /// All outcomes, in declaration order.
    pub const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::RateLimited];

    /// The name in `snake_case`, as serialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::RateLimited => "rate_limited",
        }
    }

    /// The outcome and cause of a rejected request.
    pub(crate) fn of_rejection(reason: RejectionReason) -> (Self, Option<Cause>) {
        match reason {
            RejectionReason::RateLimited => (Self::RateLimited, None),
            _ => (Self::Failed, Some(Cause::Rejected)),
        }
    }

    /// Whether requests with this outcome are billable unless
    /// [`RecorderBuilder::billable`](super::RecorderBuilder::billable) says otherwise.
    pub(crate) fn is_billable(self) -> bool {
        self == Self::Completed
    }

    /// The default outcome and cause for a status, used unless a
    /// [`classify`](super::RecorderBuilder::classify) hook overrides it.
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
    /// All causes, in declaration order.
    pub const ALL: [Self; 4] = [
        Self::Rejected,
        Self::ClientError,
        Self::ServerError,
        Self::Cancelled,
    ];

    /// The name in `snake_case`, as serialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Cancelled => "cancelled",
        }
    }
}

impl RejectionReason {
    /// All reasons, in declaration order.
    pub const ALL: [Self; 16] = [
        Self::Missing,
        Self::Malformed,
        Self::Ambiguous,
        Self::Unknown,
        Self::WrongSecret,
        Self::Disabled,
        Self::Revoked,
        Self::Expired,
        Self::OwnerSuspended,
        Self::ClientIp,
        Self::Scope,
        Self::RateLimited,
        Self::StoreUnavailable,
        Self::LimiterUnavailable,
        Self::RecorderFull,
        Self::LookupLimit,
    ];

    /// The name in `snake_case`, as serialized.
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
            Self::OwnerSuspended => "owner_suspended",
            Self::ClientIp => "client_ip",
            Self::Scope => "scope",
            Self::RateLimited => "rate_limited",
            Self::StoreUnavailable => "store_unavailable",
            Self::LimiterUnavailable => "limiter_unavailable",
            Self::RecorderFull => "recorder_full",
            Self::LookupLimit => "lookup_limit",
        }
    }
}

/// Implements `Display` by `as_str`.
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
    fn names_match_serde() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
        for (index, reason) in RejectionReason::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn outcome_follows_from_status() {
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
