//! A recorder whose events can be read after each input.

use std::sync::{Arc, Mutex};

use keytally::async_trait;
use keytally::usage::{Batch, Recorder, SinkError, UsageEvent, UsageSink};
use tokio::runtime::{Builder, Runtime};

pub(crate) struct Recorded {
    runtime: Runtime,
    pub(crate) recorder: Recorder,
    tape: Tape,
}

#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<UsageEvent>>>);

#[async_trait]
impl UsageSink for Tape {
    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        self.0
            .lock()
            .unwrap()
            .extend(batch.events().iter().cloned());
        Ok(())
    }
}

impl Recorded {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let tape = Tape::default();
        let recorder = {
            let _inside = runtime.enter();
            Recorder::new(tape.clone())
        };
        Self {
            runtime,
            recorder,
            tape,
        }
    }

    /// The events recorded since the last call.
    pub(crate) fn events(&self) -> Vec<UsageEvent> {
        self.runtime.block_on(self.recorder.flush());
        std::mem::take(&mut self.tape.0.lock().unwrap())
    }

    /// The single event recorded since the last call.
    pub(crate) fn event(&self) -> UsageEvent {
        let mut events = self.events();
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}
