//! The macros of `tracing`. Without the feature of that name they expand to nothing.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, error, info, warn};

#[cfg(not(feature = "tracing"))]
macro_rules! discard {
    ($($event:tt)*) => {{}};
}

#[cfg(not(feature = "tracing"))]
pub(crate) use {discard as debug, discard as error, discard as info, discard as warn};
