//! Schemas of strings with a pattern or a closed set of values. The sets come from the types themselves.
//!
//! The public types do not implement utoipa's traits, which would make utoipa part of the public API.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::{key, usage};

macro_rules! texts {
    ($($name:ident: $text:expr;)*) => {$(
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::from($text).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

texts! {
    KeyId: form("^[0-9A-Za-z]{16}$", &["3fK9aB0000zzZZ19"]);
    Status: form("^([1-9][0-9]{2}|grpc-[0-9]{1,3}|none)$", &["200", "grpc-5", "none"]);
    StatusFilter: form("^([1-9][0-9]{2}|grpc-[0-9]{1,3}|none|[1-5]xx)$", &["429", "5xx"]);
    Scope: form(r"^[!#-\[\]-~]{1,100}$", &["orders:write"]);
    KeyStatus: one_of(key::KeyStatus::ALL.map(key::KeyStatus::as_str));
    OwnerStatus: one_of(key::OwnerStatus::ALL.map(key::OwnerStatus::as_str));
    AuditAction: one_of(key::AuditAction::ALL.map(key::AuditAction::as_str));
    Method: one_of(usage::Method::ALL.map(usage::Method::as_str));
    Outcome: one_of(usage::Outcome::ALL.map(usage::Outcome::as_str));
    Cause: one_of(usage::Cause::ALL.map(usage::Cause::as_str));
    RejectionReason: one_of(usage::RejectionReason::ALL.map(usage::RejectionReason::as_str));
    StatusClass: one_of(usage::StatusClass::ALL.map(usage::StatusClass::as_str));
    Granularity: one_of(usage::Granularity::ALL.map(usage::Granularity::as_str));
}

fn one_of(names: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String);
    text.enum_values(Some(names))
}

fn form(pattern: &str, examples: &[&str]) -> ObjectBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let examples = examples.iter().copied();
    text.pattern(Some(pattern)).examples(examples)
}
