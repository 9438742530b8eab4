//! The error of names.

/// The error returned when a string is not the name of a [`Method`](crate::usage::Method), a
/// [`Status`](crate::usage::Status), a [`StatusClass`](crate::usage::StatusClass), a
/// [`Granularity`](crate::usage::Granularity) or an [`AuditAction`](crate::key::AuditAction).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{text}`")]
pub struct UnknownName {
    what: &'static str,
    text: Box<str>,
}

impl UnknownName {
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        // The text comes from clients: bound what the error retains and logs.
        let text = text.chars().take(40).collect::<String>().into();
        Self { what, text }
    }
}
