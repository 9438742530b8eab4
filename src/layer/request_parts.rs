//! What hooks may see of a request.

use std::fmt;

use http::{Extensions, HeaderMap, Method, Request, Uri};

/// A request without its body, as hooks of the layer see it.
#[derive(Clone, Copy)]
pub struct RequestParts<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> RequestParts<'a> {
    /// The head of a request.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// Its method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// Its address.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Its headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// What outer layers and the server left with it.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

/// Shows neither the query nor the values of headers, which may hold secrets.
impl fmt::Debug for RequestParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.keys().collect();
        f.debug_struct("RequestParts")
            .field("method", self.method)
            .field("path", &self.uri.path())
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_1_debug_shows_no_secret() {
        let request = Request::get("/path?key=secret").header("x-api-key", "secret");
        let shown = format!("{:?}", RequestParts::of(&request.body(()).unwrap()));
        assert!(shown.contains("GET") && shown.contains("/path") && shown.contains("x-api-key"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
