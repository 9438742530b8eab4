//! API keys, rate limits and usage accounting for any tower service.

mod clock;
mod id;
pub mod key;
pub mod limit;
mod page;
pub mod usage;

pub use async_trait::async_trait;
pub use clock::{Clock, Now};
pub use id::{InvalidKeyId, KeyId};
pub use page::{InvalidPageToken, Page, PageToken};
