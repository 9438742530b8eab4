use std::cell::RefCell;

use super::*;

/// The number of digests computed by this thread.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Computed {
    pub(crate) sha256: usize,
    pub(crate) hmac: usize,
}

thread_local! {
    pub(crate) static COMPUTED: RefCell<Computed> = RefCell::default();
}

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn two_peppers() -> Peppers {
    let peppers = [
        ("new", &b"0123456789abcdef"[..]),
        ("old", b"fedcba9876543210"),
    ];
    Peppers::new(peppers).unwrap()
}

#[test]
fn plain_digests_are_sha256() {
    let digest = Peppers::none().digest(b"abc");
    assert_eq!(digest.to_string(), format!("sha256:{ABC}"));
    assert_eq!(Digest::from_sha256(ABC.to_uppercase()), Ok(digest));
}

#[test]
fn peppered_digests_are_hmac_sha256() {
    // RFC 4231, test case 6: a key of 131 bytes.
    let peppers = Peppers::new([("p", &[0xaa; 131][..])]).unwrap();
    let digest = peppers.digest(b"Test Using Larger Than Block-Size Key - Hash Key First");
    assert_eq!(
        digest.to_string(),
        "hmac-sha256:p:60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    );
}

#[test]
fn previous_pepper_verifies_but_is_not_used_for_new_digests() {
    let old_only = Peppers::new([("old", &b"fedcba9876543210"[..])]).unwrap();
    let digest = old_only.digest(b"secret");
    assert!(two_peppers().verify(b"secret", &digest, true));
    assert!(!two_peppers().verify(b"secreT", &digest, true));
    assert_eq!(two_peppers().digest(b"secret").pepper(), Some("new"));
    assert!(!Peppers::none().verify(b"secret", &digest, true));
}

#[test]
fn missing_key_matches_no_secret() {
    for peppers in [Peppers::none(), two_peppers()] {
        let digest = peppers.digest(b"secret");
        assert!(peppers.verify(b"secret", &digest, true));
        assert!(!peppers.verify(b"secret", &digest, false));
        assert!(!peppers.verify(b"secret", &Digest::dummy(), false));
    }
}

#[test]
fn every_pepper_verifies_its_digests() {
    let peppers = [0_u8, 1, 2, 3, 4].map(|nth| (format!("p{nth}"), [nth; 16]));
    let peppers = peppers.iter().map(|(name, pepper)| (&**name, &pepper[..]));
    let all = Peppers::new(peppers).unwrap();
    for pepper in &all.0 {
        let digest = Peppers(vec![pepper.clone()]).digest(b"secret");
        assert!(all.verify(b"secret", &digest, true));
        assert!(!all.verify(b"secreT", &digest, true));
    }
    // Its name is a prefix of the others.
    let unknown = Peppers::new([("p", &[0; 16][..])]).unwrap();
    assert!(!all.verify(b"secret", &unknown.digest(b"secret"), true));
    assert!(all.verify(b"secret", &Digest::sha256(b"secret"), true));
}

#[test]
fn conditional_select_returns_the_whole_name() {
    let longest = PepperName::new("abcdefghijklmnopqrstuvwxyz-01234").unwrap();
    for (exists, chosen) in [(0, PepperName::NONE), (1, longest)] {
        let name = PepperName::conditional_select(&PepperName::NONE, &longest, exists.into());
        assert_eq!(name.as_str(), chosen.as_str());
    }
}

mod constant_time_verification {
    use super::*;

    #[test]
    fn verification_work_is_independent_of_the_digest() {
        let unknown = Digest {
            pepper: PepperName::new("unknown").unwrap(),
            ..Digest::dummy()
        };
        let old = two_peppers()
            .0
            .pop()
            .map(|pepper| Peppers(vec![pepper]))
            .unwrap();
        for (peppers, hmac) in [(Peppers::none(), 0), (two_peppers(), 1)] {
            for digest in [
                Digest::dummy(),
                peppers.digest(b"secret"),
                Peppers::none().digest(b"secret"),
                old.digest(b"secret"),
                unknown.clone(),
            ] {
                for secret in [b"secret", b"secreT"] {
                    COMPUTED.take();
                    for exists in [true, false] {
                        let _ = peppers.verify(secret, &digest, exists);
                        assert_eq!(COMPUTED.take(), Computed { sha256: 1, hmac }, "{digest:?}");
                    }
                }
            }
        }
    }
}

/// In every encoding; the SHA-512 of "abc" is that of FIPS 180-4.
#[test]
fn hashes_of_other_systems_are_decoded() {
    let digest = Digest::sha256(b"abc");
    let bytes: [u8; 32] = from_hex(ABC.as_bytes()).unwrap();
    for text in [
        &bytes[..],
        ABC.as_bytes(),
        b"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
        b"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0",
        b"ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
    ] {
        assert_eq!(Digest::from_sha256(text), Ok(digest.clone()));
        let peppered = Digest::from_hmac_sha256("old", text).unwrap();
        assert_eq!(peppered.to_string(), format!("hmac-sha256:old:{ABC}"));
    }
    let hex = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
        2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    let digest = Digest::from_sha512(hex).unwrap();
    assert_eq!(digest, Digest::sha512(b"abc"));
    assert_eq!(digest.pepper(), None);
    assert_eq!(digest.to_string(), format!("sha512:{}", &hex[..64]));
    for other in [&hex[..127], "", &ABC[..63], &ABC[..32], &"x".repeat(40)] {
        assert_eq!(Digest::from_sha512(other), Err(INVALID));
        assert_eq!(Digest::from_sha256(other), Err(INVALID));
    }
    assert_eq!(Digest::from_sha512(ABC), Err(INVALID));
    assert_eq!(Digest::from_hmac_sha256("Old", ABC), Err(INVALID_PEPPER));
    // Each algorithm and pepper has ids of its own.
    let digests = [
        Digest::from_sha256(ABC).unwrap(),
        Digest::from_hmac_sha256("old", ABC).unwrap(),
        Digest::from_hmac_sha256("new", ABC).unwrap(),
        Digest::from_sha512([ABC, ABC].concat()).unwrap(),
    ];
    let ids: std::collections::HashSet<_> = digests.iter().map(Digest::imported_id).collect();
    assert_eq!(ids.len(), digests.len());
    // No secret has a digest of another algorithm.
    assert!(!Peppers::none().verify(b"abc", &digest, true));
    assert!(!two_peppers().verify(b"abc", &digest, true));
}

#[test]
fn digests_round_trip_as_text() {
    let digests = [
        Peppers::none().digest(b"a"),
        two_peppers().digest(b"a"),
        Digest::sha512(b"a"),
    ];
    for digest in digests {
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
    let hex = "0".repeat(64);
    for text in [
        String::new(),
        hex.clone(),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:g{}", &hex[1..]),
        format!("hmac-sha256:{hex}"),
        format!("hmac-sha256:A:{hex}"),
        format!("sha256:{}é", &hex[2..]),
    ] {
        assert_eq!(text.parse::<Digest>(), Err(INVALID), "{text}");
    }
}

mod secret_confidentiality {
    use super::*;

    #[test]
    fn debug_output_has_neither_digest_nor_pepper() {
        let debug = format!("{:?} {:?}", two_peppers().digest(b"a"), two_peppers());
        assert_eq!(debug, r#"Digest(hmac-sha256:new) ["new", "old"]"#);
    }
}

#[test]
fn invalid_peppers_are_rejected() {
    let reason = |name, pepper| {
        let pepper: &[u8] = pepper;
        let peppers = Peppers::new([("new", &b"0123456789abcdef"[..]), (name, pepper)]);
        peppers.unwrap_err().reason
    };
    assert!(reason("New", b"0123456789abcdef").contains("a-z"));
    assert!(reason("new", b"0123456789abcdef").contains("unique"));
    assert!(reason("x", b"0123456789abcde").contains("16 bytes"));
}
