//! What holds of keytally whatever it is given, checked by `cargo fuzz` over made-up inputs and by
//! `cargo test` over the kept ones.
//!
//! Each target is a function of bytes that panics when something does not hold. It compares what the
//! crate says with another reading of the same input, written here as plainly as it can be. Nothing
//! depends on chance, nor on the time of day but where a page's range ends now, and what is kept between two inputs
//! does not grow.

pub mod addresses;
pub mod admission;
pub mod credentials;
pub mod export;
pub mod filters;
pub mod forwarded;
pub mod grpc;
pub mod imports;
pub mod page_tokens;
pub mod secrets;

mod input;
mod now;
mod record;

/// What an input is checked by.
pub type Check = fn(&[u8]);

/// Every target by its name, which its corpus and its dictionary have too.
pub const TARGETS: [(&str, Check); 10] = [
    ("addresses", addresses::check),
    ("admission", admission::check),
    ("credentials", credentials::check),
    ("export", export::check),
    ("filters", filters::check),
    ("forwarded", forwarded::check),
    ("grpc", grpc::check),
    ("imports", imports::check),
    ("page_tokens", page_tokens::check),
    ("secrets", secrets::check),
];
