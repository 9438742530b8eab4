//! The recorder's permit to record a request.

use std::borrow::Borrow;

use crate::usage::Recorder;

/// A request that the recorder has been told of; taken back when nothing comes of it.
pub(super) struct RecorderPermit<R: Borrow<Recorder>> {
    recorder: Option<R>,
    /// Whether it has a place among the events of rejected keys.
    is_rejected: bool,
}

impl<R: Borrow<Recorder>> RecorderPermit<R> {
    pub(super) fn with(recorder: R) -> Self {
        Self {
            recorder: Some(recorder),
            is_rejected: false,
        }
    }

    /// For a request of a rejected key.
    pub(super) fn rejected(recorder: R) -> Self {
        Self {
            recorder: Some(recorder),
            is_rejected: true,
        }
    }

    /// For a request that is told of elsewhere, or was ended by a shutdown, which has told of it.
    pub(super) fn none() -> Self {
        Self {
            recorder: None,
            is_rejected: false,
        }
    }

    /// Whether nothing is to be told of the request any more.
    pub(super) fn is_none(&self) -> bool {
        self.recorder.is_none()
    }

    pub(super) fn is_rejected(&self) -> bool {
        self.is_rejected
    }

    /// The event takes over.
    pub(super) fn consume(mut self) {
        self.recorder = None;
    }
}

impl<R: Borrow<Recorder>> Drop for RecorderPermit<R> {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            if self.is_rejected {
                recorder.borrow().release_rejected();
            }
            if std::thread::panicking() {
                // A hook failed before there was an event to tell of it.
                recorder.borrow().lose();
            } else {
                recorder.borrow().release();
            }
        }
    }
}
