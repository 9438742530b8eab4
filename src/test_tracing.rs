//! What `tracing` is told, for unit tests.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// The fields that this thread's events have; of an error that has a cause, the cause.
#[derive(Clone, Default)]
pub(crate) struct CapturedEvents(Arc<Mutex<Vec<(&'static str, String)>>>);

/// While it lives, this thread's events are told.
pub(crate) struct CaptureGuard {
    _here: DefaultGuard,
    _second: Dispatch,
}

impl CapturedEvents {
    pub(crate) fn capture(&self) -> CaptureGuard {
        CaptureGuard {
            // Beside a second one it is asked about what other tests' threads come upon first, too.
            _second: Dispatch::new(Self::default()),
            _here: tracing::subscriber::set_default(self.clone()),
        }
    }

    /// What was told under a name so far, in order.
    pub(crate) fn values_of(&self, name: &str) -> Vec<String> {
        let told = self.0.lock().unwrap();
        let named = told.iter().filter(|(field, _)| *field == name);
        named.map(|(_, value)| value.clone()).collect()
    }

    fn record_value(&self, field: &Field, value: String) {
        self.0.lock().unwrap().push((field.name(), value));
    }
}

impl Visit for CapturedEvents {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_value(field, value.to_string());
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        if let Some(cause) = error.source() {
            self.record_value(field, cause.to_string());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_value(field, format!("{value:?}"));
    }
}

impl Subscriber for CapturedEvents {
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
