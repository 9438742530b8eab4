//! The error of parsing.

use std::borrow::Cow;

/// The maximum number of characters quoted: fewer than the public part of any secret, which may be pasted anywhere.
const MAX_QUOTED: usize = 16;

/// An error of parsing: the text is not a valid value of its type, such as a malformed key id or an unknown status.
///
/// The message quotes at most the first 16 characters of the text, which contain nothing secret of an API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    message: Cow<'static, str>,
}

impl ParseError {
    pub(crate) const fn new(message: &'static str) -> Self {
        Self {
            message: Cow::Borrowed(message),
        }
    }

    /// The error for a text that is not the name of a `what`.
    pub(crate) fn unknown(what: &str, text: &str) -> Self {
        Self::quoting(text, |text| format!("unknown {what} `{text}`"))
    }

    /// An error with a message about the beginning of the text.
    pub(crate) fn quoting(text: &str, message: impl FnOnce(&str) -> String) -> Self {
        let message = match text.char_indices().nth(MAX_QUOTED) {
            Some((end, _)) => message(&format!("{}…", &text[..end])),
            None => message(text),
        };
        Self {
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    mod secret_confidentiality {
        use super::*;

        #[test]
        fn long_texts_are_quoted_in_part() {
            let error = ParseError::unknown("status", "ä".repeat(17).as_str());
            assert_eq!(
                error.to_string(),
                format!("unknown status `{}…`", "ä".repeat(16))
            );
            let error = ParseError::unknown("status", "sixteen letters!");
            assert_eq!(error.to_string(), "unknown status `sixteen letters!`");
            // The shortest prefix, so that the quoted part is as long as possible.
            let secret =
                crate::key::Secret::generate(&crate::key::Prefix::new("a").unwrap()).unwrap();
            let public = format!("a_{}", secret.id());
            for error in [
                secret.expose().parse::<crate::usage::Status>().unwrap_err(),
                secret
                    .expose()
                    .parse::<crate::usage::Granularity>()
                    .unwrap_err(),
                crate::key::AddressList::parse([secret.expose()]).unwrap_err(),
            ] {
                let text = error.to_string();
                let quoted = text.split('`').nth(1).unwrap().trim_end_matches('…');
                assert!(public.starts_with(quoted), "{text}");
            }
        }
    }
}
