//! Credentials in a query parameter.

use http::{HeaderValue, Request, Uri};

use super::presented::Presented;

/// Reads the credential from a query parameter.
pub(super) fn in_query<'a>(uri: &'a Uri, name: &str) -> Presented<'a> {
    uri.query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .filter(|value| !value.is_empty())
        .map(|value| Presented::text(value.as_bytes()))
        .fold(Presented::Missing, Presented::and)
}

/// Removes the credential from the query.
pub(super) fn remove_from_query<B>(request: &mut Request<B>, name: &str) -> Option<HeaderValue> {
    // axum also keeps the original URI, for extractors and logs.
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = request.extensions_mut().get_mut() {
        remove_query_parameter(uri, name);
    }
    remove_query_parameter(request.uri_mut(), name)
}

fn remove_query_parameter(uri: &mut Uri, name: &str) -> Option<HeaderValue> {
    let value_of = |pair: &'_ str| -> Option<usize> {
        let value = pair.strip_prefix(name)?.strip_prefix('=')?;
        Some(pair.len() - value.len())
    };
    let query = uri.query()?;
    let pair = query.split('&').find(|pair| value_of(pair).is_some())?;
    let removed = HeaderValue::from_str(&pair[value_of(pair)?..]).ok();
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| value_of(pair).is_none())
        .collect();
    let path = uri.path();
    let rest = if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    };
    let mut parts = uri.clone().into_parts();
    // A subset of the pairs of a valid query is valid.
    parts.path_and_query = rest.parse().ok();
    // If parsing fails all the same, drop the URI rather than forward the key.
    *uri = Uri::from_parts(parts).unwrap_or_default();
    removed
}
