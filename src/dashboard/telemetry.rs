//! What operators are told with the feature `tracing`: answers hold no text of the backend's own.
#![cfg_attr(not(feature = "tracing"), expect(unused_variables))]

use std::error::Error;

#[cfg(feature = "tracing")]
use crate::log_throttle::LogThrottle;

pub(super) fn store_failure(error: &(dyn Error + 'static)) {
    #[cfg(feature = "tracing")]
    tracing::error!(error, "the dashboard could not use its store");
}

pub(super) fn failed_sign_in() {
    #[cfg(feature = "tracing")]
    tracing::warn!("a sign-in to the dashboard failed");
}

/// Requests whose `Authorization` did not let them in, at most once a second: whoever sends none has not
/// tried to get in.
#[derive(Debug, Default)]
pub(super) struct RefusedCredentials {
    #[cfg(feature = "tracing")]
    untold: LogThrottle,
}

impl RefusedCredentials {
    pub(super) fn one(&self) {
        #[cfg(feature = "tracing")]
        if let Some(requests) = self.untold.record() {
            tracing::warn!(requests, "credentials for the dashboard were refused");
        }
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http::header::AUTHORIZATION;
    use tower::ServiceExt;

    use crate::backend::MemoryBackend;
    use crate::dashboard::api::Problem;
    use crate::dashboard::{BearerToken, Dashboard};
    use crate::key::StoreError;
    use crate::test_tracing::CapturedEvents;
    use crate::usage::ReadError;

    #[test]
    fn operators_are_told_why_the_store_failed_and_clients_are_not() {
        let told = CapturedEvents::default();
        let _listening = told.capture();
        let problems: [Problem; 2] = [
            StoreError::unavailable("the disk is full").into(),
            ReadError::unavailable("the disk is full").into(),
        ];
        for problem in problems {
            let answer = serde_json::to_string(&problem).unwrap();
            assert!(!answer.contains("disk"), "{answer}");
        }
        assert_eq!(told.values_of("error"), ["the disk is full"; 2]);
    }

    #[tokio::test]
    async fn operators_are_told_of_refused_credentials() {
        let guard = BearerToken::new("a token of sixteen or more").unwrap();
        let dashboard = Dashboard::new(MemoryBackend::new(), guard).unwrap();
        let router = dashboard.into_router();
        let told = CapturedEvents::default();
        let _listening = told.capture();
        for (credentials, path) in [
            (None, "/keys"),
            (Some("Bearer a token of sixteen or more"), "/keys"),
            (Some("Bearer another of sixteen or more"), "/keys"),
            (Some("Bearer another of sixteen or more"), "/api/keys"),
        ] {
            let mut request = Request::get(path);
            if let Some(credentials) = credentials {
                request = request.header(AUTHORIZATION, credentials);
            }
            let request = request.body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
        // The second is told with those of the second after.
        let refused = "credentials for the dashboard were refused";
        assert_eq!(told.values_of("message"), [refused]);
        assert_eq!(told.values_of("requests"), ["1"]);
    }
}
