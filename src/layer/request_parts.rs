//! [`RequestParts`]: the argument of hooks.

use std::fmt;

use http::{Extensions, HeaderMap, Method, Request, Uri};

/// A request without its body, passed to the hooks of [`ApiKeyLayer`](super::ApiKeyLayer).
#[derive(Clone, Copy)]
pub struct RequestParts<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> RequestParts<'a> {
    /// Borrows the parts of a request.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// Returns the method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// Returns the URI.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Returns the headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the extensions, set by outer layers and the server.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

/// Omits the query and the values of headers, which may contain secrets.
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

    mod secret_confidentiality {
        use super::*;

        #[test]
        fn debug_shows_no_secret() {
            let request = Request::get("/path?key=secret").header("x-api-key", "secret");
            let debug = format!("{:?}", RequestParts::of(&request.body(()).unwrap()));
            assert!(
                debug.contains("GET") && debug.contains("/path") && debug.contains("x-api-key")
            );
            assert!(!debug.contains("secret"), "{debug}");
        }
    }
}
