//! Who may enter.

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Decides who administers keys. Every page, export and call of the API asks it first, but for those who
/// have [signed in](Self::login).
///
/// ```
/// use keytally::async_trait;
/// use keytally::dashboard::{Admin, Denied, Guard};
///
/// /// Whoever the proxy in front has signed in.
/// struct Proxy;
///
/// #[async_trait]
/// impl Guard for Proxy {
///     async fn admit(&self, parts: &http::request::Parts) -> Result<Admin, Denied> {
///         let user = parts.headers.get("x-forwarded-user").and_then(|user| user.to_str().ok());
///         user.map(Admin::named).ok_or(Denied::Unauthenticated)
///     }
/// }
/// ```
#[async_trait]
pub trait Guard: Send + Sync + 'static {
    /// Who asks.
    ///
    /// # Errors
    ///
    /// [`Denied`] when nobody does who may.
    async fn admit(&self, parts: &Parts) -> Result<Admin, Denied>;

    /// How a person signs in on a page of the dashboard's, if they do it there. Whoever did is known
    /// by a cookie, without being asked for again: until they sign out, for twelve hours, or until the
    /// process ends.
    fn login(&self) -> Option<&dyn Login> {
        None
    }

    /// The address of the application's own sign-in page, for guards without a [`login`](Self::login): browsers of
    /// people who are not signed in are redirected there. None unless set: they get a plain 401.
    fn sign_in_url(&self) -> Option<&str> {
        None
    }

    /// The address at which the application signs people out, for guards without a [`login`](Self::login): the
    /// pages link to it. None unless set: the pages have no "Sign out".
    fn sign_out_url(&self) -> Option<&str> {
        None
    }
}

/// Knows a person by what they type into the login form.
pub trait Login: Send + Sync {
    /// Who has this token. Compare it in constant time. Guesses are not slowed down, so tokens are to be
    /// random: for passwords, which can be guessed, sign people in elsewhere.
    fn sign_in(&self, token: &str) -> Option<Admin>;
}

/// Somebody who administers keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    name: String,
}

impl Admin {
    /// Under this name, which the audit keeps with all that they do.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is not known who they are.
    #[error("sign in first")]
    Unauthenticated,
    /// It is known, and they may not.
    #[error("not for this user")]
    Forbidden,
}

/// Lets in whoever has a token: as `Authorization: Bearer …`, or typed into the login form.
pub struct BearerToken {
    // Digests have one length, so that comparing them tells nothing of the token's.
    digest: [u8; 32],
    name: String,
}

/// A token that could be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an admin token has at least {} characters", BearerToken::SHORTEST)]
pub struct WeakToken;

impl BearerToken {
    /// The fewest characters of a token.
    pub const SHORTEST: usize = 16;

    /// With this token, which should be random; blanks around it, such as the end of a file's line, are
    /// none of it. The audit knows who has it as `admin`.
    ///
    /// # Errors
    ///
    /// [`WeakToken`] when it has fewer than [`SHORTEST`](Self::SHORTEST) characters.
    pub fn new(token: &str) -> Result<Self, WeakToken> {
        let token = token.trim();
        if token.chars().count() < Self::SHORTEST {
            return Err(WeakToken);
        }
        Ok(Self {
            digest: Sha256::digest(token).into(),
            name: "admin".into(),
        })
    }

    /// Under another name in the audit.
    #[must_use]
    pub fn with_admin_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

#[async_trait]
impl Guard for BearerToken {
    async fn admit(&self, parts: &Parts) -> Result<Admin, Denied> {
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

    fn login(&self) -> Option<&dyn Login> {
        Some(self)
    }
}

impl Login for BearerToken {
    fn sign_in(&self, token: &str) -> Option<Admin> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        bool::from(digest.ct_eq(&self.digest)).then(|| Admin::new(&*self.name))
    }
}

/// Lets everybody in, for examples and for what only its developer can reach. The sites that a developer
/// looks at may reach it too, under a name that leads to this machine: no real keys belong behind it.
#[derive(Debug, Clone, Copy)]
pub struct AllowEveryone;

#[async_trait]
impl Guard for AllowEveryone {
    async fn admit(&self, _: &Parts) -> Result<Admin, Denied> {
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
        guard.admit(&request.into_parts().0).await
    }

    #[tokio::test]
    async fn the_token_alone_lets_in() {
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
            assert_eq!(BearerToken::new(weak).err(), Some(WeakToken), "{weak:?}");
        }
        // As it is read from a file.
        let guard = BearerToken::new("correct-horse-battery\n").unwrap();
        let good = admitted(&guard, Some("Bearer correct-horse-battery")).await;
        assert_eq!(good, Ok(Admin::new("admin")));
        assert!(!format!("{guard:?}").contains("horse"));
    }
}
