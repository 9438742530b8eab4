//! Simulated time, which stands still unless a model advances it.

use tokio::runtime::{Builder, Runtime};

thread_local! {
    /// Provides the clock for timeouts.
    pub(super) static TIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
}
