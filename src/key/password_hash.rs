//! Password hashes of imported secrets: bcrypt and Argon2.

use argon2::{Argon2, PasswordVerifier};

use super::digest::MAX_PASSWORD_HASH;
use crate::parse_error::ParseError;

/// The highest accepted cost of a bcrypt hash: about two seconds.
const MAX_BCRYPT_COST: u32 = 15;
/// The highest accepted memory of an Argon2 hash, in KiB: 256 MiB.
const MAX_ARGON2_KIB: u32 = 256 << 10;
/// The highest accepted number of passes over the memory of an Argon2 hash.
const MAX_ARGON2_PASSES: u32 = 64;

const INVALID: ParseError = ParseError::new(
    "invalid password hash: expected bcrypt with a cost of at most 15, or Argon2 with at most 256 MiB and 64 passes",
);

/// Checks that a hash can be verified, and at a bounded cost.
///
/// # Errors
///
/// [`ParseError`] for other algorithms, malformed hashes and excessive parameters.
pub(super) fn check(hash: &str) -> Result<(), ParseError> {
    let is_printable = hash.bytes().all(|b| b.is_ascii_graphic());
    if hash.len() > MAX_PASSWORD_HASH || !is_printable {
        return Err(INVALID);
    }
    if is_bcrypt(hash) {
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| INVALID)?;
        return match parts.get_cost() {
            4..=MAX_BCRYPT_COST => Ok(()),
            _ => Err(INVALID),
        };
    }
    let parsed = argon2::PasswordHash::new(hash).map_err(|_| INVALID)?;
    let params = argon2::Params::try_from(&parsed).map_err(|_| INVALID)?;
    let is_argon2 = argon2::Algorithm::try_from(parsed.algorithm.as_str()).is_ok();
    let is_bounded = params.m_cost() <= MAX_ARGON2_KIB && params.t_cost() <= MAX_ARGON2_PASSES;
    match is_argon2 && is_bounded && parsed.hash.is_some() {
        true => Ok(()),
        false => Err(INVALID),
    }
}

/// Whether a secret has this hash. Takes as long as its parameters demand.
pub(crate) fn verify(secret: &[u8], hash: &str) -> bool {
    if check(hash).is_err() {
        return false;
    }
    if is_bcrypt(hash) {
        return bcrypt::verify(secret, hash).unwrap_or(false);
    }
    Argon2::default().verify_password(secret, hash).is_ok()
}

fn is_bcrypt(hash: &str) -> bool {
    hash.starts_with("$2")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"Q2mZ8yT0.vXw5LrJ9cNf3Kp7DhS1uB6eA";
    const BCRYPT: &str = "$2b$04$GzD1Xp3M0iJhooUEiCP30.WZMyKZxoC6qECYjsf.IXo4SIxpYRRWm";
    const ARGON2: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$YO+q0rHmE+7oTn7RgQbUyML89eccvDr1I3CCXc2pElc";

    #[test]
    fn hashes_of_other_implementations_are_verified() {
        for hash in [BCRYPT, &BCRYPT.replace("$2b$", "$2y$"), ARGON2] {
            assert_eq!(check(hash), Ok(()), "{hash}");
            assert!(verify(SECRET, hash), "{hash}");
            assert!(!verify(&SECRET[1..], hash), "{hash}");
        }
    }

    #[test]
    fn other_and_expensive_hashes_are_rejected() {
        let argon2 = |from: &str, to: &str| ARGON2.replace(from, to);
        for hash in [
            "",
            "$",
            "$2b$",
            "pbkdf2_sha256$1000$salt$hash",
            "$5$rounds=1000$salt$hash",
            &BCRYPT.replace("$04$", "$16$"),
            &BCRYPT.replace("$04$", "$99$"),
            &BCRYPT[..BCRYPT.len() - 1],
            &argon2("m=8", "m=4194304"),
            &argon2("t=1", "t=1000"),
            &argon2("argon2id", "argon2x"),
            &argon2("argon2id", "scrypt"),
            &format!("{ARGON2}{}", "A".repeat(600)),
        ] {
            assert_eq!(check(hash), Err(INVALID), "{hash}");
            assert!(!verify(SECRET, hash), "{hash}");
        }
    }
}
