//! API keys, rate limits and usage accounting for any tower service.

pub mod backend;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod id;
pub mod key;
mod layer;
pub mod limit;
mod page;
#[cfg(feature = "testing")]
pub mod testing;
pub mod usage;

pub use async_trait::async_trait;
pub use clock::{Clock, Now};
pub use id::{InvalidKeyId, KeyId};
pub use layer::*;
pub use page::{InvalidPageToken, Page, PageToken};
