//! What the dashboard signs: the cookies of those who have signed in, and the tokens in its forms.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use http::header::{COOKIE, HOST};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

use super::guard::Admin;

/// How long somebody stays signed in.
const SESSION: SignedDuration = SignedDuration::from_hours(12);

pub(super) const COOKIE_NAME: &str = "keytally_session";

/// Signs with a key that is made anew with every process.
pub(super) struct Signer([u8; 64]);

impl Signer {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 64];
        getrandom::fill(&mut key)?;
        Ok(Self(key))
    }

    /// The MAC of parts, each with its length, so that no two lists of parts have the same.
    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.0.into());
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }

    fn sign(&self, parts: &[&str]) -> String {
        hex(&self.mac(parts).finalize().into_bytes())
    }

    fn is_signed(&self, parts: &[&str], signature: &str) -> bool {
        let Some(signature) = unhex(signature) else {
            return false;
        };
        self.mac(parts).verify_slice(&signature).is_ok()
    }

    /// The `Set-Cookie` of somebody who has signed in.
    pub(super) fn session(&self, admin: &Admin, headers: &HeaderMap, path: &str) -> String {
        let end = Timestamp::now().saturating_add(SESSION);
        let end = end.unwrap_or(Timestamp::MAX).as_second().to_string();
        let name = hex(admin.name().as_bytes());
        let signature = self.sign(&["session", &name, &end]);
        let age = SESSION.as_secs();
        cookie(&format!("{name}.{end}.{signature}"), age, headers, path)
    }

    /// Whose session this is.
    pub(super) fn admin(&self, headers: &HeaderMap) -> Option<Admin> {
        cookies(headers, COOKIE_NAME).find_map(|cookie| {
            let mut parts = cookie.split('.');
            let (name, end, signature) = (parts.next()?, parts.next()?, parts.next()?);
            let known = self.is_signed(&["session", name, end], signature);
            let lasts = end
                .parse()
                .is_ok_and(|end: i64| end > Timestamp::now().as_second());
            let name = String::from_utf8(unhex(name)?).ok()?;
            (known && lasts).then(|| Admin::named(name))
        })
    }

    /// What stands in the forms that are shown to somebody, and nowhere else.
    pub(super) fn form_token(&self, admin: &Admin) -> String {
        self.sign(&["form", admin.name()])
    }

    pub(super) fn is_form_token(&self, admin: &Admin, token: &str) -> bool {
        self.is_signed(&["form", admin.name()], token)
    }
}

/// The `Set-Cookie` that ends a session.
pub(super) fn ended(headers: &HeaderMap, path: &str) -> String {
    cookie("", 0, headers, path)
}

fn cookie(value: &str, age: i64, headers: &HeaderMap, path: &str) -> String {
    let path = if path.is_empty() { "/" } else { path };
    let secure = if is_this_machine(headers) {
        ""
    } else {
        "; Secure"
    };
    format!("{COOKIE_NAME}={value}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether the browser runs on this machine, where no TLS is needed.
fn is_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// All values of a cookie's name.
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(COOKIE)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(move |(key, value)| (key == name).then_some(value))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
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
    fn a_session_is_its_own_and_no_other() {
        let (signer, other) = (Signer::new().unwrap(), Signer::new().unwrap());
        let ada = Admin::named("Ada; Löve.lace=");
        let set = signer.session(&ada, &headers(HOST, "keys.example"), "/admin");
        assert!(set.ends_with("; Path=/admin; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"));
        let value = set.split(';').next().unwrap();
        let sent = headers(COOKIE, &format!("a=b; {value}"));
        assert_eq!(signer.admin(&sent), Some(ada.clone()));
        assert_eq!(other.admin(&sent), None);
        // Another name, a later end, and a token of another kind.
        let forged = value.replacen("4164", "4264", 1);
        assert_eq!(signer.admin(&headers(COOKIE, &forged)), None);
        let forged = value.replacen(".1", ".2", 1);
        assert_eq!(signer.admin(&headers(COOKIE, &forged)), None);
        let token = signer.form_token(&ada);
        assert!(signer.is_form_token(&ada, &token));
        assert!(!signer.is_form_token(&Admin::named("Bob"), &token));
        assert!(!signer.is_form_token(&ada, "é"));
    }

    #[test]
    fn cookies_need_no_tls_on_this_machine_alone() {
        for host in ["localhost:3000", "127.0.0.1", "[::1]:80"] {
            assert!(
                !ended(&headers(HOST, host), "").contains("Secure"),
                "{host}"
            );
        }
        for host in ["localhost.example", "10.0.0.1:3000", "127.0.0.1.example"] {
            assert!(ended(&headers(HOST, host), "").contains("Secure"), "{host}");
        }
    }
}
