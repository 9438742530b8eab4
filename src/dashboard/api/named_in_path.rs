//! Extracts the owner or the plan named in the path.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use jiff::Timestamp;
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::dashboard::owner_path::captured;
use crate::key::{Owner, Plan};
use crate::web::Problem;

/// The owner in the path, which may have no record.
pub(super) struct OwnerInPath(pub(super) String);

/// The plan in the path, which may not exist.
pub(super) struct PlanInPath(pub(super) String);

const OWNER: &str = "owner";
const PLAN: &str = "plan";

/// The name in the path, or a 400 that names the parameter.
async fn named<S: Send + Sync, E: ToString>(
    parts: &mut Parts,
    state: &S,
    name: &str,
    validate: impl FnOnce(&str) -> Result<(), E>,
) -> Result<String, Problem> {
    let captures = RawPathParams::from_request_parts(parts, state).await;
    // An empty name is not valid.
    let text = captures.ok().and_then(|it| captured(&it, name));
    let text = text.unwrap_or_default();
    let valid = validate(&text);
    valid.map_err(|error| Problem::parameter(name, error.to_string()))?;
    Ok(text)
}

impl<S: Send + Sync> FromRequestParts<S> for OwnerInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let valid = |id: &str| Owner::new(id, Timestamp::UNIX_EPOCH).validate();
        named(parts, state, OWNER, valid).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PlanInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let valid = |name: &str| Plan::new(name, Timestamp::UNIX_EPOCH).validate();
        named(parts, state, PLAN, valid).await.map(Self)
    }
}

/// Describes a name in the path. A leading `~` is not part of the name.
fn described(name: &str, text: &str, max: usize) -> Vec<Parameter> {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    let schema = schema.min_length(Some(1)).max_length(Some(max + 1));
    let prefix = "Add a `~` before `.`, `..` and names that begin with `~`.";
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(format!("{text}, percent-encoded. {prefix}")))
        .schema(Some(schema));
    vec![parameter.build()]
}

impl IntoParams for OwnerInPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        described(OWNER, "The id of the owner", 200)
    }
}

impl IntoParams for PlanInPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        described(PLAN, "The name of the plan", 100)
    }
}
