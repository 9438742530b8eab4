//! Closed sets of names, from the lists that the code itself goes by.

use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};

use crate::key::{AuditAction, KeyStatus};
use crate::usage::{Cause, Method, Outcome, Refusal, StatusClass, Width};

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

fn one_of(names: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    text().enum_values(Some(names))
}

fn one_of_or_none(names: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    let names = names.into_iter().map(Value::from);
    or_none(text()).enum_values(Some(names.chain([Value::Null])))
}

fn or_none(text: ObjectBuilder) -> ObjectBuilder {
    text.schema_type(SchemaType::from_iter([Type::String, Type::Null]))
}

pub(in super::super) fn key_id() -> ObjectBuilder {
    text()
        .pattern(Some("^[0-9A-Za-z]{16}$"))
        .examples(["3fK9aB0000zzZZ19"])
}

pub(in super::super) fn key_status() -> ObjectBuilder {
    one_of(KeyStatus::ALL.map(KeyStatus::as_str))
}

pub(in super::super) fn action() -> ObjectBuilder {
    one_of(AuditAction::ALL.map(AuditAction::as_str))
}

pub(in super::super) fn method() -> ObjectBuilder {
    one_of(Method::ALL.map(Method::as_str))
}

pub(in super::super) fn outcome() -> ObjectBuilder {
    one_of(Outcome::ALL.map(Outcome::as_str))
}

pub(in super::super) fn cause() -> ObjectBuilder {
    one_of(Cause::ALL.map(Cause::as_str))
}

pub(super) fn cause_or_none() -> ObjectBuilder {
    one_of_or_none(Cause::ALL.map(Cause::as_str))
}

pub(super) fn refusal_or_none() -> ObjectBuilder {
    one_of_or_none(Refusal::ALL.map(Refusal::as_str))
}

pub(super) fn key_id_or_none() -> ObjectBuilder {
    or_none(key_id())
}

pub(in super::super) fn status_class() -> ObjectBuilder {
    one_of(StatusClass::ALL.map(StatusClass::as_str))
}

pub(in super::super) fn status() -> ObjectBuilder {
    text()
        .pattern(Some("^([1-9][0-9]{2}|grpc-[0-9]{1,3}|none)$"))
        .examples(["200", "grpc-5", "none"])
}

pub(in super::super) fn width() -> ObjectBuilder {
    one_of(Width::ALL.map(Width::as_str))
}
