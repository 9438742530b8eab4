//! Partial updates of a key.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::AddressList;
use crate::limit::RateLimit;

/// New values for the fields of a key. Fields that are not set keep their values.
///
/// ```
/// use keytally::key::KeyUpdate;
///
/// let update = KeyUpdate::new().name("Zapier (sales)").expires_at(None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KeyUpdate {
    /// The new name.
    pub name: Option<String>,
    /// The new owner; `Some(None)` removes it.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub owner: Option<Option<Arc<str>>>,
    /// The new plan; `Some(None)` removes it.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub plan: Option<Option<Arc<str>>>,
    /// The new environment; `Some(None)` removes it.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub environment: Option<Option<String>>,
    /// The new scopes, replacing all scopes of the key.
    pub scopes: Option<Vec<String>>,
    /// The new rate limits, replacing all limits of the key.
    pub limits: Option<Vec<RateLimit>>,
    /// The new networks, replacing all networks of the key.
    pub addresses: Option<AddressList>,
    /// The new metadata, replacing all metadata of the key.
    pub metadata: Option<Map<String, Value>>,
    /// The new expiry; `Some(None)` removes it.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
}

/// Distinguishes absent fields (unchanged) from `null` (removed).
pub(super) mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::key) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .and_then(Option::as_ref)
            .serialize(serializer)
    }

    pub(in crate::key) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

impl KeyUpdate {
    /// An update without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets or removes the owner.
    #[must_use]
    pub fn owner<T: Into<Arc<str>>>(mut self, owner: Option<T>) -> Self {
        self.owner = Some(owner.map(Into::into));
        self
    }

    /// Sets or removes the plan.
    #[must_use]
    pub fn plan<T: Into<Arc<str>>>(mut self, plan: Option<T>) -> Self {
        self.plan = Some(plan.map(Into::into));
        self
    }

    /// Sets or removes the environment.
    #[must_use]
    pub fn environment<T: Into<String>>(mut self, environment: Option<T>) -> Self {
        self.environment = Some(environment.map(Into::into));
        self
    }

    /// Replaces all scopes.
    #[must_use]
    pub fn scopes<T: Into<String>>(mut self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// Replaces all rate limits. Usage is kept by name: a limit with the name of an earlier one inherits its
    /// usage.
    #[must_use]
    pub fn limits(mut self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.limits = Some(limits.into_iter().collect());
        self
    }

    /// Replaces all networks from which the key is accepted.
    #[must_use]
    pub fn addresses(mut self, addresses: AddressList) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Replaces all metadata.
    #[must_use]
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Sets or removes the expiry.
    #[must_use]
    pub fn expires_at(mut self, time: Option<Timestamp>) -> Self {
        self.expires_at = Some(time);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_distinguishes_unset_fields_from_null() {
        let update = KeyUpdate::new().name("Renamed").expires_at(None);
        let json = serde_json::to_string(&update).unwrap();
        assert_eq!(serde_json::from_str::<KeyUpdate>(&json).unwrap(), update);
        let removed = serde_json::from_str::<KeyUpdate>(r#"{"owner":null}"#).unwrap();
        assert_eq!(removed, KeyUpdate::new().owner(None::<Arc<str>>));
    }

    #[test]
    fn builder_methods_set_their_fields() {
        let limits = vec![RateLimit::per_second(5)];
        let addresses = AddressList::parse(["10.0.0.0/8"]).unwrap();
        let metadata: Map<_, _> = [("tier".into(), 1.into())].into_iter().collect();
        let end = Timestamp::UNIX_EPOCH;
        let update = KeyUpdate::new()
            .name("a")
            .owner(Some("b"))
            .plan(Some("p"))
            .environment(Some("c"))
            .scopes(["d"])
            .limits(limits.clone())
            .addresses(addresses.clone())
            .metadata(metadata.clone())
            .expires_at(Some(end));
        let expected = KeyUpdate {
            name: Some("a".into()),
            owner: Some(Some("b".into())),
            plan: Some(Some("p".into())),
            environment: Some(Some("c".into())),
            scopes: Some(vec!["d".into()]),
            limits: Some(limits),
            addresses: Some(addresses),
            metadata: Some(metadata),
            expires_at: Some(Some(end)),
        };
        assert_eq!(update, expected);
    }
}
