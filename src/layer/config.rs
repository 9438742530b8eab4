//! What a configured layer's services share, and how a request passes.
//!
//! Everything that is known without asking a store is decided without waiting and allocating little, and
//! no good key meets a lock that all share. What has to be asked comes back as a [`Step::Wait`] and goes
//! on in [`Gate::resume`]. A request is first judged (a [`Admission`], in `judge` and `refuse`) and only then
//! changed ([`Gate::carry_out`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;

use super::client_ip::{ClientIpExtractor, MissingClientIp};
use super::client_limit::ClientLimit;
use super::credential::CredentialSources;
use super::endpoint::Endpoints;
use super::rejected_events::RejectedEvents;
use super::rejection::Rejections;
use super::request_parts::RequestParts;
use super::response_headers::HeaderStyle;
use crate::clock::Clock;
use crate::clock::Now;
use crate::drain::DrainLimits;
use crate::key::{CachedKey, Key, KeyCache, Peppers};
use crate::limit::{AttachedLimits, LimitError, Limiter, RateLimit};
use crate::usage::Recorder;

type Cost = dyn Fn(RequestParts<'_>) -> u32 + Send + Sync;
type ResourceId = dyn Fn(RequestParts<'_>) -> Option<String> + Send + Sync;

/// What happens to requests whose key cannot be looked up because the store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StoreFailure {
    /// They are refused with 503.
    #[default]
    Refuse,
    /// They pass without a [`Caller`], marked by [`Unverified`] in their extensions, unlimited and
    /// accounted for without a key. Only for services that had rather be open than down. Those are
    /// refused all the same for which the store was not asked
    /// [in time](crate::key::CacheConfig::lookup_timeout): nobody gets in by asking for too much at once.
    Pass,
}

/// A configured layer's shared part.
#[derive(Clone)]
pub(crate) struct Config {
    /// Tells what configs with these limits and this limiter derive from a cached key from what others
    /// do.
    pub(crate) limits_id: u64,
    pub(crate) cache: KeyCache,
    pub(crate) clock: Clock,
    pub(crate) peppers: Peppers,
    pub(crate) limiter: Arc<dyn Limiter>,
    pub(crate) limiter_timeout: Duration,
    pub(crate) drain_limits: DrainLimits,
    /// How often the keys of response bodies are checked.
    pub(crate) stream_checks: Option<Duration>,
    pub(crate) default_limits: Vec<RateLimit>,
    pub(crate) cost: Option<Arc<Cost>>,
    pub(crate) recorder: Recorder,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) resource_id: Option<Arc<ResourceId>>,
    pub(crate) client_address: ClientIpExtractor,
    pub(crate) lookup_limit: Option<Arc<ClientLimit>>,
    pub(crate) anonymous_limit: Option<Arc<ClientLimit>>,
    pub(crate) rejected_events: Arc<RejectedEvents>,
    pub(crate) missing_client_ip: Arc<MissingClientIp>,
    pub(crate) sources: CredentialSources,
    /// The headers among them, for caches (RFC 9110 §12.5.5).
    pub(crate) vary: Option<HeaderValue>,
    /// Whether responses without a `Cache-Control` are for private caches alone.
    pub(crate) private: bool,
    pub(crate) header_style: HeaderStyle,
    pub(crate) rejections: Rejections,
    pub(crate) exempt: Vec<Box<str>>,
    pub(crate) anonymous: bool,
    /// Whether CORS preflights pass.
    pub(crate) preflight: bool,
    pub(crate) keep_credential: bool,
    pub(crate) accept_imported: bool,
    pub(crate) store_failure: StoreFailure,
}

pub(crate) fn next_limits_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Config {
    /// A key's own limits, or those of keys that have none.
    pub(super) fn limits_of<'a>(&'a self, key: &'a Key) -> &'a [RateLimit] {
        if key.limits.is_empty() {
            &self.default_limits
        } else {
            &key.limits
        }
    }

    /// A cached key's limits, attached to the limiter of this configuration.
    #[inline]
    pub(super) fn attached<'a>(
        &self,
        entry: &'a CachedKey,
        now: Now,
    ) -> Result<&'a AttachedLimits, LimitError> {
        AttachedLimits::get_or_attach(&entry.limits, self.limits_id, || {
            let limits = self.limits_of(&entry.key);
            AttachedLimits::attach(
                self.limits_id,
                &*self.limiter,
                entry.key.lineage,
                limits,
                now,
            )
        })
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("cache", &self.cache)
            .field("sources", &self.sources)
            .field("default_limits", &self.default_limits)
            .field("header_style", &self.header_style)
            .field("rejections", &self.rejections)
            .field("exempt", &self.exempt)
            .field("anonymous", &self.anonymous)
            .field("store_failure", &self.store_failure)
            .finish_non_exhaustive()
    }
}
