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
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use crate::dashboard::api::Problem;
    use crate::key::StoreError;
    use crate::usage::ReadError;

    /// The errors that `tracing` was told, with their causes.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl Visit for Told {
        fn record_error(&mut self, _: &Field, error: &(dyn super::Error + 'static)) {
            let cause = error.source().map(ToString::to_string);
            self.0.lock().unwrap().extend(cause);
        }

        fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
    }

    impl Subscriber for Told {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn operators_are_told_why_the_store_failed_and_clients_are_not() {
        let told = Told::default();
        // Beside a second one it is asked about what other tests' threads come upon first, too.
        let _second = tracing::Dispatch::new(Told::default());
        let _told_here = tracing::subscriber::set_default(told.clone());
        let problems: [Problem; 2] = [
            StoreError::unavailable("the disk is full").into(),
            ReadError::unavailable("the disk is full").into(),
        ];
        for problem in problems {
            let answer = serde_json::to_string(&problem).unwrap();
            assert!(!answer.contains("disk"), "{answer}");
        }
        assert_eq!(*told.0.lock().unwrap(), ["the disk is full"; 2]);
    }
}
