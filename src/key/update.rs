//! Other values for the fields of a key.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::AddressList;
use crate::limit::RateLimit;

/// Other values for the fields of a key; what is not set stays.
///
/// ```
/// use keytally::key::KeyUpdate;
///
/// let update = KeyUpdate::new().name("Zapier (sales)").expires(None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KeyUpdate {
    /// Another name.
    pub name: Option<String>,
    /// Another owner; `Some(None)` for none.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub owner: Option<Option<Arc<str>>>,
    /// Another environment; `Some(None)` for none.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub environment: Option<Option<String>>,
    /// These scopes instead of those it has.
    pub scopes: Option<Vec<String>>,
    /// These limits instead of those it has.
    pub limits: Option<Vec<RateLimit>>,
    /// These networks instead of those it has.
    pub addresses: Option<AddressList>,
    /// This metadata instead of what it has.
    pub metadata: Option<Map<String, Value>>,
    /// Another end; `Some(None)` for none.
    #[serde(with = "nullable", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
}

/// Tells a field that is absent (stays) from one that is `null` (is taken away).
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .and_then(Option::as_ref)
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

impl KeyUpdate {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Another owner, or none.
    #[must_use]
    pub fn owner<T: Into<Arc<str>>>(mut self, owner: Option<T>) -> Self {
        self.owner = Some(owner.map(Into::into));
        self
    }

    /// Another environment, or none.
    #[must_use]
    pub fn environment<T: Into<String>>(mut self, environment: Option<T>) -> Self {
        self.environment = Some(environment.map(Into::into));
        self
    }

    /// These scopes instead of those it has.
    #[must_use]
    pub fn scopes<T: Into<String>>(mut self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// These limits instead of those it has. What is spent is kept, by the limits' names.
    #[must_use]
    pub fn limits(mut self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.limits = Some(limits.into_iter().collect());
        self
    }

    /// These networks instead of those it has.
    #[must_use]
    pub fn addresses(mut self, addresses: AddressList) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// This metadata instead of what it has.
    #[must_use]
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Another end, or none.
    #[must_use]
    pub fn expires_at(mut self, end: Option<Timestamp>) -> Self {
        self.expires_at = Some(end);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_update_leaves_alone_stays_alone_in_json() {
        let update = KeyUpdate::new().name("Renamed").expires_at(None);
        let json = serde_json::to_string(&update).unwrap();
        assert_eq!(serde_json::from_str::<KeyUpdate>(&json).unwrap(), update);
        let taken_away = serde_json::from_str::<KeyUpdate>(r#"{"owner":null}"#).unwrap();
        assert_eq!(taken_away, KeyUpdate::new().owner(None::<Arc<str>>));
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let limits = vec![RateLimit::per_second(5)];
        let addresses = AddressList::parse(["10.0.0.0/8"]).unwrap();
        let metadata: Map<_, _> = [("tier".into(), 1.into())].into_iter().collect();
        let end = Timestamp::UNIX_EPOCH;
        let update = KeyUpdate::new()
            .name("a")
            .owner(Some("b"))
            .environment(Some("c"))
            .scopes(["d"])
            .limits(limits.clone())
            .addresses(addresses.clone())
            .metadata(metadata.clone())
            .expires_at(Some(end));
        let expected = KeyUpdate {
            name: Some("a".into()),
            owner: Some(Some("b".into())),
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
