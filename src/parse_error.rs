//! The error of parsing.

use std::borrow::Cow;

/// A text is not a valid value of its type, such as a malformed key id or an unknown status. The message never
/// contains a secret.
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

    /// An error that quotes the text, which is not the name of a `what`.
    pub(crate) fn unknown(what: &str, text: &str) -> Self {
        Self::quoting(text, |text| format!("unknown {what} `{text}`"))
    }

    /// An error with a message about the text. The text comes from clients: the message gets the first 60 characters.
    pub(crate) fn quoting(text: &str, message: impl FnOnce(&str) -> String) -> Self {
        let text: String = text.chars().take(60).collect();
        Self {
            message: message(&text).into(),
        }
    }
}
