//! The parameters of a new key.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::address::AddressList;
use super::error::InvalidKey;
use super::record::Key;
use crate::id::KeyId;
use crate::limit::RateLimit;
use crate::page::whole_micros;

/// The parameters of a new key. Everything but the name is optional.
///
/// ```
/// use keytally::key::{AddressList, NewKey};
/// use keytally::limit::RateLimit;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let new = NewKey::new("Zapier integration")
///     .owner("customer-17")
///     .environment("live")
///     .scope("postings:read")
///     .limit(RateLimit::per_minute(600).with_burst(100))
///     .addresses(AddressList::parse(["203.0.113.0/24"])?)
///     .metadata("plan", "pro");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct NewKey {
    pub(super) name: String,
    owner: Option<Arc<str>>,
    plan: Option<Arc<str>>,
    environment: Option<String>,
    scopes: Vec<String>,
    limits: Vec<RateLimit>,
    addresses: AddressList,
    metadata: Map<String, Value>,
    expires_at: Option<Timestamp>,
    expires_in: Option<Duration>,
    pub(super) recoverable: bool,
}

impl NewKey {
    /// A key with this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            owner: None,
            plan: None,
            environment: None,
            scopes: Vec::new(),
            limits: Vec::new(),
            addresses: AddressList::default(),
            metadata: Map::new(),
            expires_at: None,
            expires_in: None,
            recoverable: false,
        }
    }

    /// Sets the owner, as an identifier of the application.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<Arc<str>>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Sets the plan, which must exist in the store. None by default: the plan of the owner applies.
    #[must_use]
    pub fn plan(mut self, plan: impl Into<Arc<str>>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Sets the environment, a tag such as `live` or `test`.
    #[must_use]
    pub fn environment(mut self, environment: impl Into<String>) -> Self {
        self.environment = Some(environment.into());
        self
    }

    /// Adds a scope.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// Adds scopes.
    #[must_use]
    pub fn scopes<T: Into<String>>(mut self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds a rate limit. All limits of a key apply together.
    #[must_use]
    pub fn limit(mut self, limit: RateLimit) -> Self {
        self.limits.push(limit);
        self
    }

    /// Sets the networks from which the key is accepted. If empty (the default), it is accepted from everywhere.
    #[must_use]
    pub fn addresses(mut self, addresses: AddressList) -> Self {
        self.addresses = addresses;
        self
    }

    /// Adds an entry to the metadata, replacing an entry of the same name.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets when the key expires. Replaces [`expires_in`](Self::expires_in).
    #[must_use]
    pub fn expires_at(mut self, time: Timestamp) -> Self {
        self.expires_at = Some(time);
        self.expires_in = None;
        self
    }

    /// Sets the time from creation to expiry. Replaces [`expires_at`](Self::expires_at).
    #[must_use]
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires_in = Some(time);
        self.expires_at = None;
        self
    }

    /// Stores the encrypted secret, so that it can be [revealed](super::KeyAdmin::reveal). Off by default: a
    /// secret that is shown only once is safer.
    ///
    /// Requires the feature `recoverable`, an issuer with a vault, and a store that holds encrypted secrets.
    #[must_use]
    pub fn recoverable(mut self) -> Self {
        self.recoverable = true;
        self
    }

    pub(super) fn into_key(
        self,
        id: KeyId,
        hint: String,
        now: Timestamp,
    ) -> Result<Key, InvalidKey> {
        let expires_at = self.expires_in.map(|time| after(now, time));
        let key = Key {
            owner: self.owner,
            plan: self.plan,
            environment: self.environment,
            scopes: self.scopes,
            limits: self.limits,
            addresses: self.addresses,
            metadata: self.metadata,
            expires_at: expires_at.or(self.expires_at).map(whole_micros),
            hint,
            recoverable: self.recoverable,
            ..Key::new(id, self.name, now)
        };
        key.validate()?;
        Ok(key)
    }
}

/// `time + by`, saturating at the latest timestamp.
pub(super) fn after(time: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| time.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_saturates_at_the_latest_timestamp() {
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        let new = NewKey::new("Zapier").expires_in(Duration::MAX);
        let key = new
            .into_key(id, String::new(), Timestamp::UNIX_EPOCH)
            .unwrap();
        assert_eq!(key.expires_at, Some(whole_micros(Timestamp::MAX)));
        assert_eq!(
            after(Timestamp::UNIX_EPOCH, Duration::from_secs(1)).as_second(),
            1
        );
    }
}
