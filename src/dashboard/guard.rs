//! Access control of the dashboard.

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::InvalidConfig;
use crate::key::Actor;

/// Authenticates requests to the dashboard.
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`). The guard runs before every page, export
/// and API call, except for browsers with a [session](Self::sign_in_form).
///
/// ```
/// use keytally::async_trait;
/// use keytally::dashboard::{Admin, Denied, Guard};
///
/// /// Trusts the user name set by an authenticating proxy.
/// struct Proxy;
///
/// #[async_trait]
/// impl Guard for Proxy {
///     async fn authenticate(&self, parts: &http::request::Parts) -> Result<Admin, Denied> {
///         let user = parts.headers.get("x-forwarded-user").and_then(|user| user.to_str().ok());
///         user.map(Admin::new).ok_or(Denied::Unauthenticated)
///     }
/// }
/// ```
#[async_trait]
pub trait Guard: Send + Sync + 'static {
    /// Returns the administrator who sent the request.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the request is not authenticated, or its sender is not an administrator.
    async fn authenticate(&self, parts: &Parts) -> Result<Admin, Denied>;

    /// The sign-in form of the dashboard. None by default.
    ///
    /// A successful sign-in sets a session cookie, which replaces [`authenticate`](Self::authenticate) until the user
    /// signs out, for twelve hours at most. Sessions end with the process unless the dashboard has a
    /// [signing key](super::Dashboard::signing_key).
    fn sign_in_form(&self) -> Option<&dyn SignIn> {
        None
    }

    /// The URL of the application's own sign-in page, for guards without a [`sign_in_form`](Self::sign_in_form).
    /// Browsers without valid credentials are redirected there. None by default: they receive a plain 401.
    fn sign_in_url(&self) -> Option<&str> {
        None
    }

    /// The URL at which the application signs users out, for guards without a [`sign_in_form`](Self::sign_in_form).
    /// None by default: the pages have no "Sign out" link.
    fn sign_out_url(&self) -> Option<&str> {
        None
    }
}

/// Verifies the token submitted with the dashboard's sign-in form.
pub trait SignIn: Send + Sync {
    /// Returns the administrator that the token belongs to, or `None` if it is invalid.
    ///
    /// Compare tokens in constant time. Attempts are not rate limited, so tokens must be random. For passwords, use
    /// the application's own sign-in page ([`Guard::sign_in_url`]).
    fn sign_in(&self, token: &str) -> Option<Admin>;
}

/// An authenticated administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    name: String,
}

impl Admin {
    /// Creates an administrator with this name, which the audit log records as the actor.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name of the administrator.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The administrator as the actor of changes.
    pub(super) fn actor(&self) -> Actor<'_> {
        Actor::new(&self.name)
    }
}

/// Why a request to the dashboard is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The request has no valid credentials. Answered with 401, or a redirect to the sign-in page.
    #[error("authentication required")]
    Unauthenticated,
    /// The sender is authenticated but not an administrator. Answered with 403.
    #[error("access denied")]
    Forbidden,
}

/// A guard with one shared token, sent as `Authorization: Bearer …` or entered in the sign-in form.
pub struct BearerToken {
    // Comparing digests does not leak the length of the token.
    digest: [u8; 32],
    name: String,
}

impl BearerToken {
    /// The minimum length of a token in characters.
    pub const MIN_LENGTH: usize = 16;

    /// Creates a guard with this token, which should be random. Surrounding whitespace, such as a trailing newline, is
    /// ignored. The administrator's name is `admin` by default.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] if the token has fewer than [`MIN_LENGTH`](Self::MIN_LENGTH) characters.
    pub fn new(token: &str) -> Result<Self, InvalidConfig> {
        let token = token.trim();
        if token.chars().count() < Self::MIN_LENGTH {
            return Err(InvalidConfig::new(
                "token",
                "must have at least 16 characters",
            ));
        }
        Ok(Self {
            digest: Sha256::digest(token).into(),
            name: "admin".into(),
        })
    }

    /// The name of the administrator in the audit log. `admin` by default.
    #[must_use]
    pub fn with_admin_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

#[async_trait]
impl Guard for BearerToken {
    async fn authenticate(&self, parts: &Parts) -> Result<Admin, Denied> {
        let token = parts.headers.get(AUTHORIZATION);
        let token = token.and_then(|value| value.to_str().ok());
        let (scheme, token) = token
            .and_then(|value| value.split_once(' '))
            .ok_or(Denied::Unauthenticated)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Unauthenticated);
        }
        self.sign_in(token.trim()).ok_or(Denied::Unauthenticated)
    }

    fn sign_in_form(&self) -> Option<&dyn SignIn> {
        Some(self)
    }
}

impl SignIn for BearerToken {
    fn sign_in(&self, token: &str) -> Option<Admin> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        bool::from(digest.ct_eq(&self.digest)).then(|| Admin::new(&*self.name))
    }
}

/// A guard that admits every request, for examples and local development.
///
/// Do not use it with real keys, even on localhost: web sites open in the developer's browser can reach it through DNS
/// rebinding.
#[derive(Debug, Clone, Copy)]
pub struct AllowEveryone;

#[async_trait]
impl Guard for AllowEveryone {
    async fn authenticate(&self, _: &Parts) -> Result<Admin, Denied> {
        Ok(Admin::new("anyone"))
    }
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BearerToken")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn admitted(guard: &BearerToken, header: Option<&str>) -> Result<Admin, Denied> {
        let mut request = http::Request::new(());
        if let Some(header) = header {
            let header = header.parse().unwrap();
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        guard.authenticate(&request.into_parts().0).await
    }

    #[tokio::test]
    async fn only_the_exact_token_is_admitted() {
        let guard = BearerToken::new("correct-horse-battery")
            .unwrap()
            .with_admin_name("Ada");
        let good = admitted(&guard, Some("bearer correct-horse-battery")).await;
        assert_eq!(good, Ok(Admin::new("Ada")));
        for header in [
            None,
            Some("correct-horse-battery"),
            Some("Bearer "),
            Some("Bearer correct-horse-batter"),
            Some("Bearer correct-horse-batteryy"),
            Some("Basic correct-horse-battery"),
        ] {
            let denied = admitted(&guard, header).await;
            assert_eq!(denied, Err(Denied::Unauthenticated), "{header:?}");
        }
        for weak in ["short", "                ", "fifteen letters\n"] {
            assert_eq!(
                BearerToken::new(weak).unwrap_err().field,
                "token",
                "{weak:?}"
            );
        }
        // With the trailing newline of a file.
        let guard = BearerToken::new("correct-horse-battery\n").unwrap();
        let good = admitted(&guard, Some("Bearer correct-horse-battery")).await;
        assert_eq!(good, Ok(Admin::new("admin")));
        assert!(!format!("{guard:?}").contains("horse"));
    }
}
