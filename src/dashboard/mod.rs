//! A web dashboard and JSON API to manage keys and inspect usage.
//!
//! The pages show usage and the request log, and generate, edit, rotate, disable, revoke and delete keys. The dashboard
//! is an axum router over any backend, protected by a [`Guard`]:
//!
//! ```
//! use axum::Router;
//! use keytally::backend::MemoryBackend;
//! use keytally::dashboard::{BearerToken, Dashboard};
//! use keytally::key::Issuer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = MemoryBackend::new();
//! let guard = BearerToken::new("a token of at least 16 characters")?;
//! let dashboard = Dashboard::new(backend, guard).issuer(Issuer::new("acme_live")?);
//! let app: Router = Router::new().nest_service("/admin", dashboard.into_router());
//! # drop(app);
//! # Ok(()) }
//! ```
//!
//! `Router::nest` works too, but does not match `/admin/` with a trailing slash.
//!
//! Pages are rendered on the server and work without JavaScript, except for copy buttons, "Select all" and times in the
//! browser's time zone. No resources are loaded from other hosts.
//!
//! # JSON API
//!
//! Every dashboard action has a JSON endpoint below `/api`, described by OpenAPI 3.1 in `/api/openapi.json`. Errors are
//! problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) that name the invalid field. The
//! `Idempotency-Key` header ([draft][idempotency]) makes it safe to retry creating or rotating a key.
//!
//! [`SelfServiceApi`](crate::SelfServiceApi) is a separate router for callers to inspect their own key.
//!
//! [idempotency]: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07
//!
//! # Security
//!
//! 1. The guard runs first on every route except the sign-in form, the style sheet, the script and the icon. A session
//!    cookie, set by the sign-in form, replaces it.
//! 2. Cross-site requests cannot change anything: `Sec-Fetch-Site` or `Origin` must name the same origin, and every
//!    form carries a CSRF token bound to the administrator.
//! 3. Pages have no inline scripts or styles, and `Content-Security-Policy` forbids both.
//! 4. All text is escaped, including names, owners, paths and endpoints from callers.
//! 5. A secret is shown once, in a response with `Cache-Control: no-store`. A
//!    [recoverable](crate::key::NewKey::recoverable) secret can be revealed again if the [issuer](Dashboard::issuer) has
//!    a vault; each reveal is recorded in the audit log. To make creation and rotation idempotent, the process keeps the
//!    response in memory for up to ten minutes and returns it for the same form or `Idempotency-Key`.
//!
//! # Deployment
//!
//! Serve the dashboard over TLS: the session cookie is `Secure` unless the browser requests `localhost`, `127.0.0.1` or
//! `[::1]`.
//!
//! Links, forms, redirects and the path of the cookie start with the path at which axum nests the router. If a proxy
//! rewrites the path, set [`public_path`](Dashboard::public_path).
//!
//! Each process generates its own key to sign cookies and forms, so a restart signs everyone out. With several
//! instances, set a shared [`signing_key`](Dashboard::signing_key) or use sticky sessions. API clients with a bearer
//! token are not affected.

mod api;
mod base_path;
mod billing;
mod charts;
mod csrf;
mod download;
mod event;
mod find;
mod flash;
mod form;
mod guard;
mod idempotency;
mod month;
mod next;
mod owner_path;
mod page_context;
mod pages;
mod return_path;
mod router;
mod secret_in_url;
mod session;
mod state;

use std::sync::Arc;

use axum::Router;

use self::base_path::BasePath;
pub use self::guard::{Admin, AllowEveryone, BearerToken, Denied, Guard, SignIn};
use self::idempotency::IdempotentRequests;
use self::session::Signer;
use self::state::Shared;
use crate::key::{Issuer, KeyAdmin};
use crate::layer::ApiKeyLayer;
use crate::log_throttle::LogThrottle;
use crate::usage::{Recorder, UsageReader};

/// The dashboard; see the [module](self).
pub struct Dashboard(Shared);

impl Dashboard {
    /// Creates a dashboard over a backend, protected by a guard.
    ///
    /// # Panics
    ///
    /// If the operating system provides no randomness, even if a [signing key](Self::signing_key) is set later.
    pub fn new(backend: impl KeyAdmin + UsageReader, guard: impl Guard) -> Self {
        let backend = Arc::new(backend);
        Self::of(backend.clone(), backend, guard)
    }

    /// Creates a dashboard with keys from one store and usage from another, protected by a guard.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn with_stores(keys: impl KeyAdmin, usage: impl UsageReader, guard: impl Guard) -> Self {
        Self::of(Arc::new(keys), Arc::new(usage), guard)
    }

    fn of(keys: Arc<dyn KeyAdmin>, usage: Arc<dyn UsageReader>, guard: impl Guard) -> Self {
        Self(Shared {
            keys,
            usage,
            guard: Arc::new(guard),
            issuer: None,
            recorder: None,
            layer: None,
            signer: Signer::new(),
            idempotent_requests: IdempotentRequests::default(),
            rejected_credentials: LogThrottle::default(),
            public_path: None,
            example_url: "/".into(),
        })
    }

    /// The issuer of new keys. Use the peppers that the layer verifies with. None by default: keys cannot be generated,
    /// rotated or revealed.
    #[must_use]
    pub fn issuer(mut self, issuer: Issuer) -> Self {
        self.0.issuer = Some(issuer);
        self
    }

    /// The key that signs session cookies and form tokens: 32 random bytes. By default, each process generates its own.
    ///
    /// With a fixed key, sessions survive restarts and are valid on every instance with the same key. Signing out
    /// deletes the cookie and ends the session on the instance that handles the request only.
    ///
    /// Anyone who knows the key can forge a session of any administrator.
    #[must_use]
    pub fn signing_key(mut self, key: [u8; 32]) -> Self {
        self.0.signer = Signer::with(key);
        self
    }

    /// The path of the dashboard as seen by browsers, such as `/internal/keys`. Defaults to the path at which axum
    /// nests the router. Set it if a proxy or layer rewrites the path. Links, forms, redirects and the path of the
    /// cookie start with it.
    ///
    /// # Panics
    ///
    /// If the path does not start with exactly one slash, or contains characters other than ASCII letters, digits and
    /// `/`, `-`, `.`, `_`, `~`, `%`.
    #[must_use]
    pub fn public_path(mut self, path: &str) -> Self {
        let base = BasePath::parse(path);
        self.0.public_path =
            Some(base.expect("the public path must start with one slash and have no query"));
        self
    }

    /// The URL in the `curl` command that is shown with a new secret: a path on the host of the dashboard, such as
    /// `/v1/orders`, or an absolute URL. `/` by default.
    #[must_use]
    pub fn example_url(mut self, url: impl Into<String>) -> Self {
        self.0.example_url = url.into();
        self
    }

    /// The recorder whose statistics the overview shows. None by default.
    #[must_use]
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.0.recorder = Some(recorder);
        self
    }

    /// The layer that applies the rate limits. Pages and API then have the remaining requests of keys and owners, and the
    /// state of a limiter such as `RedisLimiter`. None by default.
    ///
    /// ```
    /// # use keytally::ApiKeyLayer;
    /// # use keytally::backend::MemoryBackend;
    /// use keytally::dashboard::{BearerToken, Dashboard};
    ///
    /// # fn main() -> Result<(), keytally::InvalidConfig> {
    /// # let backend = MemoryBackend::new();
    /// # let token = BearerToken::new("a token of more than 32 characters")?;
    /// let layer = ApiKeyLayer::new(backend.clone());
    /// let dashboard = Dashboard::new(backend, token).layer(layer.clone());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn layer(mut self, layer: ApiKeyLayer) -> Self {
        self.0.layer = Some(layer);
        self
    }

    /// Builds the router. Mount it with axum's `nest_service` or `nest`.
    pub fn into_router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        router::router(Arc::new(self.0))
    }
}

impl std::fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dashboard").finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests;
