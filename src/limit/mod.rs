//! How fast a key may be used.

mod limiter;
mod local;
mod rate;
mod sketch;

pub(crate) use limiter::whole_secs;
pub use limiter::{Allowance, Answer, Decision, LaterDecision, LimitError, Limiter, Standing};
pub use local::LocalLimiter;
pub use rate::{InvalidLimit, RateLimit};
pub(crate) use sketch::{Charge, RateSketch};
