//! Helper processes for tests, selected by the first argument and configured by environment variables.
//! `tests/support/children.rs` builds and starts them.

#[cfg(feature = "redis")]
mod acquire_until_killed;
#[cfg(feature = "dashboard")]
mod answer_with_one_zone;
mod merge_until_killed;
mod migrate_until_killed;
mod record_until_killed;
#[cfg(feature = "postgres")]
mod send_until_rejected;
#[cfg(feature = "postgres")]
mod serve_until_killed;
#[cfg(feature = "postgres")]
mod serve_until_stopped;
mod write_until_killed;

#[path = "../support/outages.rs"]
mod outages;
#[cfg(feature = "postgres")]
#[path = "../support/service.rs"]
mod service;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match &*name {
        #[cfg(feature = "redis")]
        "acquire_until_killed" => acquire_until_killed::run().await,
        #[cfg(feature = "dashboard")]
        "answer_with_one_zone" => answer_with_one_zone::run().await,
        "merge_until_killed" => merge_until_killed::run().await,
        "migrate_until_killed" => migrate_until_killed::run().await,
        "record_until_killed" => record_until_killed::run().await,
        #[cfg(feature = "postgres")]
        "send_until_rejected" => send_until_rejected::run().await,
        #[cfg(feature = "postgres")]
        "serve_until_killed" => serve_until_killed::run().await,
        #[cfg(feature = "postgres")]
        "serve_until_stopped" => serve_until_stopped::run().await,
        "write_until_killed" => write_until_killed::run().await,
        _ => panic!("there is no process {name:?}"),
    }
}

/// An environment variable that the parent process has set.
fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// A duration in milliseconds that the parent process has set.
#[cfg(feature = "postgres")]
fn given_millis(name: &str) -> std::time::Duration {
    std::time::Duration::from_millis(given(name).parse().unwrap())
}
