//! [`Config`]: the settings shared by the services of a layer.
//!
//! A request is first decided without modifying it (an `Admission`, in `authorize` and `reject`), and then
//! modified accordingly (in `admit`). Decisions that need no store lookup are made without waiting, with few
//! allocations, and without a global lock for valid keys. Otherwise `Config::admit` returns `Step::Wait`, and
//! `Config::resume` continues with the result.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
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
use crate::invalid_config::InvalidConfig;
use crate::key::{CachedKey, ImportedFormat, Key, KeyCache, Peppers, Policy};
use crate::limit::{
    AttachedLimits, LimitError, LimitSettings, Limiter, LocalLimiter, RateLimit, Subject,
    SubjectLimits,
};
use crate::sync::{thread_index, thread_slots};
use crate::usage::Recorder;

type Cost = dyn Fn(RequestParts<'_>) -> u32 + Send + Sync;
type ResourceId = dyn Fn(RequestParts<'_>) -> Option<String> + Send + Sync;

/// The handling of requests whose key cannot be looked up because the store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StoreFailure {
    /// Reject with 503. The default.
    #[default]
    Reject,
    /// Admit without a [`Caller`](super::Caller), marked by [`Unverified`](super::Unverified) in the extensions,
    /// without rate limits, and recorded without a key. Only for services that prefer being open to being
    /// unavailable.
    ///
    /// A request whose lookup could not start [in time](crate::key::CacheConfig::lookup_timeout), because too many
    /// were queued, is rejected nevertheless: overloading the store admits nobody.
    Admit,
}

/// The settings of a layer, shared by its services.
///
/// Aligned, so that a reference count shares no cache line with the copy of another thread.
#[derive(Clone)]
#[repr(align(128))]
pub(crate) struct Config {
    /// The first invalid setting.
    pub(crate) invalid: Option<InvalidConfig>,
    /// Identifies these settings, for the secrets that were verified with them.
    pub(crate) verifier: u64,
    pub(crate) cache: KeyCache,
    pub(crate) clock: Clock,
    pub(crate) peppers: Peppers,
    pub(crate) limiter: Arc<dyn Limiter>,
    /// The limiter, if it is the default one.
    pub(crate) default_limiter: Weak<LocalLimiter>,
    /// Of the limits attached to cached keys.
    pub(crate) limit_settings: Arc<LimitSettings>,
    pub(crate) drain_limits: DrainLimits,
    /// The interval at which the keys of response streams are checked.
    pub(crate) stream_checks: Option<Duration>,
    pub(crate) default_limits: Vec<RateLimit>,
    pub(crate) cost: Option<Arc<Cost>>,
    pub(crate) recorder: Recorder,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) resource_id: Option<Arc<ResourceId>>,
    pub(crate) client_ip: ClientIpExtractor,
    pub(crate) lookup_limit: Option<Arc<ClientLimit>>,
    pub(crate) anonymous_limit: Option<Arc<ClientLimit>>,
    pub(crate) rejected_events: Arc<RejectedEvents>,
    pub(crate) missing_client_ip: Arc<MissingClientIp>,
    pub(crate) sources: CredentialSources,
    /// The value of `Vary`: the headers of the sources (RFC 9110 §12.5.5).
    pub(crate) vary: Option<HeaderValue>,
    /// Whether responses without `Cache-Control` get `private`.
    pub(crate) private: bool,
    pub(crate) header_style: HeaderStyle,
    pub(crate) rejections: Rejections,
    pub(crate) exempt: Vec<Box<str>>,
    pub(crate) anonymous: bool,
    /// Whether CORS preflights are admitted.
    pub(crate) preflight: bool,
    pub(crate) keep_credential: bool,
    /// The formats of imported secrets. Without any, imported keys are not accepted.
    pub(crate) imported_formats: Vec<ImportedFormat>,
    #[cfg(feature = "password-hashes")]
    pub(crate) password_hashes: Option<super::password_hashes::PasswordHashes>,
    pub(crate) store_failure: StoreFailure,
}

impl Config {
    /// The first invalid setting.
    pub(super) fn validate(&self) -> Result<(), InvalidConfig> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        #[cfg(feature = "password-hashes")]
        {
            let mut formats = self.imported_formats.iter();
            let has_format = formats.any(ImportedFormat::is_password_hash);
            if has_format != self.password_hashes.is_some() {
                return Err(InvalidConfig::new(
                    "imported formats",
                    "`ImportedFormat::password_hash` and `ApiKeyLayer::password_hashes` require each other",
                ));
            }
        }
        let mut formats = self.imported_formats.iter();
        match formats.all(|format| format.is_valid(&self.peppers)) {
            true => Ok(()),
            false => Err(InvalidConfig::new(
                "imported formats",
                "a pepper is unknown, or a separator is not printable ASCII",
            )),
        }
    }
}

/// A copy of the settings for each thread, so that threads do not contend for a reference count.
#[derive(Clone)]
pub(super) struct ThreadConfigs(Arc<[Arc<Config>]>);

impl ThreadConfigs {
    pub(super) fn new(config: &Config) -> Self {
        let copies = (0..thread_slots()).map(|_| Arc::new(config.clone()));
        Self(copies.collect())
    }

    /// The copy of the current thread.
    #[inline]
    pub(super) fn current(&self) -> &Arc<Config> {
        // The number of copies is a power of two.
        &self.0[thread_index() & (self.0.len() - 1)]
    }
}

impl std::fmt::Debug for ThreadConfigs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.current().fmt(f)
    }
}

pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Config {
    /// The limits that apply to a key: its own, or else those of its plan, or else the default ones; and those of its
    /// owner, which may be none: a limiter may store the usage of a key with its owner.
    pub(super) fn limits_of<'a>(
        &'a self,
        key: &'a Key,
        policy: Option<&'a Policy>,
    ) -> impl Iterator<Item = SubjectLimits<'a>> {
        let plan = policy.map_or(&[][..], |policy| &policy.key_limits);
        let limits = [&key.limits, plan];
        let mut limits = limits.into_iter().filter(|limits| !limits.is_empty());
        let of_key = limits.next().unwrap_or(&self.default_limits);
        let of_owner = key.owner.as_deref().map(|owner| {
            let limits = policy.map_or(&[][..], |policy| &policy.owner_limits);
            SubjectLimits::new(Subject::Owner(owner), limits)
        });
        let of_key = SubjectLimits::new(key.lineage, of_key);
        std::iter::once(of_key).chain(of_owner)
    }

    /// Identifies these limits among those attached to a cached key.
    #[inline]
    pub(super) fn limits_id(&self) -> u64 {
        self.limit_settings.id
    }

    pub(super) fn limit_settings_mut(&mut self) -> &mut LimitSettings {
        Arc::make_mut(&mut self.limit_settings)
    }

    /// The cost of a request.
    #[inline]
    pub(super) fn cost_of(&self, parts: RequestParts<'_>) -> u32 {
        self.cost.as_ref().map_or(1, |cost| cost(parts))
    }

    /// The limits of a cached key, attached to the limiter.
    #[inline]
    pub(super) fn attached<'a>(
        &self,
        entry: &'a CachedKey,
        now: Now,
    ) -> Result<&'a AttachedLimits, LimitError> {
        AttachedLimits::get_or_attach(&entry.limits, self.limits_id(), || {
            let subjects = self.limits_of(&entry.key, entry.policy.as_deref());
            AttachedLimits::attach(
                &self.limit_settings,
                &*self.limiter,
                &subjects.collect::<Vec<_>>(),
                now,
            )
        })
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
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
