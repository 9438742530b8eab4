//! Extractors that reject with problem details.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use jiff::Timestamp;
use serde::de::value::StringDeserializer;
use serde::de::{DeserializeOwned, Error, IntoDeserializer};
use serde::{Deserialize, Deserializer};
use serde_path_to_error::{Path as Place, Segment};
use sha2::{Digest, Sha256};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, PartialSchema};

use super::object::Object;
use super::problem::Problem;
use super::schema::names;
use crate::id::KeyId;

/// The query parameters. Unknown parameters are rejected.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes());
        let query = serde_urlencoded::Deserializer::new(pairs);
        let read = serde_path_to_error::deserialize(query).map_err(|error| {
            // For unknown and duplicate parameters, only the error message has the name.
            let name = error.path().to_string();
            let name = if name == "." {
                named(error.inner())
            } else {
                name
            };
            Problem::parameter(name, error.inner().to_string())
        });
        read.map(Self)
    }
}

/// The values of a query parameter, separated by commas.
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// The maximum number of values of a query parameter.
const MAX_VALUES: usize = 100;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let values = text.split(',').map(|value| {
            let value: StringDeserializer<D::Error> = value.to_owned().into_deserializer();
            T::deserialize(value)
        });
        let values: Vec<T> = values.take(MAX_VALUES + 1).collect::<Result<_, _>>()?;
        match values.len() {
            ..=MAX_VALUES => Ok(Self(values)),
            _ => Err(D::Error::custom(format_args!(
                "at most {MAX_VALUES} values are allowed"
            ))),
        }
    }
}

/// The name quoted in an error message of serde.
fn named(error: &impl ToString) -> String {
    let text = error.to_string();
    text.split('`').nth(1).unwrap_or_default().to_owned()
}

/// Checks that a query parameter is between 1 and `most`.
pub(crate) fn at_most(
    most: usize,
    name: &str,
    number: Option<usize>,
) -> Result<Option<usize>, Problem> {
    if number.is_some_and(|number| !(1..=most).contains(&number)) {
        return Err(Problem::parameter(
            name,
            format!("Must be between 1 and {most}."),
        ));
    }
    Ok(number)
}

/// Checks that `from` is not after `to`, if both are present.
pub(crate) fn in_order(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Problem> {
    match (from, to) {
        (Some(from), Some(to)) if from > to => {
            Err(Problem::parameter("to", "Must not be before `from`."))
        }
        _ => Ok(()),
    }
}

/// A JSON body, and the SHA-256 of its bytes.
pub(crate) struct Body<T>(pub(crate) T, pub(crate) [u8; 32]);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail =
                "Unsupported content type. Send JSON with `Content-Type: application/json`.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|error| Problem::new(error.status(), error.body_text()))?;
        let fingerprint = Sha256::digest(&bytes).into();
        Ok(Self(read(&bytes)?, fingerprint))
    }
}

/// Deserializes JSON. Syntax errors are 400; errors in the data are 422 and name the field.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Object(read) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let inner = error.inner();
        if inner.is_data() {
            Problem::field(&pointer(error.path()), inner.to_string())
        } else {
            malformed(inner)
        }
    })?;
    json.end().map_err(|error| malformed(&error))?;
    Ok(read)
}

fn malformed(error: &serde_json::Error) -> Problem {
    let detail = format!("The body is not valid JSON: {error}.");
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// A path in the body as a JSON Pointer (RFC 6901).
fn pointer(place: &Place) -> String {
    let steps = place.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    steps.collect()
}

/// The key id in the path. An invalid id is a 404.
pub(crate) struct KeyInPath(pub(crate) KeyId);

/// Extracted by name, since the path at which the API is nested may have captures too.
#[derive(Deserialize)]
struct Id {
    id: KeyId,
}

impl<S: Send + Sync> FromRequestParts<S> for KeyInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<Id>::from_request_parts(parts, state).await;
        let id = id.map(|Path(Id { id })| Self(id));
        id.map_err(|_| Problem::key_not_found())
    }
}

impl IntoParams for KeyInPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("The key id"))
            .schema(Some(names::KeyId::schema()));
        vec![id.build()]
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "a/b~c")]
        _odd: Option<Vec<u8>>,
    }

    fn problem(body: &str) -> serde_json::Value {
        let problem = read::<Sample>(body.as_bytes()).expect_err(body);
        serde_json::to_value(problem).unwrap()
    }

    #[test]
    fn errors_in_a_body_name_the_field() {
        let wrong = problem(r#"{"a/b~c":[1,"x"]}"#);
        assert_eq!(wrong["status"], 422);
        assert_eq!(wrong["errors"][0]["pointer"], "#/a~1b~0c/1");
        // Serde also deserializes structs from arrays.
        for other in ["[[1]]", "null", "7", "\"a\""] {
            let other = problem(other);
            assert_eq!(other["status"], 422);
            let detail = other["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains("expected an object"), "{detail}");
        }
        let unknown = problem(r#"{"other":1}"#);
        assert_eq!(unknown["errors"][0]["pointer"], "#/other");
        for broken in ["", "{", "{} {}", "\u{1}"] {
            assert_eq!(problem(broken)["status"], 400, "{broken}");
        }
    }

    async fn query(query: &str) -> Result<(), serde_json::Value> {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Sample {
            _limit: Option<u8>,
        }
        let request = http::Request::get(format!("/?{query}")).body(()).unwrap();
        let mut parts = request.into_parts().0;
        match Query::<Sample>::from_request_parts(&mut parts, &()).await {
            Ok(_) => Ok(()),
            Err(problem) => Err(serde_json::to_value(problem).unwrap()),
        }
    }

    #[tokio::test]
    async fn errors_in_a_query_name_the_parameter() {
        query("").await.unwrap();
        query("_limit=7").await.unwrap();
        for (wrong, name) in [
            ("_limit=x", "_limit"),
            ("_limit=300", "_limit"),
            ("_limit=1&_limit=2", "_limit"),
            ("limits=1", "limits"),
        ] {
            let problem = query(wrong).await.expect_err(wrong);
            assert_eq!(problem["status"], 400);
            assert_eq!(problem["errors"][0]["parameter"], name, "{wrong}");
        }
    }
}
