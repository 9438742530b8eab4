//! The layer and its configuration.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Response};
use tower_layer::Layer;

use super::client_ip::ForwardedHeader;
use super::client_limit::ClientLimit;
use super::config::{Config, StoreFailure, next_limits_id};
use super::credential::{CredentialSource, CredentialSources};
use super::endpoint::Endpoints;
use super::rejected_events::RejectedEvents;
use super::rejection::{InvalidRealm, Rejection, Rejections};
use super::request_parts::RequestParts;
use super::response_headers::HeaderStyle;
use super::service::ApiKeyService;
use crate::clock::Clock;
use crate::drain::DrainLimits;
use crate::key::{AddressList, CacheConfig, CacheStats, Key, KeyCache, KeyStore, Peppers};
use crate::limit::{
    InvalidLimit, LimitError, LimitResponse, LimitStatus, Limiter, LocalLimiter, RateLimit,
};
use crate::usage::{Recorder, RecorderStats};

#[doc = include_str!("layer.md")]
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until a service is put behind it"]
pub struct ApiKeyLayer {
    config: Arc<Config>,
}

impl ApiKeyLayer {
    /// A layer that looks keys up in this store, through a cache of its own or the one the store
    /// has. Make it once and clone it: what a key has spent, and what is made of its limits, is kept
    /// by layer.
    pub fn new(store: impl KeyStore) -> Self {
        let cache = match store.cache() {
            Some(cache) => cache.clone(),
            None => KeyCache::new(store, CacheConfig::default(), Clock::system()),
        };
        Self {
            config: Arc::new(Config {
                limits_id: next_limits_id(),
                clock: cache.clock().clone(),
                cache,
                peppers: Peppers::none(),
                limiter: Arc::new(LocalLimiter::new()),
                limiter_timeout: Duration::from_secs(1),
                drain_limits: DrainLimits::default(),
                stream_checks: None,
                default_limits: Vec::new(),
                cost: None,
                recorder: Recorder::counting(),
                endpoints: Arc::new(Endpoints::new(None)),
                resource_id: None,
                client_address: super::client_ip::ClientIpExtractor::default(),
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
                accept_imported: false,
                store_failure: StoreFailure::default(),
            }),
        }
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        let config = Arc::make_mut(&mut self.config);
        set(config);
        self
    }

    /// Caches keys in this way. Replaces the cache that there is, the store's own included, by one
    /// of the layer that hears of the same changes.
    pub fn cache(self, cache: CacheConfig) -> Self {
        self.with(|config| config.cache = config.cache.fresh(cache, config.clock.clone()))
    }

    /// Takes digests made under these peppers; give the same ones to the
    /// [`Issuer`](crate::key::Issuer).
    pub fn peppers(self, peppers: Peppers) -> Self {
        self.with(|config| config.peppers = peppers)
    }

    /// Hands the events of requests to this recorder. Without one, requests are only counted.
    pub fn recorder(self, recorder: Recorder) -> Self {
        self.with(|config| {
            config.recorder = recorder;
            // Each recorder has its own.
            config.rejected_events = Arc::new(RejectedEvents::new());
        })
    }

    /// The rate limits of keys that have none of their own.
    ///
    /// # Errors
    ///
    /// The first limit that cannot be kept.
    pub fn default_limits(
        self,
        limits: impl IntoIterator<Item = RateLimit>,
    ) -> Result<Self, InvalidLimit> {
        let limits: Vec<_> = limits.into_iter().collect();
        RateLimit::validate_all(&limits)?;
        Ok(self.with(|config| {
            config.default_limits = limits;
            config.limits_id = next_limits_id();
        }))
    }

    /// Keeps what keys have spent in this limiter instead of one of its own: to share it between
    /// layers, as an `Arc`, or with other processes.
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
            config.limits_id = next_limits_id();
        })
    }

    /// How long a limiter that answers [later](LimitResponse::Pending) may take, after which the request is
    /// refused with 503. One second unless set. What the limiter spends nevertheless is spent.
    pub fn limiter_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.limiter_timeout = timeout)
    }

    /// What a request costs of its key's limits, `1` unless told: `0` is free, and more than a
    /// limit's burst never passes.
    pub fn cost(self, cost: impl Fn(RequestParts<'_>) -> u32 + Send + Sync + 'static) -> Self {
        self.with(|config| config.cost = Some(Arc::new(cost)))
    }

    /// Looks for keys nowhere, so that only the places named after this count.
    pub fn no_credential_sources(self) -> Self {
        self.with(|config| {
            config.sources.clear();
            config.vary = None;
            config.rejections.offer(config.sources.schemes());
        })
    }

    /// Looks for keys in `Authorization: Bearer` too; it does unless told otherwise.
    pub fn bearer(self) -> Self {
        self.source(CredentialSource::Bearer)
    }

    /// Looks for keys in this scheme of `Authorization` too, such as `Token` or `ApiKey`, whose name is written in any
    /// case. Other credentials in this scheme are refused, unless
    /// [foreign ones are allowed](Self::allow_foreign_authorization).
    pub fn authorization_scheme(self, scheme: impl Into<Arc<str>>) -> Self {
        let scheme = scheme.into();
        if scheme.eq_ignore_ascii_case("Bearer") {
            return self.bearer();
        }
        self.source(CredentialSource::Scheme(scheme))
    }

    /// Looks for keys in the user name of `Authorization: Basic` (RFC 7617) too, as `curl -u KEY:` sends it. The
    /// password is ignored. Other user names are refused, unless
    /// [foreign ones are allowed](Self::allow_foreign_authorization).
    pub fn basic(self) -> Self {
        self.source(CredentialSource::Basic)
    }

    /// Ignores credentials in `Authorization` that do not have the form of a key and passes them on, such as the JWT of an
    /// identity-aware proxy, or the user name and password of another system. Unless set, they are refused where their
    /// scheme is a source, and ambiguous beside a key.
    ///
    /// With [`accept_imported`](Self::accept_imported), imported keys of another form are not found in `Authorization`.
    pub fn allow_foreign_authorization(self) -> Self {
        self.with(|config| config.sources.foreign_authorization = true)
    }

    /// Passes on secrets outside of the configured sources: in another scheme of `Authorization`, or in `x-api-key` where
    /// that is no source. Unless set, such a request is refused with 401, whatever else it has, so that a key in the wrong
    /// place does not reach the service. Set it on a layer in front of another one that reads them.
    ///
    /// A secret is recognized by its checksum, or as a word of a secret's form whose length is about right, also in
    /// base64. Secrets of another form, such as imported ones, are not.
    pub fn allow_unread_secrets(self) -> Self {
        self.with(|config| config.sources.unread_secrets = true)
    }

    /// Looks for keys in this header too. `x-api-key` is one unless told otherwise.
    pub fn header(self, name: HeaderName) -> Self {
        self.source(CredentialSource::Header(name))
    }

    /// Looks for keys in this parameter of the query too. Addresses end up in logs, histories and
    /// referrers on their way: for clients that can do nothing else, over TLS, with short-lived
    /// keys.
    pub fn insecure_query_parameter(self, name: impl Into<Arc<str>>) -> Self {
        self.source(CredentialSource::Query(name.into()))
    }

    /// Looks for keys where this function finds them too. What it finds is not removed from the
    /// request.
    pub fn credential(
        self,
        find: impl Fn(RequestParts<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.source(CredentialSource::Function(Arc::new(find)))
    }

    fn source(self, source: CredentialSource) -> Self {
        self.with(|config| {
            config.sources.push(source);
            config.vary = config.sources.vary();
            config.rejections.offer(config.sources.schemes());
        })
    }

    /// Lets the secret stay in the request, for inner services that need it.
    pub fn keep_credential(self) -> Self {
        self.with(|config| config.keep_credential = true)
    }

    /// Accepts keys that another system issued and that were
    /// [imported](crate::key::Issuer::import_secret): secrets of any form, at the price of a hash
    /// and a look-up for every text that a client makes up.
    pub fn accept_imported(self) -> Self {
        self.with(|config| config.accept_imported = true)
    }

    /// Names the endpoint of a request, where it is neither a gRPC call nor routed by axum. Answer
    /// the route's template: of distinct names, the first thousand are kept apart.
    pub fn endpoint(
        self,
        name: impl for<'a> Fn(RequestParts<'a>) -> Option<Cow<'a, str>> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.endpoints = Arc::new(Endpoints::new(Some(Arc::new(name)))))
    }

    /// Tells what a request is about, to find it in the log by.
    pub fn resource_id(
        self,
        id: impl Fn(RequestParts<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.resource_id = Some(Arc::new(id)))
    }

    /// Tells the address of the connection's other end. Unless set it is taken from axum's
    /// `ConnectInfo<SocketAddr>` or from [`PeerAddress`](super::PeerAddress).
    pub fn peer_address(
        self,
        peer: impl Fn(RequestParts<'_>) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.client_address.peer = Some(Arc::new(peer)))
    }

    /// Takes the client's address from this header when the peer is one of these proxies: of a list, the first
    /// address from the right that is none of them. When the header is missing or a hop is unreadable (`unknown`,
    /// `unix:`), the address is unknown, and address lists refuse; so do not list networks of clients that call
    /// directly. Unless set, forwarded headers are ignored.
    pub fn trust_forwarded(self, header: ForwardedHeader, proxies: AddressList) -> Self {
        self.with(|config| config.client_address.trusted = Some((proxies, header)))
    }

    /// Trusts peers without an address as [proxies](Self::trust_forwarded): for services that listen on a Unix
    /// socket, and on nothing else. Unless set, the address of their clients is unknown.
    pub fn trust_unix_peer(self) -> Self {
        self.with(|config| config.client_address.trust_unix_peer = true)
    }

    /// How many look-ups in the store the clients of one address may cause that come to nothing: that find
    /// no key that works with the secret they sent. A thousand a minute unless set, in each process. Clones
    /// of the layer share what is spent.
    ///
    /// Beyond it, what has the form of a key is refused with 429 unless it is the secret of one that is
    /// cached and works: those go on, also when they have to be looked up again. Good keys that are not
    /// cached wait with all others of their address, so allow for the clients behind one.
    ///
    /// A look-up counts from its beginning until it has found a key that works, or the store failed; that
    /// of a client who does not wait for the answer goes on counting, and whoever waits for another's pays
    /// nothing. Refusals of keys that do not work are events of those keys as ever, with
    /// [this reason](crate::usage::RejectionReason::LookupLimit).
    ///
    /// Of IPv6, the first 64 bits are the address. Memory for all of them is fixed, and who has enough
    /// addresses can use up the budgets of others as well: the larger the budgets, the more it takes.
    /// Requests whose [address is not known](Self::peer_address) have no budget, and behind a proxy that is
    /// not [trusted](Self::trust_forwarded) all share the proxy's.
    ///
    /// # Errors
    ///
    /// The bound that the limit breaks.
    pub fn lookup_limit(self, budget: RateLimit) -> Result<Self, InvalidLimit> {
        budget.validate()?;
        let budget = Arc::new(ClientLimit::new(&budget));
        Ok(self.with(|config| config.lookup_limit = Some(budget)))
    }

    /// Looks up whatever is asked for, however often an address asked in vain.
    pub fn no_lookup_limit(self) -> Self {
        self.with(|config| config.lookup_limit = None)
    }

    /// Adds `Cache-Control: private` to the responses of admitted requests that have no `Cache-Control`, so that shared
    /// caches do not store them. By default, shared caches avoid storing only responses to requests with `Authorization`
    /// (RFC 9111 §3.5), and responses to `GET` and `HEAD` have a `Vary` that names the headers in which keys are looked
    /// for. Refusals are always `no-store`.
    pub fn private_responses(self) -> Self {
        self.with(|config| config.private = true)
    }

    /// In which headers clients are told where their limits stand.
    pub fn header_style(self, style: HeaderStyle) -> Self {
        self.with(|config| config.header_style = style)
    }

    /// The realm in `WWW-Authenticate`; `api` unless set.
    ///
    /// # Errors
    ///
    /// [`InvalidRealm`] when it cannot stand in a header.
    pub fn realm(self, realm: &str) -> Result<Self, InvalidRealm> {
        let rejections = self.config.rejections.clone().realm(realm)?;
        Ok(self.with(|config| config.rejections = rejections))
    }

    /// Lets requests without a key pass, without a [`Caller`](super::Caller). They are accounted
    /// for without a key. A key that is wrong is refused all the same.
    pub fn allow_anonymous(self) -> Self {
        self.with(|config| config.anonymous = true)
    }

    /// The rate limit of each client IP for [anonymous](Self::allow_anonymous) requests, in this process. None unless
    /// set. Clones of the layer share what is spent. Requests that pass
    /// [while the store fails](Self::on_store_failure) are not limited.
    ///
    /// Beyond it, requests are refused with 429 and `Retry-After`, and counted in
    /// [`RecorderStats::refused`](crate::usage::RecorderStats::refused) without an event. Responses have no rate limit
    /// headers. All clients whose [address is not known](Self::peer_address) are one, and so are all behind a proxy that is
    /// not [trusted](Self::trust_forwarded).
    ///
    /// Memory is fixed at 65,536 cells, as that of the [lookup limit](Self::lookup_limit), and the first 64 bits of an
    /// IPv6 address are the client. A /48 network can use up most cells with some 100,000 requests per unit of the burst
    /// within a window; other clients are refused then.
    ///
    /// [`LogSampling::KeysOnly`](crate::usage::LogSampling::KeysOnly) counts anonymous requests without logging them.
    ///
    /// # Errors
    ///
    /// The bound that the limit breaks.
    pub fn anonymous_limit(self, limit: RateLimit) -> Result<Self, InvalidLimit> {
        limit.validate()?;
        let limit = Arc::new(ClientLimit::new(&limit));
        Ok(self.with(|config| config.anonymous_limit = Some(limit)))
    }

    /// Lets a path pass without a key and without an event, with whatever credentials it came: `/health`, or
    /// everything below a prefix with `/public/*`. A `*` elsewhere is no wildcard.
    ///
    /// The path is the one that the layer sees: within axum's `Router::nest` it lacks the prefix.
    ///
    /// Below a prefix, a path passes only if every segment is plain: letters, digits and `-._~!$&'()*+,=@`, as they
    /// are or percent-encoded, but for the dot, and encoded spaces. Paths that a proxy or a servlet container
    /// behind the layer may resolve elsewhere need a key: segments that begin with two dots, also after blanks or `+`, `;`, `:`, `\`, empty
    /// segments, and the encodings of these, of `%` and of control characters. So do combining marks.
    pub fn exempt(self, path: impl Into<Box<str>>) -> Self {
        self.with(|config| config.exempt.push(path.into()))
    }

    /// Lets CORS preflights reach the service without a key and without an event. Unless set, they are checked
    /// like any other request, and refused: browsers send no key with them.
    ///
    /// Prefer a CORS layer outside of this one, such as tower-http's `CorsLayer`. It answers preflights itself,
    /// and lets browsers read refusals too. This setting is for services whose CORS layer is inside.
    ///
    /// A preflight is what the [Fetch standard] calls one: `OPTIONS` for a path, with one `Origin` and one
    /// `Access-Control-Request-Method`, without a key, `Authorization`, `Cookie`, `Content-Type`,
    /// `Transfer-Encoding`, `TE` and `Upgrade`, and with a body that has ended. Any client can send one, so the service must look at the
    /// method. tonic does not, and runs streaming calls that need no message: do not use this in front of it.
    ///
    /// [Fetch standard]: https://fetch.spec.whatwg.org/#cors-preflight-request
    pub fn allow_preflight(self) -> Self {
        self.with(|config| config.preflight = true)
    }

    /// What happens to requests whose key cannot be looked up because the store fails.
    pub fn on_store_failure(self, what: StoreFailure) -> Self {
        self.with(|config| config.store_failure = what)
    }

    /// Makes other answers of refusals than the ready ones, which it is given. The request
    /// id and the headers of limits are added to what it answers; the event has its status.
    /// Over gRPC an answer has no body.
    pub fn on_rejection(
        self,
        answer: impl Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.rejections.customize = Some(Arc::new(answer)))
    }

    /// The maximum number of bytes to read of a refused request's body over HTTP/1, so that the client's connection stays
    /// open. 64 KiB unless set; zero reads none. The refusal is sent once the body has been read.
    ///
    /// A larger body is not read: the refusal has `Connection: close`, and the server closes the connection. A client that
    /// sends all of its body before it reads may see a reset then, instead of the refusal. A
    /// [`RequireScope`](super::RequireScope) always reads 64 KiB.
    pub fn refused_body_limit(self, bytes: u64) -> Self {
        self.with(|config| config.drain_limits.bytes = bytes)
    }

    /// The maximum time to read a refused request's body. One second unless set; a body that takes longer is left unread,
    /// as one beyond the [limit](Self::refused_body_limit).
    pub fn refused_body_timeout(self, time: Duration) -> Self {
        self.with(|config| config.drain_limits.time = time)
    }

    /// Ends open response streams whose key is revoked, disabled, expired or deleted, rechecked at this interval. Off
    /// unless set: streams continue until they or their connection end.
    ///
    /// A stream ends with [`BodyError::KeyRejected`](super::BodyError::KeyRejected), which makes the server abort the
    /// response, or with `UNAUTHENTICATED` trailers over gRPC. The event records the rejection.
    ///
    /// In the process that revokes a key, its streams end within the interval and a lookup. In other processes it takes up
    /// to the cache's [TTL](crate::key::CacheConfig::ttl) longer, unless the store notifies them, as PostgreSQL does. A
    /// client that reads nothing more gets nothing more, and its stream ends when it reads again. While the store fails,
    /// streams continue. WebSockets are not checked, nor is anything outside of a tokio runtime. With stacked layers, only
    /// the layer that records the request checks it.
    pub fn end_streams_on_revocation(self, every: Duration) -> Self {
        let every = every.max(Duration::from_millis(1));
        self.with(|config| config.stream_checks = Some(every))
    }

    /// The longest wait that a gRPC client is told to sit out before it retries, as `grpc-retry-pushback-ms`, which
    /// clients wait for exactly. One second unless set; zero tells all not to retry.
    ///
    /// After a longer wait, or one that ends beyond the call's own `grpc-timeout`, the pushback is `-1`: the call
    /// fails at once. The wait is in `retry-after` and in the `google.rpc.RetryInfo` of the status's details.
    pub fn max_grpc_pushback(self, max: Duration) -> Self {
        self.with(|config| config.rejections.max_pushback = max)
    }

    /// Refuses in HTTP whatever content type a request has. Unless set, a `POST` that claims to be a gRPC call is
    /// refused as one, with HTTP 200 and a `grpc-status`, unless axum matched it to a route. Set it in front of
    /// services without gRPC, so that clients cannot choose the status that proxies and metrics see.
    pub fn without_grpc(self) -> Self {
        self.with(|config| config.rejections.without_grpc = true)
    }

    /// Reads the time from this clock, for tests. Unless set it is the one of the cache that the
    /// store brought, or else the machine's.
    ///
    /// The cache goes by the layer's clock: it is replaced, the store's own included, by one of the
    /// layer that is configured alike and hears of the same changes.
    pub fn clock(self, clock: Clock) -> Self {
        self.with(|config| {
            config.cache = config
                .cache
                .fresh(config.cache.config().clone(), clock.clone());
            config.clock = clock;
        })
    }

    /// Where a key's rate limits stand, its own or the default ones. Looking spends nothing.
    ///
    /// A service asks a clone of the layer in front of it; clones share what is spent.
    ///
    /// ```
    /// use keytally::limit::LimitError;
    /// use keytally::{ApiKeyLayer, Caller};
    ///
    /// async fn left(layer: ApiKeyLayer, caller: Caller) -> Result<String, LimitError> {
    ///     let standings = layer.standings(&caller).await?;
    ///     let lines = standings.iter().map(|(limit, standing)| {
    ///         let (name, all) = (limit.name(), limit.capacity());
    ///         format!("{name}: {} of {all} left\n", standing.remaining)
    ///     });
    ///     Ok(lines.collect())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// When the limiter has no room for the key, or does not answer in time.
    pub async fn limit_statuses(
        &self,
        key: &Key,
    ) -> Result<Vec<(RateLimit, LimitStatus)>, LimitError> {
        let limits = self.config.limits_of(key);
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.config.clock.now();
        let allowance = self.config.limiter.attach(key.lineage, limits, now)?;
        let decision = match allowance.peek(now) {
            LimitResponse::Ready(decision) => decision,
            LimitResponse::Pending(decision) => self.config.with_timeout(decision).await?,
        };
        let standings = decision.statuses().iter().copied();
        Ok(limits.iter().cloned().zip(standings).collect())
    }

    /// What the recorder has seen: refusals without a known key are counted here too.
    pub fn stats(&self) -> RecorderStats {
        self.config.recorder.stats()
    }

    /// What the cache did.
    pub fn cache_stats(&self) -> CacheStats {
        self.config.cache.stats()
    }

    /// The cache, to drop keys from by hand.
    pub fn key_cache(&self) -> &KeyCache {
        &self.config.cache
    }
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKeyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ApiKeyService::new(inner, self.config.clone())
    }
}
