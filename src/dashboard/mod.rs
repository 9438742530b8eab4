//! What a person sees: pages on which usage is watched, and keys are generated, edited, rotated and
//! deleted; and the same for programs, as a JSON API.
//!
//! One line mounts them into an axum service, over any backend, behind a [`Guard`]:
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
//! let dashboard = Dashboard::new(backend, guard)?.issuer(Issuer::new("acme_live")?);
//! let app: Router = Router::new().nest_service("/admin", dashboard.into_router());
//! # drop(app);
//! # Ok(()) }
//! ```
//!
//! (`nest` does too, but does not know `/admin/`, with a slash at its end.)
//!
//! The pages are drawn by the server and work without JavaScript, but for copying, times of the
//! reader's zone and the choice of columns. Nothing is loaded from elsewhere.
//!
//! # JSON API
//!
//! All that the pages do is below `/api`, described by OpenAPI 3.1 in `/api/openapi.json`. Errors are
//! problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) that name the field.
//! `Idempotency-Key` ([draft][idempotency]) makes it safe to create or rotate a key again.
//!
//! [`SelfServiceApi`](crate::SelfServiceApi) is another router, for those who hold a key.
//!
//! [idempotency]: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07
//!
//! # Safety
//!
//! 1. The guard is asked before anything else, for every route but the login form, the style sheet,
//!    the script and the icon. Who has signed in is known by a cookie instead.
//! 2. What a browser sends to change something has to come from these pages: `Sec-Fetch-Site` or `Origin`
//!    say so, and each form has a token that belongs to whom it was shown.
//! 3. No page has a script or a style within it, and `Content-Security-Policy` forbids both.
//! 4. Every text is escaped: names, owners, paths and endpoints come from others.
//! 5. A secret is shown once, in the answer to the form that made it, which no cache keeps. A
//!    [recoverable](crate::key::NewKey::recoverable) one can be shown again where the [issuer](Dashboard::issuer)
//!    has a vault, and the audit has who has seen it. So that nothing is made twice, this process remembers
//!    the answer for ten minutes at most, for whoever sends the same form or `Idempotency-Key` again.
//!
//! # Deployment caveats
//!
//! Put it behind TLS: the session's cookie has `Secure` set unless the browser asks for `localhost`,
//! `127.0.0.1` or `[::1]`.
//!
//! Links, forms, redirects and the cookie's path begin with the path at which axum nests the pages. Where
//! something else than axum takes a part of the path away, such as a proxy in front, set
//! [the public path](Dashboard::public_path).
//!
//! Each process signs cookies and forms with a key of its own, so that a restart signs everybody out. Where
//! several instances serve the pages, give them a [signing key](Dashboard::signing_key), or send each
//! browser to the same one; programs need not care.

mod api;
mod base_path;
mod charts;
mod csrf;
mod download;
mod form;
mod guard;
mod idempotency;
mod page_context;
mod pages;
mod router;
mod session;
mod state;

use std::sync::Arc;

use axum::Router;

use self::base_path::BasePath;
pub use self::guard::{Admin, AllowEveryone, BearerToken, Denied, Guard, Login, WeakToken};
use self::idempotency::IdempotentRequests;
use self::session::Signer;
use self::state::Shared;
use crate::key::{Issuer, KeyAdmin};
use crate::log_throttle::LogThrottle;
use crate::usage::{Recorder, UsageReader};

/// The pages and what they need; see the [module](self).
pub struct Dashboard(Shared);

/// The operating system has no random numbers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no random numbers for the dashboard's signatures")]
pub struct NoRandomness(#[source] getrandom::Error);

/// A text that is no path where pages could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path begins with one slash, and has no query and no blanks")]
pub struct InvalidPath;

impl Dashboard {
    /// Pages over a backend, for whom the guard lets in.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] when the operating system has none.
    pub fn new(
        backend: impl KeyAdmin + UsageReader,
        guard: impl Guard,
    ) -> Result<Self, NoRandomness> {
        Ok(Self(Shared {
            backend: Arc::new(backend),
            guard: Arc::new(guard),
            issuer: None,
            recorder: None,
            signer: Signer::new().map_err(NoRandomness)?,
            idempotent_requests: IdempotentRequests::default(),
            rejected_credentials: LogThrottle::default(),
            public_path: None,
        }))
    }

    /// Makes keys with this issuer: with its prefix and peppers, those that the layer knows. Without one,
    /// keys cannot be generated or rotated on the pages.
    #[must_use]
    pub fn issuer(mut self, issuer: Issuer) -> Self {
        self.0.issuer = Some(issuer);
        self
    }

    /// Signs sessions and forms with this key, 32 random bytes, instead of one that is made anew with every
    /// process. So people stay signed in when the process is started again, and at every instance that has
    /// the same key. Who signs out does so at the one instance that hears of it, and in their browser.
    ///
    /// Whoever has the key can sign in as anybody.
    #[must_use]
    pub fn signing_key(mut self, key: [u8; 32]) -> Self {
        self.0.signer = Signer::with(key);
        self
    }

    /// The path at which browsers find the pages, such as `/internal/keys`, for when something else than axum's
    /// nesting takes a part of it away: a proxy in front, or a layer that rewrites paths. Links, forms, redirects
    /// and the cookie's path begin with it. Unless set, they begin with the path at which axum nests the pages.
    ///
    /// # Errors
    ///
    /// [`InvalidPath`] unless it begins with one slash and has no other characters than `/`, `-`, `.`, `_`,
    /// `~`, `%` and those of ASCII's letters and digits.
    pub fn public_path(mut self, path: &str) -> Result<Self, InvalidPath> {
        self.0.public_path = Some(BasePath::read(path).ok_or(InvalidPath)?);
        Ok(self)
    }

    /// Shows what this recorder has to write, and what it has lost.
    #[must_use]
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.0.recorder = Some(recorder);
        self
    }

    /// The routes, to be nested where the pages should be: by axum's `nest_service`, or by `nest`.
    pub fn into_router(self) -> Router {
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
