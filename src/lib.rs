//! API keys, rate limits and usage accounting for any tower service.

mod clock;
mod id;
pub mod limit;
mod page;
pub mod usage;

pub use clock::{Clock, Now};
pub use id::{InvalidKeyId, KeyId};
pub use page::{InvalidPageToken, Page, PageToken};
