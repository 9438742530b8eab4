//! [`RecorderPermit`]: a reserved place in the recorder for the event of a request.

use std::borrow::Borrow;

use crate::usage::Recorder;

/// A place reserved in the recorder. Released on drop unless it is consumed by an event.
pub(super) struct RecorderPermit<R: Borrow<Recorder>> {
    recorder: Option<R>,
    /// Whether the place is reserved for the event of a rejected key.
    is_rejected: bool,
}

impl<R: Borrow<Recorder>> RecorderPermit<R> {
    pub(super) fn with(recorder: R) -> Self {
        Self {
            recorder: Some(recorder),
            is_rejected: false,
        }
    }

    /// A permit for the event of a rejected key.
    pub(super) fn rejected(recorder: R) -> Self {
        Self {
            recorder: Some(recorder),
            is_rejected: true,
        }
    }

    /// For a request that is recorded by another layer, or was already recorded by a shutdown.
    pub(super) fn none() -> Self {
        Self {
            recorder: None,
            is_rejected: false,
        }
    }

    /// Whether the request is not recorded by this layer.
    pub(super) fn is_none(&self) -> bool {
        self.recorder.is_none()
    }

    pub(super) fn is_rejected(&self) -> bool {
        self.is_rejected
    }

    /// Passes the reservation on to the event.
    pub(super) fn consume(mut self) {
        self.recorder = None;
    }
}

impl<R: Borrow<Recorder>> Drop for RecorderPermit<R> {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            let recorder = recorder.borrow();
            // A hook panicked before the event was created.
            let is_lost = std::thread::panicking();
            match (self.is_rejected, is_lost) {
                (false, false) => recorder.release(),
                (false, true) => recorder.count_lost(),
                (true, false) => recorder.release_rejected(),
                (true, true) => recorder.count_lost_rejected(),
            }
        }
    }
}
