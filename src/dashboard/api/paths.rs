//! The path of the API.

/// The path of the API, relative to the dashboard.
pub(in crate::dashboard) const PATH: &str = "/api";

/// Whether a path, relative to the dashboard, is part of the API.
pub(in crate::dashboard) fn is_at(path: &str) -> bool {
    let rest = path.strip_prefix(PATH);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
