//! Where the API is.

/// Its path below that of the pages.
pub(in crate::dashboard) const PATH: &str = "/api";

/// Whether an address below where the pages are is the API's.
pub(in crate::dashboard) fn is_at(path: &str) -> bool {
    let rest = path.strip_prefix(PATH);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
