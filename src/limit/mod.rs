//! Rate limits and limiters.

mod attached;
mod limiter;
mod local;
mod rate;
mod rate_limit;
#[cfg(feature = "redis")]
mod redis;
mod sketch;
mod subject;

pub(crate) use attached::{AttachedLimits, LimitHeaders, LimitSettings};
pub(crate) use limiter::whole_secs;
pub use limiter::{
    Decision, LimitError, LimitHandle, LimitResponse, LimitStatus, Limiter, LimiterHealth,
    PendingDecision,
};
pub use local::LocalLimiter;
pub use rate_limit::{InvalidLimit, RateLimit};
#[cfg(feature = "redis")]
pub use redis::{LeaseConfig, RedisConfig, RedisFallback, RedisLimiter};
pub(crate) use sketch::{Charge, RateSketch};
pub use subject::{Subject, SubjectLimits};
