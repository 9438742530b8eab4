//! Validation of key fields.

use super::error::{InvalidKey, check_time};
use super::field_bounds::{check_metadata, is_line, is_name};
use super::record::Key;
use crate::limit::RateLimit;

impl Key {
    /// Checks that every field is within its bounds; [`InvalidKey`] lists them.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        let tag = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let scope_char = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if !is_name(&self.name) {
            return Err(InvalidKey::Name);
        }
        if self
            .owner
            .as_deref()
            .is_some_and(|owner| !is_line(owner, 200))
        {
            return Err(InvalidKey::Owner);
        }
        if self.plan.as_deref().is_some_and(|plan| !is_name(plan)) {
            return Err(InvalidKey::Plan);
        }
        if let Some(environment) = &self.environment
            && !((1..=32).contains(&environment.len()) && environment.bytes().all(tag))
        {
            return Err(InvalidKey::Environment);
        }
        if self.scopes.len() > 64 {
            return Err(InvalidKey::TooManyScopes);
        }
        for (index, scope) in self.scopes.iter().enumerate() {
            let fits = (1..=100).contains(&scope.len()) && scope.bytes().all(scope_char);
            if !fits || self.scopes[..index].contains(scope) {
                return Err(InvalidKey::Scope);
            }
        }
        if self.addresses.len() > 100 {
            return Err(InvalidKey::TooManyAddresses);
        }
        check_metadata(&self.metadata)?;
        if !self.hint.is_empty() && !is_line(&self.hint, 64) {
            return Err(InvalidKey::Hint);
        }
        let times = [
            Some(self.created_at),
            self.expires_at,
            self.revoked_at,
            self.first_accepted_at,
            self.last_accepted_at,
        ];
        times.into_iter().flatten().try_for_each(check_time)?;
        Ok(RateLimit::validate_all(&self.limits)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use jiff::Timestamp;

    use super::*;
    use crate::key::AddressList;
    use crate::limit::InvalidLimit;

    fn key() -> Key {
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        Key::new(id, "a", Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn text_fields_are_bounded() {
        type Set = fn(&mut Key, String);
        let fields: [(Set, usize, InvalidKey); 4] = [
            (|key, text| key.name = text, 100, InvalidKey::Name),
            (
                |key, text| key.owner = Some(text.into()),
                200,
                InvalidKey::Owner,
            ),
            (
                |key, text| key.plan = Some(text.into()),
                100,
                InvalidKey::Plan,
            ),
            (|key, text| key.hint = text, 64, InvalidKey::Hint),
        ];
        for (set, max, error) in fields {
            let validate = |text: &str| {
                let mut key = key();
                set(&mut key, text.to_owned());
                key.validate()
            };
            for fits in ["a", "ä b", &"ä".repeat(max)] {
                assert_eq!(validate(fits), Ok(()), "{fits}");
            }
            for other in ["a\0", "a\n", "\u{85}", &"a".repeat(max + 1)] {
                assert_eq!(validate(other), Err(error.clone()), "{other:?}");
            }
            // The hint may be empty.
            let empty = if error == InvalidKey::Hint {
                Ok(())
            } else {
                Err(error)
            };
            assert_eq!(validate(""), empty);
        }
        let mut blank = key();
        blank.name = " \u{a0}".into();
        assert_eq!(blank.validate(), Err(InvalidKey::Name));
    }

    #[test]
    fn environments_and_scopes_have_restricted_characters() {
        let validate = |environment: Option<&str>, scopes: &[&str]| {
            let mut key = key();
            key.environment = environment.map(Into::into);
            key.scopes = scopes.iter().map(|scope| (*scope).into()).collect();
            key.validate()
        };
        for fits in ["a", "az_09-", &"a".repeat(32)] {
            assert_eq!(validate(Some(fits), &[]), Ok(()), "{fits}");
        }
        for other in ["", "A", "a b", "ä", &"a".repeat(33)] {
            assert_eq!(
                validate(Some(other), &[]),
                Err(InvalidKey::Environment),
                "{other}"
            );
        }
        for fits in ["a", "postings:read", "!#[]~", &"a".repeat(100)] {
            assert_eq!(validate(None, &["x", fits]), Ok(()), "{fits}");
        }
        for other in [
            "",
            "a b",
            "a\"b",
            "a\\b",
            "ä",
            "\u{7f}",
            "x",
            &"a".repeat(101),
        ] {
            assert_eq!(
                validate(None, &["x", other]),
                Err(InvalidKey::Scope),
                "{other}"
            );
        }
        let many: Vec<_> = (0..65).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(validate(None, &many[1..]), Ok(()));
        assert_eq!(validate(None, &many), Err(InvalidKey::TooManyScopes));
    }

    #[test]
    fn number_of_addresses_is_bounded() {
        let mut key = key();
        let networks: Vec<_> = (0..101).map(|n| format!("10.0.0.{n}")).collect();
        key.addresses = AddressList::parse(&networks[1..]).unwrap();
        assert_eq!(key.validate(), Ok(()));
        key.addresses = AddressList::parse(networks).unwrap();
        assert_eq!(key.validate(), Err(InvalidKey::TooManyAddresses));
    }

    #[test]
    fn metadata_length_and_depth_are_bounded() {
        let validate = |value: Value| {
            let mut key = key();
            key.metadata.insert("a".into(), value);
            key.validate()
        };
        // Plus the 8 bytes of `{"a":""}`.
        assert_eq!(validate("x".repeat(8_192 - 8).into()), Ok(()));
        assert_eq!(
            validate("x".repeat(8_192 - 7).into()),
            Err(InvalidKey::Metadata)
        );
        for wrap in [|value| json!([value]), |value| json!({ "b": value })] {
            let nested = |levels: usize| (0..levels).fold(json!(1), |value, _| wrap(value));
            // The metadata itself is a level.
            assert_eq!(validate(nested(31)), Ok(()));
            assert_eq!(validate(nested(32)), Err(InvalidKey::MetadataDepth));
            assert_eq!(
                validate(json!([1, nested(31)])),
                Err(InvalidKey::MetadataDepth)
            );
            assert_eq!(validate(json!([1, nested(30), "a", null])), Ok(()));
        }
        // Empty arrays and objects are levels as well.
        let deep = |innermost: Value| (0..31).fold(innermost, |value, _| json!([value]));
        for empty in [json!([]), json!({})] {
            assert_eq!(validate(deep(empty)), Err(InvalidKey::MetadataDepth));
        }
    }

    #[test]
    fn rate_limits_are_validated() {
        let mut key = key();
        key.limits = vec![RateLimit::per_second(0)];
        assert_eq!(key.validate(), Err(InvalidLimit::Zero.into()));
    }

    #[test]
    fn values_that_databases_cannot_store_are_rejected() {
        let id = "3fK9aB0000zzZZ19".parse().unwrap();
        let first: Timestamp = "0001-01-01T00:00:00Z".parse().unwrap();
        let before = first - jiff::SignedDuration::from_micros(1);
        let key = Key {
            expires_at: Some(Timestamp::MAX),
            ..Key::new(id, "Ends of time", first)
        };
        assert_eq!(key.validate(), Ok(()));
        let times: [fn(&mut Key, Timestamp); 4] = [
            |key, time| key.created_at = time,
            |key, time| key.expires_at = Some(time),
            |key, time| key.revoked_at = Some(time),
            |key, time| key.last_accepted_at = Some(time),
        ];
        for set in times {
            let mut early = key.clone();
            set(&mut early, before);
            assert_eq!(early.validate(), Err(InvalidKey::Time));
        }
        for value in [
            json!({ "a": "nul \0" }),
            json!({ "nul \0": 1 }),
            json!({ "a": [{ "b": ["\0"] }] }),
            json!({ "a": [{ "\0": null }] }),
        ] {
            let mut nul = key.clone();
            nul.metadata = value.as_object().cloned().unwrap();
            assert_eq!(nul.validate(), Err(InvalidKey::MetadataNul), "{value}");
        }
    }
}
