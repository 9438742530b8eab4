//! Waiting for a condition.

use std::time::Duration;

/// The timeout of [`until`].
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "timed out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
