//! `ApiKeyLayer` in front of axum, tonic and plain tower services.

#[cfg(feature = "axum")]
mod bodies;
#[cfg(feature = "axum")]
mod costs;
mod grpc;
#[cfg(feature = "axum")]
mod http;
#[cfg(all(feature = "axum", feature = "tracing"))]
mod layer_orders;
#[cfg(feature = "axum")]
mod load;
mod lookup_limit;
#[cfg(feature = "axum")]
mod nested_layers;
mod owners;
#[cfg(feature = "password-hashes")]
mod password_hashes;
mod plain;
mod poll_ready;
#[cfg(feature = "axum")]
mod rejected_bodies;
mod settings;
#[cfg(feature = "axum")]
mod streams;
#[cfg(feature = "testing")]
mod testing_helpers;
mod unauthenticated;

#[path = "../../examples/postings/mod.rs"]
mod postings;
#[path = "../support/secrets.rs"]
mod secrets;
#[path = "../support/mod.rs"]
mod support;
