//! Signed session cookies and form tokens.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use http::header::{COOKIE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Uri};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::guard::Admin;
use crate::id::uuid_at;

/// The lifetime of a session.
const SESSION: SignedDuration = SignedDuration::from_hours(12);

pub(super) const COOKIE_NAME: &str = "keytally_session";

/// The maximum number of signed-out sessions in the list. Beyond it, those that expire first are dropped, and every
/// session that expires no later than those counts as signed out: the list fails closed. Only sessions with a valid
/// signature are added.
const MAX_SIGNED_OUT: usize = 10_000;

/// Signs and verifies session cookies and form tokens.
pub(super) struct Signer {
    key: Zeroizing<[u8; 32]>,
    signed_out: Mutex<SignedOut>,
}

/// Sessions that were signed out before they expired.
#[derive(Default)]
struct SignedOut {
    sessions: BTreeSet<Session>,
    /// This session and all that expire before it are invalid.
    floor: Option<Session>,
}

impl SignedOut {
    fn contains(&self, session: &Session) -> bool {
        self.floor.is_some_and(|floor| *session <= floor) || self.sessions.contains(session)
    }

    fn extend(&mut self, sessions: impl IntoIterator<Item = Session>, now: Timestamp) {
        // Expired sessions need not be listed. The floor keeps them invalid if the clock is set back.
        let expired = (now.as_second(), Uuid::nil());
        self.sessions = self.sessions.split_off(&expired);
        self.floor = Some(expired).max(self.floor);
        self.sessions.extend(sessions);
        while self.sessions.len() > MAX_SIGNED_OUT {
            self.floor = self.sessions.pop_first().max(self.floor);
        }
    }
}

/// The expiry of a session in Unix seconds, and its id.
type Session = (i64, Uuid);

impl Signer {
    /// A signer with a random key. Panics if the operating system provides no randomness.
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        if let Err(error) = getrandom::fill(&mut key) {
            panic!("the operating system provided no randomness: {error}");
        }
        Self::with(key)
    }

    pub(super) fn with(key: [u8; 32]) -> Self {
        Self {
            key: Zeroizing::new(key),
            signed_out: Mutex::default(),
        }
    }

    /// The MAC of length-prefixed parts, so that different lists of parts have different inputs.
    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.key)
            .unwrap_or_else(|_| unreachable!("HMAC accepts keys of any length"));
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }

    pub(super) fn sign(&self, parts: &[&str]) -> String {
        hex(&self.mac(parts).finalize().into_bytes())
    }

    pub(super) fn is_signed(&self, parts: &[&str], signature: &str) -> bool {
        let Some(signature) = unhex(signature) else {
            return false;
        };
        self.mac(parts).verify_slice(&signature).is_ok()
    }

    /// The `Set-Cookie` header of a new session.
    pub(super) fn session(&self, admin: &Admin, headers: &HeaderMap, path: &str) -> String {
        let now = Timestamp::now();
        let end = now.saturating_add(SESSION).unwrap_or(Timestamp::MAX);
        let end = end.as_second().to_string();
        let id = uuid_at(now.as_microsecond()).to_string();
        let name = hex(admin.name().as_bytes());
        let signature = self.sign(&["session", &name, &end, &id]);
        let value = format!("{name}.{end}.{id}.{signature}");
        let is_local = is_this_machine(headers);
        cookie(COOKIE_NAME, &value, SESSION.as_secs(), is_local, path)
    }

    /// The administrator of the first valid session cookie.
    pub(super) fn admin(&self, headers: &HeaderMap) -> Option<Admin> {
        let mut sessions = self.sessions(headers);
        sessions
            .find_map(|(admin, session)| (!self.signed_out().contains(&session)).then_some(admin))
    }

    /// Signs out the sessions in these headers. Returns the `Set-Cookie` header that deletes the cookie.
    pub(super) fn sign_out(&self, headers: &HeaderMap, path: &str) -> String {
        let sessions: Vec<_> = self.sessions(headers).map(|(_, session)| session).collect();
        self.signed_out().extend(sessions, Timestamp::now());
        cookie(COOKIE_NAME, "", 0, is_this_machine(headers), path)
    }

    /// The sessions with a valid signature that have not expired, including signed-out ones.
    fn sessions(&self, headers: &HeaderMap) -> impl Iterator<Item = (Admin, Session)> {
        cookies(headers, COOKIE_NAME).filter_map(|cookie| {
            let mut parts = cookie.split('.');
            let [name, end, id, signature] = [(); 4].map(|()| parts.next());
            let (name, end, id) = (name?, end?, id?);
            if !self.is_signed(&["session", name, end, id], signature?) {
                return None;
            }
            let session: Session = (end.parse().ok()?, id.parse().ok()?);
            let is_valid = session.0 > Timestamp::now().as_second();
            let name = String::from_utf8(unhex(name)?).ok()?;
            is_valid.then(|| (Admin::new(name), session))
        })
    }

    fn signed_out(&self) -> MutexGuard<'_, SignedOut> {
        self.signed_out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The form token (CSRF token) of an administrator.
    pub(super) fn form_token(&self, admin: &Admin) -> String {
        self.sign(&["form", admin.name()])
    }

    pub(super) fn is_form_token(&self, admin: &Admin, token: &str) -> bool {
        self.is_signed(&["form", admin.name()], token)
    }
}

/// A `Set-Cookie` header, without `Secure` if it `is_local`.
pub(super) fn cookie(name: &str, value: &str, age: i64, is_local: bool, path: &str) -> String {
    // A link may control a part of the path, which must not add cookie attributes.
    let path = match path {
        "" => "/",
        path if path.contains(';') => "/",
        path => path,
    };
    let secure = if is_local { "" } else { "; Secure" };
    format!("{name}={value}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether the browser connects to localhost, where no TLS is needed. Proxies may rewrite `Host`, so `Origin` must agree
/// if present.
pub(super) fn is_this_machine(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|it| it.to_str().unwrap_or_default());
    let host = text(HOST).unwrap_or_default();
    let without_tls = text(ORIGIN).is_none_or(|origin| {
        let origin = origin.parse::<Uri>().unwrap_or_default();
        let host = origin.authority().map(|it| it.as_str());
        origin.scheme_str() == Some("http") && host.is_some_and(is_of_this_machine)
    });
    without_tls && is_of_this_machine(host)
}

fn is_of_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// All values of the cookie with this name.
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(COOKIE)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(move |(key, value)| (key == name).then_some(value))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn sessions_and_form_tokens_cannot_be_forged() {
        let (signer, other) = (Signer::new(), Signer::new());
        let ada = Admin::new("Ada; Löve.lace=");
        let set = signer.session(&ada, &headers(HOST, "keys.example"), "/admin");
        assert!(set.ends_with("; Path=/admin; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"));
        let value = set.split(';').next().unwrap();
        let sent = headers(COOKIE, &format!("a=b; {value}"));
        assert_eq!(signer.admin(&sent), Some(ada.clone()));
        assert_eq!(other.admin(&sent), None);
        // Another name, a later expiry, and another id.
        for (part, other) in [("4164", "4264"), (".1", ".2"), ("-7", "-4")] {
            let forged = value.replacen(part, other, 1);
            assert_ne!(forged, value);
            assert_eq!(signer.admin(&headers(COOKIE, &forged)), None, "{part}");
        }
        let token = signer.form_token(&ada);
        assert!(signer.is_form_token(&ada, &token));
        assert!(!signer.is_form_token(&Admin::new("Bob"), &token));
        assert!(!signer.is_form_token(&ada, "é"));
    }

    #[test]
    fn signing_out_ends_one_session() {
        let signer = Signer::new();
        let ada = Admin::new("Ada");
        let none = HeaderMap::new();
        let [mine, other] = [(); 2].map(|()| {
            let set = signer.session(&ada, &none, "");
            headers(COOKIE, set.split(';').next().unwrap())
        });
        assert!(signer.sign_out(&mine, "").contains("=; Path=/; Max-Age=0;"));
        assert_eq!(signer.admin(&mine), None);
        assert_eq!(signer.admin(&other), Some(ada));
        let chosen = "/a;Domain=example/admin";
        assert!(signer.sign_out(&none, chosen).contains("; Path=/; Max-Age"));
        // Sessions with an invalid signature are not added to the list.
        let forged = "keytally_session=416461.99999999999.7.00";
        signer.sign_out(&headers(COOKIE, forged), "");
        assert_eq!(signer.signed_out().sessions.len(), 1);
    }

    #[test]
    fn a_full_list_of_signed_out_sessions_fails_closed() {
        let now = Timestamp::UNIX_EPOCH;
        let session = |n: i64| (SESSION.as_secs() + n, Uuid::from_u128(7));
        let mut signed_out = SignedOut::default();
        let max = MAX_SIGNED_OUT as i64;
        signed_out.extend((0..max).map(session), now);
        // Each one replaces the one that expires first.
        for n in max..max + 5 {
            signed_out.extend([session(n)], now);
        }
        assert_eq!(signed_out.sessions.len(), MAX_SIGNED_OUT);
        assert!((0..max + 5).all(|n| signed_out.contains(&session(n))));
        // Sessions that expire later than all dropped ones stay valid.
        let other = |n| (session(n).0, Uuid::from_u128(8));
        assert!((0..4).all(|n| signed_out.contains(&other(n))));
        assert!((4..max + 9).all(|n| !signed_out.contains(&other(n))));
        // A session that expires before the floor is invalid already and does not raise it.
        signed_out.extend([session(-1)], now);
        assert_eq!(signed_out.floor, Some(session(4)));
        // Expired sessions are removed, and stay invalid when the clock is set back.
        let later = now + SESSION + SignedDuration::from_secs(max + 5);
        signed_out.extend([], later);
        assert!(signed_out.sessions.is_empty());
        signed_out.extend([], now);
        assert!((0..max + 5).all(|n| signed_out.contains(&session(n))));
    }

    #[test]
    fn instances_with_the_same_key_share_sessions() {
        let (here, there) = (Signer::with([7; 32]), Signer::with([7; 32]));
        let ada = Admin::new("Ada");
        let set = here.session(&ada, &headers(HOST, "keys.example"), "/");
        let sent = headers(COOKIE, set.split(';').next().unwrap());
        assert_eq!(there.admin(&sent), Some(ada.clone()));
        assert!(there.is_form_token(&ada, &here.form_token(&ada)));
        assert_eq!(Signer::with([8; 32]).admin(&sent), None);
    }

    #[test]
    fn cookies_are_secure_except_on_localhost() {
        let signer = Signer::new();
        let ended = |headers: &[(HeaderName, &str)]| {
            let headers = headers.iter().map(|(name, value)| {
                let value = value.parse().unwrap();
                (name.clone(), value)
            });
            signer.sign_out(&HeaderMap::from_iter(headers), "")
        };
        for host in ["localhost:3000", "127.0.0.1", "[::1]:80"] {
            assert!(!ended(&[(HOST, host)]).contains("Secure"), "{host}");
        }
        let local = [(HOST, "localhost:3000"), (ORIGIN, "http://localhost:3000")];
        assert!(!ended(&local).contains("Secure"));
        for host in ["localhost.example", "10.0.0.1:3000", "127.0.0.1.example"] {
            assert!(ended(&[(HOST, host)]).contains("Secure"), "{host}");
        }
        // A proxy on the same machine that rewrites `Host`.
        for origin in [
            "https://keys.example",
            "http://keys.example",
            "https://localhost",
            "null",
        ] {
            let headers = [(HOST, "127.0.0.1:3000"), (ORIGIN, origin)];
            assert!(ended(&headers).contains("Secure"), "{origin}");
        }
    }
}
