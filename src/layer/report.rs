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

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use super::*;
    use crate::told::Told;

    #[test]
    fn what_went_wrong_is_told() {
        let told = Told::default();
        let listening = told.listen();
        refusal(Refusal::Unknown, None);
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        refusal(Refusal::Disabled, Some(id));
        store_failure(&StoreError::unavailable("connection reset"));
        limiter_failure(&LimitError::Full);
        drop(listening);
        assert_eq!(told.under("reason"), ["unknown", "disabled"]);
        assert_eq!(told.under("key"), ["3fK9aB0000zzZZ19"]);
        let full = LimitError::Full.to_string();
        assert_eq!(told.under("error"), ["connection reset", &full]);
    }
}
