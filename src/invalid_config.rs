//! The error of configuration.

use std::borrow::Cow;

/// A setting with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {reason}")]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The setting.
    pub field: &'static str,
    /// What a valid value is.
    pub reason: Cow<'static, str>,
}

impl InvalidConfig {
    pub(crate) fn new(field: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        let reason = reason.into();
        Self { field, reason }
    }
}
