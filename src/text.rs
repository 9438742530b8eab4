//! Text utilities.

/// Whether a text contains another one, ignoring case.
pub(crate) fn contains_ignoring_case(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// Whether an endpoint contains a text, ignoring case, or is a route template that matches it as a path:
/// `/v1/postings/{id}` matches `/v1/postings/7`.
pub(crate) fn endpoint_matches(endpoint: &str, text: &str) -> bool {
    contains_ignoring_case(endpoint, text) || (text.starts_with('/') && serves(endpoint, text))
}

/// Whether a route template matches a path, which may have a query.
fn serves(template: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(found)) if part.starts_with("{*") || part.starts_with('*') => {
                return !found.is_empty();
            }
            (Some(part), Some(found)) if part.starts_with(['{', ':']) => {
                if found.is_empty() {
                    return false;
                }
            }
            (Some(part), Some(found)) if part.to_lowercase() == found.to_lowercase() => {}
            _ => return false,
        }
    }
}

/// The last character boundary at or before `max`. `str::floor_char_boundary` requires Rust 1.91.
pub(crate) fn floor_char_boundary(text: &str, max: usize) -> usize {
    let end = max.min(text.len());
    (0..=end)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_match_by_part_and_by_path() {
        let template = "/v1/postings/{id}";
        for text in [
            "",
            "POSTINGS",
            "/v1/postings/{id}",
            "{id}",
            "/v1/postings/7",
            "/V1/Postings/7?page=2",
        ] {
            assert!(endpoint_matches(template, text), "{text}");
        }
        for text in [
            "posting-7",
            "/v1/postings/7/lines",
            "/v2/postings/7",
            "v1/postings/7",
        ] {
            assert!(!endpoint_matches(template, text), "{text}");
        }
        assert!(endpoint_matches("/files/{*path}", "/files/a/b"));
        assert!(!serves("/files/{*path}", "/files/"));
        assert!(endpoint_matches("/users/:id", "/users/7"));
        assert!(endpoint_matches("acme.Postings/Get", "postings/get"));
    }
}
