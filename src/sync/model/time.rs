//! Time that stands still unless a model lets some pass.

use tokio::runtime::{Builder, Runtime};

thread_local! {
    /// The clock of timeouts.
    pub(super) static TIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime for its clock");
}
