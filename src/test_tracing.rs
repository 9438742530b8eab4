//! Captures `tracing` events in unit tests.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// The field values of this thread's events. An error is captured as its source, if it has one.
#[derive(Clone, Default)]
pub(crate) struct CapturedEvents(Arc<Mutex<Vec<(&'static str, String)>>>);

/// Captures this thread's events until dropped.
pub(crate) struct CaptureGuard {
    _here: DefaultGuard,
    _second: Dispatch,
}

impl CapturedEvents {
    pub(crate) fn capture(&self) -> CaptureGuard {
        CaptureGuard {
            // With one dispatcher only, callsites first hit on another test's thread would be cached as disabled.
            _second: Dispatch::new(Self::default()),
            _here: tracing::subscriber::set_default(self.clone()),
        }
    }

    /// The values captured for a field so far, in order.
    pub(crate) fn values_of(&self, name: &str) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let named = events.iter().filter(|(field, _)| *field == name);
        named.map(|(_, value)| value.clone()).collect()
    }

    fn record_value(&self, field: &Field, value: String) {
        self.0.lock().unwrap().push((field.name(), value));
    }
}

impl Visit for CapturedEvents {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_value(field, value.to_owned());
    }

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
