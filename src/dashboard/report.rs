//! What operators are told with the feature `tracing`: answers hold no text of the backend's own.
#![cfg_attr(not(feature = "tracing"), expect(unused_variables))]

use std::error::Error;

pub(super) fn store_failure(error: &(dyn Error + 'static)) {
    #[cfg(feature = "tracing")]
    tracing::error!(error, "the dashboard could not use its store");
}

pub(super) fn failed_sign_in() {
    #[cfg(feature = "tracing")]
    tracing::warn!("a sign-in to the dashboard failed");
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use crate::dashboard::api::Problem;
    use crate::key::StoreError;
    use crate::told::Told;
    use crate::usage::ReadError;

    #[test]
    fn operators_are_told_why_the_store_failed_and_clients_are_not() {
        let told = Told::default();
        let _listening = told.listen();
        let problems: [Problem; 2] = [
            StoreError::unavailable("the disk is full").into(),
            ReadError::unavailable("the disk is full").into(),
        ];
        for problem in problems {
            let answer = serde_json::to_string(&problem).unwrap();
            assert!(!answer.contains("disk"), "{answer}");
        }
        assert_eq!(told.under("error"), ["the disk is full"; 2]);
    }
}
