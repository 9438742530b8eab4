//! The style sheet, the script and the icon. Their addresses name what is in them, so that browsers keep them for
//! good and still have those of a new version at once.

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

/// A file that pages load.
pub(super) struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
    version: LazyLock<String>,
}

/// The first half of a digest: enough to tell texts apart.
fn version(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Asset {
    /// Its address within the pages.
    pub(super) fn address(&self) -> String {
        format!("{}?v={}", self.path, *self.version)
    }

    fn answer(&self, uri: &Uri, headers: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", *self.version);
        // Only what was asked for by its version stays what it is.
        let named = uri.query() == Some(&format!("v={}", *self.version));
        let keep = if named {
            "public, max-age=31536000, immutable"
        } else {
            "no-cache"
        };
        let known = headers.get_all(IF_NONE_MATCH).iter();
        let known = known.filter_map(|tags| tags.to_str().ok());
        let mut known = known.flat_map(|tags| tags.split(',')).map(str::trim);
        // What compresses answers on their way makes tags weak.
        let is_known = known.any(|known| known.strip_prefix("W/").unwrap_or(known) == tag);
        let about = [(CACHE_CONTROL, keep), (ETAG, &*tag)];
        if is_known {
            return (StatusCode::NOT_MODIFIED, about).into_response();
        }
        (about, [(CONTENT_TYPE, self.kind)], self.text).into_response()
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
