//! Confirmation messages: shown once, on the page after a change.
//!
//! The message is in a signed cookie, so that the URL stays clean, any instance can show it, and no link can forge it.

use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};

use super::guard::Admin;
use super::session::{Signer, cookie, cookies, hex, unhex};
use crate::id::KeyId;
use crate::key::Key;

/// How long a message that is not shown stays.
const LIFETIME: SignedDuration = SignedDuration::from_mins(1);

const COOKIE_NAME: &str = "keytally_flash";

/// A change that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Disabled,
    Enabled,
    Revoked,
    Deleted,
    Saved,
    Suspended,
    Resumed,
}

impl Done {
    const ALL: [(Self, &str); 7] = [
        (Self::Disabled, "disabled"),
        (Self::Enabled, "enabled"),
        (Self::Revoked, "revoked"),
        (Self::Deleted, "deleted"),
        (Self::Saved, "saved"),
        (Self::Suspended, "suspended"),
        (Self::Resumed, "resumed"),
    ];

    fn as_str(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(done, _)| *done == self)
            .map_or("", |(_, name)| name)
    }
}

/// A change of one or several keys, of an owner or of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flash {
    pub(super) done: Done,
    pub(super) keys: Vec<KeyId>,
    /// The name of the key, if it is only one, or the owner or the plan.
    pub(super) name: Option<String>,
}

impl Flash {
    pub(super) fn one(done: Done, key: &Key) -> Self {
        Self {
            done,
            keys: vec![key.id],
            name: Some(key.name.clone()),
        }
    }

    /// A change of an owner or a plan.
    pub(super) fn named(done: Done, name: &str) -> Self {
        Self {
            done,
            keys: Vec::new(),
            name: Some(name.into()),
        }
    }

    pub(super) fn many(done: Done, keys: &[Key]) -> Self {
        match keys {
            [key] => Self::one(done, key),
            keys => Self {
                done,
                keys: keys.iter().map(|key| key.id).collect(),
                name: None,
            },
        }
    }

    /// The `Set-Cookie` header.
    pub(super) fn set(&self, signer: &Signer, admin: &Admin, is_local: bool, path: &str) -> String {
        let ids: Vec<_> = self.keys.iter().map(KeyId::as_str).collect();
        let ids = ids.join("-");
        let name = hex(self.name.as_deref().unwrap_or_default().as_bytes());
        let end = Timestamp::now().as_second() + LIFETIME.as_secs();
        let (done, end) = (self.done.as_str(), end.to_string());
        let signature = signer.sign(&["flash", admin.name(), done, &ids, &name, &end]);
        let value = format!("{done}.{ids}.{name}.{end}.{signature}");
        cookie(COOKIE_NAME, &value, LIFETIME.as_secs(), is_local, path)
    }

    /// The `Set-Cookie` header that deletes the cookie.
    pub(super) fn clear(is_local: bool, path: &str) -> String {
        cookie(COOKIE_NAME, "", 0, is_local, path)
    }

    /// The message in a valid cookie.
    pub(super) fn read(signer: &Signer, admin: &Admin, headers: &HeaderMap) -> Option<Self> {
        let mut values = cookies(headers, COOKIE_NAME);
        values.find_map(|value| {
            let parts: Vec<_> = value.split('.').collect();
            let [done, ids, name, end, signature] = parts[..] else {
                return None;
            };
            let signed = ["flash", admin.name(), done, ids, name, end];
            if !signer.is_signed(&signed, signature) {
                return None;
            }
            let end: i64 = end.parse().ok()?;
            let (done, _) = Done::ALL.into_iter().find(|(_, name)| *name == done)?;
            let name = String::from_utf8(unhex(name)?).ok()?;
            (end > Timestamp::now().as_second()).then(|| Self {
                done,
                keys: ids.split('-').filter_map(|id| id.parse().ok()).collect(),
                name: Some(name).filter(|name| !name.is_empty()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    #[test]
    fn messages_cannot_be_forged() {
        let (signer, other) = (Signer::with([7; 32]), Signer::with([8; 32]));
        let ada = Admin::new("Ada");
        let keys = ["3fK9aB0000zzZZ19", "7hTq2c5555yyXX40"].map(|id| {
            let id = id.parse().unwrap();
            Key::new(id, "A; Path=/\r\n“key”", Timestamp::UNIX_EPOCH)
        });
        for flash in [
            Flash::one(Done::Deleted, &keys[0]),
            Flash::many(Done::Disabled, &keys),
        ] {
            let set = flash.set(&signer, &ada, false, "/admin");
            assert!(set.ends_with("; Path=/admin; Max-Age=60; HttpOnly; SameSite=Strict; Secure"));
            let sent = |value: &str| HeaderMap::from_iter([(COOKIE, value.parse().unwrap())]);
            let value = set.split(';').next().unwrap();
            let read = Flash::read(&signer, &ada, &sent(value));
            assert_eq!(read, Some(flash));
            assert_eq!(Flash::read(&other, &ada, &sent(value)), None);
            let bob = Admin::new("Bob");
            assert_eq!(Flash::read(&signer, &bob, &sent(value)), None);
            for (part, other) in [("d.3", "d.4"), ("ed.", "ing."), ("=d", "=r")] {
                let forged = value.replacen(part, other, 1);
                assert_ne!(forged, value);
                assert_eq!(Flash::read(&signer, &ada, &sent(&forged)), None, "{forged}");
            }
        }
        let past = "keytally_flash=deleted.3fK9aB0000zzZZ19..1.";
        let signed = ["flash", "Ada", "deleted", "3fK9aB0000zzZZ19", "", "1"];
        let past = format!("{past}{}", signer.sign(&signed));
        let sent = HeaderMap::from_iter([(COOKIE, past.parse().unwrap())]);
        assert_eq!(Flash::read(&signer, &ada, &sent), None);
    }
}
