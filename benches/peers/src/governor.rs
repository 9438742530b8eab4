//! tower_governor: layers that never reject and layers that always do.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, header},
};
use tower_governor::{
    GovernorError, GovernorLayer,
    governor::{GovernorConfig, GovernorConfigBuilder},
    key_extractor::{KeyExtractor, PeerIpKeyExtractor},
};

pub use ::governor::middleware::{NoOpMiddleware, StateInformationMiddleware};

pub type Plain<K = PeerIpKeyExtractor> = GovernorLayer<K, NoOpMiddleware, Body>;
pub type Headers<K = PeerIpKeyExtractor> = GovernorLayer<K, StateInformationMiddleware, Body>;

/// The refill interval of one request, and the burst.
#[derive(Clone, Copy)]
pub struct Quota(Duration, u32);

/// Refilled faster than any loop can drain it. The product, ten seconds, must
/// exceed the longest time a thread may sleep between reading the clock and
/// updating its key's state, or governor rejects the request.
pub const NEVER_REJECTS: Quota = Quota(Duration::from_nanos(100), 100_000_000);
/// Rejects all but the first request of an hour.
pub const REJECTS: Quota = Quota(Duration::from_secs(3_600), 1);

/// Keyed by peer IP address (the default), without headers.
pub fn plain(Quota(period, burst): Quota) -> Plain {
    let config: Option<GovernorConfig<_, _>> = GovernorConfigBuilder::default()
        .period(period)
        .burst_size(burst)
        .finish();
    GovernorLayer::new(config.unwrap())
}

/// Keyed by peer IP address (the default), with `x-ratelimit-*` headers.
pub fn headers(Quota(period, burst): Quota) -> Headers {
    let config = GovernorConfigBuilder::default()
        .period(period)
        .burst_size(burst)
        .use_headers()
        .finish();
    GovernorLayer::new(config.unwrap())
}

/// Keyed by bearer token, with headers: the closest equivalent of limits per API key.
pub fn bearer_headers(Quota(period, burst): Quota) -> Headers<BearerKey> {
    let config = GovernorConfigBuilder::default()
        .period(period)
        .burst_size(burst)
        .key_extractor(BearerKey)
        .use_headers()
        .finish();
    GovernorLayer::new(config.unwrap())
}

/// Takes the token itself as the key; it does not check the token.
#[derive(Clone, Copy)]
pub struct BearerKey;

impl KeyExtractor for BearerKey {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        let value = request.headers().get(header::AUTHORIZATION);
        let value = value.and_then(|value| value.to_str().ok());
        match value.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) => Ok(token.to_owned()),
            None => Err(GovernorError::UnableToExtractKey),
        }
    }
}
