//! The style sheet and the script.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

fn asset(kind: &'static str, text: &'static str) -> Response {
    // They change with the crate's version alone.
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, text).into_response()
}

pub(in crate::dashboard) async fn style() -> Response {
    asset(
        "text/css; charset=utf-8",
        include_str!("../assets/style.css"),
    )
}

pub(in crate::dashboard) async fn script() -> Response {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("../assets/script.js"),
    )
}
