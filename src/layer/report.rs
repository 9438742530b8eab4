//! What the request path tells `tracing`, where that feature is on.
#![cfg_attr(not(feature = "tracing"), expect(unused_variables))]

use crate::id::KeyId;
use crate::key::StoreError;
use crate::limit::LimitError;
use crate::usage::Refusal;

pub(super) fn refusal(reason: Refusal, key: Option<KeyId>) {
    #[cfg(feature = "tracing")]
    match key {
        Some(key) => tracing::debug!(%reason, %key, "request refused"),
        None => tracing::debug!(%reason, "request refused"),
    }
}

pub(super) fn store_failure(error: &StoreError) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        error = error as &dyn std::error::Error,
        "key look-up failed"
    );
}

pub(super) fn limiter_failure(error: &LimitError) {
    #[cfg(feature = "tracing")]
    tracing::error!(%error, "rate limits could not be checked");
}
