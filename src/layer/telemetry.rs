//! What the request path tells `tracing`, where that feature is on.
#![cfg_attr(not(feature = "tracing"), expect(unused_variables))]

use crate::id::KeyId;
use crate::key::StoreError;
use crate::limit::LimitError;
use crate::usage::RejectionReason;

pub(super) fn refusal(reason: RejectionReason, key: Option<KeyId>) {
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

/// Look-ups that nobody could be charged for, since their clients' addresses are not known: told once,
/// as it is so for all requests of a service, or for hardly any.
#[derive(Debug, Default)]
pub(crate) struct MissingClientIp {
    #[cfg(feature = "tracing")]
    told: std::sync::OnceLock<()>,
}

impl MissingClientIp {
    pub(super) fn record(&self) {
        #[cfg(feature = "tracing")]
        self.told.get_or_init(|| {
            tracing::warn!(
                "clients' addresses are not known, so that no budget bounds their look-ups: see `ApiKeyLayer::lookup_limit`"
            );
        });
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use tower::{Layer, ServiceExt};

    use super::*;
    use crate::backend::MemoryBackend;
    use crate::key::{Prefix, Secret};
    use crate::layer::{ApiKeyLayer, PeerIp};
    use crate::test_tracing::CapturedEvents;

    #[test]
    fn what_went_wrong_is_told() {
        let told = CapturedEvents::default();
        let listening = told.capture();
        refusal(RejectionReason::Unknown, None);
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        refusal(RejectionReason::Disabled, Some(id));
        store_failure(&StoreError::unavailable("connection reset"));
        limiter_failure(&LimitError::Full);
        drop(listening);
        assert_eq!(told.values_of("reason"), ["unknown", "disabled"]);
        assert_eq!(told.values_of("key"), ["3fK9aB0000zzZZ19"]);
        let full = LimitError::Full.to_string();
        assert_eq!(told.values_of("error"), ["connection reset", &full]);
    }

    #[tokio::test]
    async fn operators_are_told_once_that_there_is_nobody_to_charge() {
        let layer = ApiKeyLayer::new(MemoryBackend::new());
        let boundless = ApiKeyLayer::new(MemoryBackend::new()).no_lookup_limit();
        let told = CapturedEvents::default();
        let _listening = told.capture();
        let ask = async |layer: &ApiKeyLayer, peer: Option<PeerIp>| {
            let secret = Secret::generate(&Prefix::new("acme").unwrap()).unwrap();
            let request = Request::get("/").header("x-api-key", secret.expose());
            let mut request = request.body(String::new()).unwrap();
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            let service = layer.layer(tower::service_fn(async |_: Request<String>| {
                Ok::<_, Infallible>(Response::new(String::new()))
            }));
            assert_eq!(service.oneshot(request).await.unwrap().status(), 401);
        };
        let warnings = || {
            let messages = told.values_of("message");
            let warned = |message: &&String| message.contains("addresses are not known");
            messages.iter().filter(warned).count()
        };
        ask(&layer, Some(PeerIp([192, 0, 2, 1].into()))).await;
        ask(&boundless, None).await;
        assert_eq!(warnings(), 0);
        for _ in 0..3 {
            ask(&layer.clone().realm("here").unwrap(), None).await;
        }
        assert_eq!(warnings(), 1);
    }
}
