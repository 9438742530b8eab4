//! [`ApiKeyLayer`] and its builder methods.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tower_layer::Layer;

use super::client_ip::ForwardedHeader;
use super::client_limit::ClientLimit;
use super::config::{Config, StoreFailure, ThreadConfigs, next_id};
use super::credential::{CredentialSource, CredentialSources};
use super::endpoint::Endpoints;
#[cfg(feature = "password-hashes")]
use super::password_hashes::PasswordHashes;
use super::rejected_events::RejectedEvents;
use super::rejection::{Rejection, Rejections};
use super::request_parts::RequestParts;
use super::require_scope::RequireScope;
use super::response_headers::HeaderStyle;
use super::route_cost::RouteCost;
use super::service::ApiKeyService;
use crate::clock::Clock;
use crate::drain::DrainLimits;
use crate::invalid_config::InvalidConfig;
use crate::key::{
    AddressList, CacheConfig, CacheStats, ImportedFormat, KeyCache, KeyStore, Peppers,
};
use crate::limit::{InvalidLimit, LimitSettings, Limiter, LocalLimiter, RateLimit};
use crate::telemetry;
use crate::usage::{Recorder, RecorderStats};

#[doc = include_str!("layer.md")]
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is applied to a service"]
pub struct ApiKeyLayer {
    pub(super) config: Arc<Config>,
    /// The copies for services, shared by clones of the layer.
    copies: Arc<OnceLock<ThreadConfigs>>,
}

impl ApiKeyLayer {
    /// Creates a layer that looks keys up in this store, through the store's own cache if it has one, and a new
    /// cache otherwise.
    ///
    /// Create one layer and clone it: clones share the limiter and its state.
    pub fn new(store: impl KeyStore) -> Self {
        let cache = match store.cache() {
            Some(cache) => cache.clone(),
            None => KeyCache::new(store, CacheConfig::default(), Clock::system()),
        };
        let limiter = Arc::new(LocalLimiter::new());
        Self {
            config: Arc::new(Config {
                invalid: None,
                verifier: next_id(),
                clock: cache.clock().clone(),
                peppers: Peppers::none(),
                default_limiter: Arc::downgrade(&limiter),
                limiter,
                limit_settings: Arc::new(LimitSettings {
                    id: next_id(),
                    clock: cache.clock().clone(),
                    timeout: Duration::from_secs(1),
                }),
                cache,
                drain_limits: DrainLimits::default(),
                stream_checks: None,
                default_limits: Vec::new(),
                cost: None,
                recorder: Recorder::counting(),
                endpoints: Arc::new(Endpoints::new(None)),
                resource_id: None,
                client_ip: super::client_ip::ClientIpExtractor::default(),
                lookup_limit: Some(Arc::new(ClientLimit::new(&RateLimit::per_minute(1_000)))),
                anonymous_limit: None,
                rejected_events: Arc::new(RejectedEvents::new()),
                missing_client_ip: Arc::default(),
                vary: CredentialSources::default().vary(),
                sources: CredentialSources::default(),
                private: false,
                header_style: HeaderStyle::default(),
                rejections: Rejections::default(),
                exempt: Vec::new(),
                anonymous: false,
                preflight: false,
                keep_credential: false,
                imported_formats: Vec::new(),
                #[cfg(feature = "password-hashes")]
                password_hashes: None,
                store_failure: StoreFailure::default(),
            }),
            copies: Arc::default(),
        }
    }

    /// Validates the configuration.
    ///
    /// Without this call, an invalid setting panics when the layer is applied to a service.
    ///
    /// # Errors
    ///
    /// Returns the first invalid setting.
    pub fn build(self) -> Result<Self, InvalidConfig> {
        self.config.validate()?;
        Ok(self)
    }

    /// Creates a [`RequireScope`] layer whose rejections use this layer's [realm](Self::realm) and
    /// [customization](Self::on_rejection), from a scope or from [`RequireScope::by_path`].
    pub fn require_scope(&self, scope: impl Into<RequireScope>) -> RequireScope {
        scope.into().with_rejections(&self.config.rejections)
    }

    /// Creates a [`RouteCost`] layer whose rejections use this layer's [customization](Self::on_rejection), from a cost or
    /// from [`RouteCost::by_path`].
    pub fn route_cost(&self, cost: impl Into<RouteCost>) -> RouteCost {
        cost.into().with_rejections(&self.config.rejections)
    }

    /// The response to a request that another part of the crate rejects, with this layer's settings.
    #[cfg(feature = "dashboard")]
    pub(crate) fn rejection(
        &self,
        rejection: Rejection,
        parts: RequestParts<'_>,
    ) -> Response<Bytes> {
        *self.config.rejections.response(rejection, parts)
    }

    /// Applies a valid setting; records the first invalid one for [`build`](Self::build).
    fn checked(
        self,
        field: &'static str,
        valid: Result<(), InvalidLimit>,
        set: impl FnOnce(&mut Config),
    ) -> Self {
        self.with(|config| match valid {
            Ok(()) => set(config),
            Err(error) => {
                let invalid = InvalidConfig::new(field, error.to_string());
                config.invalid.get_or_insert(invalid);
            }
        })
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        let config = Arc::make_mut(&mut self.config);
        set(config);
        config.verifier = next_id();
        self.copies = Arc::default();
        self
    }

    /// The configuration of the key cache. [`CacheConfig::default`] by default.
    ///
    /// This replaces the current cache, including the store's own, with a new one that receives the same
    /// invalidations.
    pub fn cache(self, cache: CacheConfig) -> Self {
        self.with(|config| config.cache = config.cache.separate(cache, config.clock.clone()))
    }

    /// The peppers to verify digests with. None by default. Use the same ones in the
    /// [`Issuer`](crate::key::Issuer).
    pub fn peppers(self, peppers: Peppers) -> Self {
        self.with(|config| config.peppers = peppers)
    }

    /// The recorder that receives the event of each request. By default, requests are only counted.
    pub fn recorder(self, recorder: Recorder) -> Self {
        self.with(|config| {
            config.recorder = recorder;
            // The limits on events of rejected keys are per recorder.
            config.rejected_events = Arc::new(RejectedEvents::new());
        })
    }

    /// The rate limits of keys without limits of their own. None by default.
    pub fn default_limits(self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        let limits: Vec<_> = limits.into_iter().collect();
        let valid = RateLimit::validate_all(&limits);
        self.checked("default_limits", valid, |config| {
            config.default_limits = limits;
            config.limit_settings_mut().id = next_id();
        })
    }

    /// The limiter that tracks the usage of rate limits. By default, a [`LocalLimiter`] of this layer and its
    /// clones. A warning is logged if several layers over the same store have default limiters, because each of them
    /// admits the whole limit.
    ///
    /// Use an `Arc` to share a limiter between layers, or an implementation that shares it between processes.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keytally::{ApiKeyLayer, backend::MemoryBackend};
    /// use keytally::limit::LocalLimiter;
    ///
    /// # let (public, internal) = (MemoryBackend::new(), MemoryBackend::new());
    /// let limiter = Arc::new(LocalLimiter::new());
    /// let public = ApiKeyLayer::new(public).limiter(limiter.clone());
    /// let internal = ApiKeyLayer::new(internal).limiter(limiter);
    /// ```
    pub fn limiter(self, limiter: impl Limiter) -> Self {
        self.with(|config| {
            config.limiter = Arc::new(limiter);
            config.default_limiter = Weak::new();
            config.limit_settings_mut().id = next_id();
        })
    }

    /// The timeout of a limiter that returns [`LimitResponse::Pending`](crate::limit::LimitResponse::Pending). One second
    /// by default.
    ///
    /// The request is rejected with 503 afterwards. If the limiter completes anyway, the cost remains charged.
    pub fn limiter_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.limit_settings_mut().timeout = timeout)
    }

    /// The cost of a request, charged to each rate limit of its key. 1 by default.
    ///
    /// A cost of 0 is free. A cost above the burst of a limit is always rejected.
    pub fn cost(self, cost: impl Fn(RequestParts<'_>) -> u32 + Send + Sync + 'static) -> Self {
        self.with(|config| config.cost = Some(Arc::new(cost)))
    }

    /// Where keys are read from. `Authorization: Bearer` and `x-api-key` by default.
    ///
    /// All sources are read, and a request with two different keys is rejected as ambiguous.
    ///
    /// ```
    /// # use keytally::backend::MemoryBackend;
    /// use keytally::{ApiKeyLayer, CredentialSource};
    ///
    /// # let store = MemoryBackend::new();
    /// let sources = [CredentialSource::Bearer, CredentialSource::Basic];
    /// let layer = ApiKeyLayer::new(store).credential_sources(sources);
    /// ```
    pub fn credential_sources(self, sources: impl IntoIterator<Item = CredentialSource>) -> Self {
        self.with(|config| {
            config.sources.set(sources);
            config.vary = config.sources.vary();
            config.rejections.set_schemes(config.sources.schemes());
        })
    }

    /// Ignores credentials in `Authorization` that do not have the format of a secret and forwards them, such as
    /// the JWT of an identity-aware proxy or the user name and password of another system. Off by default: such
    /// credentials are rejected if their scheme is a source, and are ambiguous next to a key.
    ///
    /// Imported keys of another format (see [`accept_imported`](Self::accept_imported)) are then not read from
    /// `Authorization`.
    pub fn allow_foreign_authorization(self) -> Self {
        self.with(|config| config.sources.foreign_authorization = true)
    }

    /// Forwards secrets outside the configured sources: in another `Authorization` scheme, or in `x-api-key` if
    /// that is not a source. Off by default: such a request is rejected with 401 even if it also has a valid key,
    /// so that a misplaced secret does not reach the service. Enable it on a layer in front of another one that
    /// reads them.
    ///
    /// Secrets are detected by their checksum, or by their format and approximate length, also in base64. Secrets
    /// of another format, such as imported ones, are not detected.
    pub fn forward_unread_secrets(self) -> Self {
        self.with(|config| config.sources.unread_secrets = true)
    }

    /// Keeps the secret in the request, for inner services that need it. By default it is removed.
    pub fn keep_credential(self) -> Self {
        self.with(|config| config.keep_credential = true)
    }

    /// Accepts keys of another system that were [imported](crate::key::Issuer::import_all) from their secrets or
    /// SHA-256 hashes. Off by default: with this setting, every arbitrary credential costs a hash and a lookup.
    pub fn accept_imported(self) -> Self {
        self.accept_imported_formats([ImportedFormat::sha256()])
    }

    /// Accepts keys of other systems that were [imported](crate::key::Issuer::import_all), and sets how those systems
    /// hash secrets. Keys imported from secrets in another format than this crate's need [`ImportedFormat::sha256`]. An
    /// arbitrary credential costs a hash and a lookup for each format. Adds to the formats of earlier calls.
    ///
    /// A format is invalid if its pepper is not one of the layer's [peppers](Self::peppers), or if its separator is not
    /// a printable ASCII character.
    pub fn accept_imported_formats(
        self,
        formats: impl IntoIterator<Item = ImportedFormat>,
    ) -> Self {
        self.with(|config| {
            for format in formats {
                if !config.imported_formats.contains(&format) {
                    config.imported_formats.push(format);
                }
            }
        })
    }

    /// Verifies imported secrets that only have a bcrypt or Argon2 hash, and replaces the hash by a fast digest on the
    /// first use of the key. Required by [`ImportedFormat::password_hash`].
    ///
    /// Each wrong secret with the prefix of a key that still has a password hash costs a verification of some 10 to 1,000
    /// milliseconds of CPU time, charged to the [lookup limit](Self::lookup_limit) and bounded by the
    /// [workers](PasswordHashes::workers). The time of the response then reveals that the prefix is known.
    #[cfg(feature = "password-hashes")]
    pub fn password_hashes(self, hashes: PasswordHashes) -> Self {
        self.with(|config| config.password_hashes = Some(hashes))
    }

    /// The endpoint of a request, for usage accounting. By default, axum's `MatchedPath` or the gRPC method.
    ///
    /// Return the route template, not the path: the first 1,024 distinct names are kept, and all others are
    /// grouped as [`OTHER_ENDPOINTS`](crate::usage::OTHER_ENDPOINTS).
    pub fn endpoint(
        self,
        name: impl for<'a> Fn(RequestParts<'a>) -> Option<Cow<'a, str>> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.endpoints = Arc::new(Endpoints::new(Some(Arc::new(name)))))
    }

    /// The id of the resource a request refers to, recorded in the request log for filtering. None by default.
    pub fn resource_id(
        self,
        id: impl Fn(RequestParts<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.resource_id = Some(Arc::new(id)))
    }

    /// The IP address of the connection's peer. By default, axum's `ConnectInfo<SocketAddr>` or
    /// [`PeerAddress`](super::PeerAddress) in the request's extensions.
    pub fn peer_address(
        self,
        peer: impl Fn(RequestParts<'_>) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.client_ip.peer = Some(Arc::new(peer)))
    }

    /// Reads the client IP from this header if the peer is one of these proxies. By default, forwarded headers are
    /// ignored.
    ///
    /// In a list of addresses, the client IP is the rightmost one that is not a trusted proxy. If the header is
    /// missing or a hop is unreadable (`unknown`, `unix:`), the client IP is unknown, and keys with an address
    /// list are rejected. Do not list networks of clients that connect directly.
    pub fn trust_forwarded(self, header: ForwardedHeader, proxies: AddressList) -> Self {
        self.with(|config| config.client_ip.trusted = Some((proxies, header)))
    }

    /// Trusts peers without an address as [proxies](Self::trust_forwarded), for services that listen only on a
    /// Unix socket. Off by default: the client IP is unknown for such peers.
    pub fn trust_unix_peers(self) -> Self {
        self.with(|config| config.client_ip.trust_unix_peer = true)
    }

    /// The limit on failed lookups per client IP: store lookups that do not find an active key with the secret
    /// sent. 1,000 a minute by default, per process. Clones of the layer share the limit.
    ///
    /// Above the limit, well-formed credentials are rejected with 429, except secrets of active keys that are in
    /// the cache, even if their entry has to be refreshed. Valid keys that are not cached are rejected too, so
    /// allow for the number of clients behind one IP address.
    ///
    /// A lookup is charged when it starts, and refunded when it finds an active key or the store fails. A lookup
    /// whose client disconnects stays charged; a request that joins another's lookup is not charged. Rejections of
    /// disabled, revoked and expired keys are recorded as events of those keys as usual, with the reason
    /// [`LookupLimit`](crate::usage::RejectionReason::LookupLimit).
    ///
    /// IPv6 addresses are limited by their /64 network. Memory is fixed, so a client with enough addresses can
    /// exhaust the limits of others as well; higher limits take more addresses. Requests with an
    /// [unknown client IP](Self::peer_address) are not limited, and all clients behind a proxy that is not
    /// [trusted](Self::trust_forwarded) share the proxy's limit.
    pub fn lookup_limit(self, limit: RateLimit) -> Self {
        self.checked("lookup_limit", limit.validate(), |config| {
            config.lookup_limit = Some(Arc::new(ClientLimit::new(&limit)));
        })
    }

    /// Disables the [lookup limit](Self::lookup_limit).
    pub fn without_lookup_limit(self) -> Self {
        self.with(|config| config.lookup_limit = None)
    }

    /// Adds `Cache-Control: private` to responses of admitted requests that have no `Cache-Control`, so that
    /// shared caches do not store them. Off by default.
    ///
    /// Without it, shared caches only avoid storing responses to requests with `Authorization` (RFC 9111 §3.5),
    /// and responses to `GET` and `HEAD` have a `Vary` that names the headers of the credential sources.
    /// Rejections are always `no-store`.
    pub fn private_responses(self) -> Self {
        self.with(|config| config.private = true)
    }

    /// The rate limit headers of responses. [`HeaderStyle::Draft`] by default.
    pub fn header_style(self, style: HeaderStyle) -> Self {
        self.with(|config| config.header_style = style)
    }

    /// The realm in `WWW-Authenticate`: 1 to 100 printable ASCII characters without quotes and backslashes. `api`
    /// by default.
    pub fn realm(self, realm: &str) -> Self {
        let rejections = self.config.rejections.clone().realm(realm);
        match rejections {
            Ok(rejections) => self.with(|config| config.rejections = rejections),
            Err(error) => self.with(|config| {
                config.invalid.get_or_insert(error);
            }),
        }
    }

    /// Admits requests without a key, without a [`Caller`](super::Caller). Off by default.
    ///
    /// Their events have no key. Requests with an invalid key are still rejected.
    pub fn allow_anonymous(self) -> Self {
        self.with(|config| config.anonymous = true)
    }

    /// The rate limit of [anonymous](Self::allow_anonymous) requests per client IP, in this process. None by
    /// default. Clones of the layer share the limit. Requests admitted
    /// [while the store is down](Self::on_store_failure) are not limited.
    ///
    /// Above the limit, requests are rejected with 429 and `Retry-After`, and counted in
    /// [`RecorderStats::rejected`](crate::usage::RecorderStats::rejected) without an event. Responses have no rate
    /// limit headers. All clients with an [unknown IP](Self::peer_address) share one limit, and so do all behind a
    /// proxy that is not [trusted](Self::trust_forwarded).
    ///
    /// IPv6 addresses are limited by their /64 network. Memory is fixed at 65,536 cells, as for the
    /// [lookup limit](Self::lookup_limit). A /48 network can exhaust most cells with some 100,000 requests per unit
    /// of the burst within a window; other clients are then rejected.
    ///
    /// [`LogSampling::KeysOnly`](crate::usage::LogSampling::KeysOnly) counts anonymous requests without logging
    /// them.
    pub fn anonymous_limit(self, limit: RateLimit) -> Self {
        self.checked("anonymous_limit", limit.validate(), |config| {
            config.anonymous_limit = Some(Arc::new(ClientLimit::new(&limit)));
        })
    }

    /// Exempts a path, such as `/health`, or all paths below a prefix, such as `/public/*`: requests pass without
    /// a key and without an event, whatever credentials they carry. A `*` elsewhere is not a wildcard. None by
    /// default.
    ///
    /// The path is the one the layer sees: inside axum's `Router::nest` it lacks the prefix.
    ///
    /// Below a prefix, a path is exempt only if every segment consists of letters, digits, `-._~!$&'()*+,=@` and
    /// encoded spaces. These may be percent-encoded, except for the dot. Paths that a proxy or servlet container
    /// behind the layer might normalize to another path need a key: those with segments that begin with two dots
    /// (also after spaces or `+`) or consist of dots and spaces, with `;`, `:` or `\`, with empty segments, and
    /// with the encodings of these, of `%` and of control characters. So do paths with combining marks.
    pub fn exempt(self, path: impl Into<Box<str>>) -> Self {
        self.with(|config| config.exempt.push(path.into()))
    }

    /// Admits CORS preflights without a key and without an event. Off by default: preflights are rejected, because
    /// browsers send no key with them.
    ///
    /// Prefer a CORS layer outside this one, such as tower-http's `CorsLayer`, which answers preflights itself and
    /// lets browsers read rejections. This setting is for services whose CORS layer is inside.
    ///
    /// A preflight is defined by the [Fetch standard]: `OPTIONS` for a path, with one `Origin` and one
    /// `Access-Control-Request-Method`, with an empty body, and without a key, `Authorization`, `Cookie`,
    /// `Content-Type`, `Expect`, `Proxy-Authorization`, `TE`, `Trailer`, `Transfer-Encoding` and `Upgrade`. Any
    /// client can send one, so the service must check the method. tonic does not, and runs streaming calls that
    /// need no message: do not use this setting in front of it.
    ///
    /// [Fetch standard]: https://fetch.spec.whatwg.org/#cors-preflight-request
    pub fn allow_preflights(self) -> Self {
        self.with(|config| config.preflight = true)
    }

    /// The handling of requests whose key cannot be looked up because the store fails. [`StoreFailure::Reject`] by
    /// default.
    pub fn on_store_failure(self, behavior: StoreFailure) -> Self {
        self.with(|config| config.store_failure = behavior)
    }

    /// Customizes the responses of rejected requests. The function receives the default response.
    ///
    /// The request id and rate limit headers are added to the response it returns, and the event has its status.
    /// Bodies of gRPC responses are removed.
    pub fn on_rejection(
        self,
        customize: impl Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.rejections.customize = Some(Arc::new(customize)))
    }

    /// The maximum number of bytes to read of a rejected request's body over HTTP/1, so that the connection can be
    /// reused. 64 KiB by default; 0 reads none. The rejection is sent after the body has been read.
    ///
    /// A larger body is not read: the rejection has `Connection: close`, and the server closes the connection. A
    /// client that sends its whole body before reading may then see a connection reset instead of the rejection.
    /// [`RequireScope`](super::RequireScope) always uses 64 KiB.
    pub fn rejected_body_limit(self, bytes: u64) -> Self {
        self.with(|config| config.drain_limits.bytes = bytes)
    }

    /// The maximum time to read a rejected request's body. One second by default. A body that takes longer is
    /// treated like one above the [limit](Self::rejected_body_limit).
    pub fn rejected_body_timeout(self, time: Duration) -> Self {
        self.with(|config| config.drain_limits.time = time)
    }

    /// Ends response streams whose key is revoked, disabled, expired or deleted, checked at this interval of at
    /// least a millisecond. Off by default: streams continue until they or their connection end.
    ///
    /// A stream ends with [`BodyError::KeyRejected`](super::BodyError::KeyRejected), which makes the server abort
    /// the response, or with `UNAUTHENTICATED` trailers over gRPC. The event records the rejection.
    ///
    /// In the process that revokes a key, its streams end within the interval plus a lookup. In other processes it
    /// takes up to the cache's [TTL](crate::key::CacheConfig::ttl) longer, unless the store notifies them, as
    /// PostgreSQL does. A stream whose client stops reading ends when the client reads again. While the store is
    /// down, streams continue. WebSockets are not checked, and neither are streams outside a tokio runtime. With
    /// nested layers, only the layer that records the request checks it.
    pub fn end_streams_on_revocation(self, every: Duration) -> Self {
        let every = every.max(Duration::from_millis(1));
        self.with(|config| config.stream_checks = Some(every))
    }

    /// The maximum `grpc-retry-pushback-ms` ([gRFC A6]), the exact time after which gRPC clients retry. One second
    /// by default; zero disables retries.
    ///
    /// If the wait is longer, or exceeds the call's own `grpc-timeout`, the pushback is `-1` and the call fails
    /// immediately. If there is a wait, it is also in `retry-after` and in the `google.rpc.RetryInfo` of the
    /// status details. There is none if the cost of the call exceeds the burst.
    ///
    /// [gRFC A6]: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
    pub fn max_grpc_pushback(self, max: Duration) -> Self {
        self.with(|config| config.rejections.max_pushback = max)
    }

    /// Sends all rejections as plain HTTP responses. Off by default: a `POST` with a gRPC content type is rejected
    /// with HTTP 200 and a `grpc-status`, unless axum matched it to a route.
    ///
    /// Use it for services without gRPC, so that clients cannot choose the status that proxies and metrics see.
    pub fn without_grpc(self) -> Self {
        self.with(|config| config.rejections.without_grpc = true)
    }

    /// The clock, for tests. By default, the clock of the store's cache, or the system clock if it has none.
    ///
    /// This replaces the current cache, including the store's own, with one that uses the clock, has the same
    /// configuration and receives the same invalidations.
    pub fn clock(self, clock: Clock) -> Self {
        self.with(|config| {
            config.cache = config
                .cache
                .separate(config.cache.config().clone(), clock.clone());
            config.limit_settings_mut().clock = clock.clone();
            config.clock = clock;
        })
    }

    /// Returns the counters of the recorder, including rejections without a known key.
    pub fn stats(&self) -> RecorderStats {
        self.config.recorder.stats()
    }

    /// Returns the counters of the key cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.config.cache.stats()
    }

    /// Returns the key cache, for manual invalidation.
    pub fn key_cache(&self) -> &KeyCache {
        &self.config.cache
    }
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKeyService<S>;

    /// # Panics
    ///
    /// If a setting is invalid. [`build`](ApiKeyLayer::build) returns it as an error instead.
    fn layer(&self, inner: S) -> Self::Service {
        if let Err(invalid) = self.config.validate() {
            panic!("{invalid}");
        }
        let limiter = &self.config.default_limiter;
        let changes = self.config.cache.invalidations();
        if limiter.strong_count() > 0 && changes.is_second_limiter(limiter) {
            telemetry::warn!(
                "several layers over one key store have separate limiters, so each allows the full limits: clone one layer, or share a limiter"
            );
        }
        let copies = self.copies.get_or_init(|| ThreadConfigs::new(&self.config));
        ApiKeyService::new(inner, copies.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    #[test]
    fn clones_share_copies_of_the_settings_until_one_changes() {
        let layer = ApiKeyLayer::new(MemoryBackend::new());
        let clone = layer.clone();
        let copy = |layer: &ApiKeyLayer| {
            drop(layer.layer(()));
            Arc::as_ptr(layer.copies.get().unwrap().current())
        };
        assert_eq!(copy(&layer), copy(&clone));
        let changed = clone.clone().private_responses();
        assert_ne!(copy(&layer), copy(&changed));
        assert_eq!(copy(&layer), copy(&clone));
    }
}
