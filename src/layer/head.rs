//! What hooks may see of a request.

use http::{Extensions, HeaderMap, Method, Request, Uri};

/// A request without its body, as hooks of the layer see it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
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
