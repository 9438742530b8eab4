//! The error type of configuration.

use std::borrow::Cow;

/// A setting has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {reason}")]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The name of the setting.
    pub field: &'static str,
    /// The constraint that the value violates, or a description of valid values.
    pub reason: Cow<'static, str>,
}

impl InvalidConfig {
    pub(crate) fn new(field: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        let reason = reason.into();
        Self { field, reason }
    }
}
