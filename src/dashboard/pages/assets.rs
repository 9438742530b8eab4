//! The style sheet, the script and the icon. Their URLs contain a digest of the content, so that browsers can cache them
//! indefinitely.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode, Uri};
use sha2::{Digest, Sha256};

pub(super) static STYLE: Asset = Asset {
    path: "/assets/style.css",
    kind: "text/css; charset=utf-8",
    text: include_str!("../assets/style.css"),
    version: LazyLock::new(|| version(include_str!("../assets/style.css"))),
};

pub(super) static SCRIPT: Asset = Asset {
    path: "/assets/script.js",
    kind: "text/javascript; charset=utf-8",
    text: include_str!("../assets/script.js"),
    version: LazyLock::new(|| version(include_str!("../assets/script.js"))),
};

pub(super) static ICON: Asset = Asset {
    path: "/assets/icon.svg",
    kind: "image/svg+xml",
    text: include_str!("../assets/icon.svg"),
    version: LazyLock::new(|| version(include_str!("../assets/icon.svg"))),
};

/// A static file.
pub(super) struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
    version: LazyLock<String>,
}

/// The first 8 bytes of the SHA-256 digest, in hexadecimal.
fn version(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Asset {
    /// The URL, relative to the base path.
    pub(super) fn address(&self) -> String {
        format!("{}?v={}", self.path, *self.version)
    }

    fn answer(&self, uri: &Uri, headers: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", *self.version);
        // Only a URL with the version is immutable.
        let is_versioned = uri.query() == Some(&format!("v={}", *self.version));
        let cache_control = if is_versioned {
            "public, max-age=31536000, immutable"
        } else {
            "no-cache"
        };
        let known = headers.get_all(IF_NONE_MATCH).iter();
        let known = known.filter_map(|tags| tags.to_str().ok());
        let mut known = known.flat_map(|tags| tags.split(',')).map(str::trim);
        // Compressing proxies weaken the tag.
        let is_known = known.any(|known| known.strip_prefix("W/").unwrap_or(known) == tag);
        let headers = [(CACHE_CONTROL, cache_control), (ETAG, &*tag)];
        if is_known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, [(CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

pub(in crate::dashboard) async fn style(uri: Uri, headers: HeaderMap) -> Response {
    STYLE.answer(&uri, &headers)
}

pub(in crate::dashboard) async fn script(uri: Uri, headers: HeaderMap) -> Response {
    SCRIPT.answer(&uri, &headers)
}

pub(in crate::dashboard) async fn icon(uri: Uri, headers: HeaderMap) -> Response {
    ICON.answer(&uri, &headers)
}
