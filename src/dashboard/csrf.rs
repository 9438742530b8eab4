//! Protection against cross-site request forgery.

use http::Uri;
use http::header::{HOST, HeaderValue, ORIGIN};
use http::request::Parts;

/// Whether an unsafe request is same-origin, or not sent by a browser. Browsers send `Sec-Fetch-Site`
/// ([Fetch Metadata](https://www.w3.org/TR/fetch-metadata/)), and older ones `Origin`.
pub(super) fn is_same_origin(parts: &Parts) -> bool {
    let header = |name: &str| parts.headers.get(name).map(HeaderValue::as_bytes);
    if let Some(site) = header("sec-fetch-site") {
        return site == b"same-origin";
    }
    let Some(origin) = parts.headers.get(ORIGIN) else {
        return true;
    };
    let origin: Option<Uri> = origin.to_str().ok().and_then(|origin| origin.parse().ok());
    let origin = origin
        .as_ref()
        .and_then(Uri::authority)
        .map(|it| it.as_str());
    // HTTP/2 has the host in the URI.
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or(parts.uri.authority().map(|it| it.as_str()));
    origin.is_some() && origin == host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_this_site(headers: &[(&str, &str)]) -> bool {
        let mut request = http::Request::post("/keys").header(HOST, "keys.example:8443");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        is_same_origin(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn cross_site_requests_are_rejected() {
        assert!(of_this_site(&[]));
        assert!(of_this_site(&[("sec-fetch-site", "same-origin")]));
        assert!(of_this_site(&[("origin", "https://keys.example:8443")]));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!of_this_site(&[("sec-fetch-site", site)]), "{site}");
        }
        for origin in [
            "https://evil.example",
            "null",
            "https://keys.example",
            "é",
            "",
        ] {
            assert!(!of_this_site(&[("origin", origin)]), "{origin}");
        }
        let both = [
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://keys.example:8443"),
        ];
        assert!(!of_this_site(&both));
    }

    #[test]
    fn http_2_requests_have_the_host_in_the_uri() {
        let post = |origin| {
            let request = http::Request::post("https://keys.example:8443/keys");
            let request = request.header(ORIGIN, origin).body(()).unwrap();
            is_same_origin(&request.into_parts().0)
        };
        assert!(post("https://keys.example:8443"));
        assert!(!post("https://evil.example"));
    }
}
