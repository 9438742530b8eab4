//! Secrets in texts that clients choose: what is kept of those must have none.

use std::borrow::Cow;

use super::token::{BODY_LEN, HINT_LEN};

/// A text in which nothing has the form of a secret any more: of each there is only the hint. Whether
/// it is somebody's makes no difference, and nor does a checksum that is wrong.
#[inline]
pub(crate) fn without_secrets(text: &str) -> Cow<'_, str> {
    if text.len() <= BODY_LEN {
        Cow::Borrowed(text)
    } else {
        redacted(text)
    }
}

/// Whether something in the text has the form of a secret.
pub(crate) fn has_secret(text: &str) -> bool {
    matches!(without_secrets(text), Cow::Owned(_))
}

fn redacted(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut kept = 0;
    let mut redacted = String::new();
    for (underscore, _) in text.match_indices('_') {
        let body = underscore + 1;
        let is_prefix = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let behind_prefix = bytes[..underscore].last().is_some_and(is_prefix);
        let digits = bytes[body..].iter().take(BODY_LEN + 1);
        let is_body = digits.take_while(|b| b.is_ascii_alphanumeric()).count() == BODY_LEN
            && bytes.get(body + BODY_LEN) != Some(&b'_');
        if behind_prefix && is_body {
            redacted.push_str(&text[kept..body + HINT_LEN]);
            redacted.push('…');
            kept = body + BODY_LEN;
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    redacted.push_str(&text[kept..]);
    Cow::Owned(redacted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Prefix, Secret};

    #[test]
    fn rule_1_only_hints_are_left_of_secrets_in_a_text() {
        for prefix in ["a", "acme_live", "a1_2b"] {
            let secret = Secret::generate(&Prefix::new(prefix).unwrap()).unwrap();
            let (text, hint) = (secret.expose(), secret.hint());
            for (before, after) in [
                ("", ""),
                ("/v1/keys/", "/usage"),
                ("é=", ".json"),
                ("x_", "é"),
            ] {
                assert_eq!(
                    without_secrets(&format!("{before}{text}{after}")),
                    format!("{before}{hint}{after}")
                );
            }
            assert_eq!(
                without_secrets(&format!("/{text}/{text}")),
                format!("/{hint}/{hint}")
            );
            assert!(has_secret(text));
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        let digits = "0".repeat(BODY_LEN);
        for text in [
            String::new(),
            "/v1/postings/1".to_owned(),
            digits.clone(),
            format!("_{digits}"),
            format!("/_{digits}"),
            format!("A_{digits}"),
            format!("a-{digits}"),
            format!("a_{}", &digits[1..]),
            format!("a_{digits}0"),
            format!("a_{digits}_"),
            format!("a_{}é", &digits[1..]),
            "a_".repeat(100),
        ] {
            assert_eq!(without_secrets(&text), text);
            assert!(!has_secret(&text), "{text}");
        }
    }
}
