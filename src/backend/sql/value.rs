//! Conversions between Rust values and columns.

use std::error::Error;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use sqlx::Error as SqlError;

use super::engine::Row;
use super::series_rollup::{Amounts, Series};
use crate::usage::Status;

/// The error for a column value that this crate did not write.
pub(in crate::backend) fn decode(error: impl Into<Box<dyn Error + Send + Sync>>) -> SqlError {
    SqlError::Decode(error.into())
}

/// Parses a text column.
pub(super) fn parsed<T: FromStr>(text: &str) -> Result<T, SqlError>
where
    T::Err: Into<Box<dyn Error + Send + Sync>>,
{
    text.parse().map_err(decode)
}

/// Parses the serialized name of an enum variant.
pub(super) fn parse_name<'de, T: Deserialize<'de>>(name: &'de str) -> Result<T, SqlError> {
    let name: StrDeserializer<'de, NameError> = name.into_deserializer();
    T::deserialize(name).map_err(decode)
}

/// Serializes a type that cannot fail to serialize.
pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, SqlError> {
    serde_json::from_str(text).map_err(decode)
}

/// A time in microseconds since 1970. Stored times are whole microseconds.
pub(in crate::backend) fn as_micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// Rounds a time down to microseconds.
pub(super) fn floor_micros(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond().div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// Rounds a time up to microseconds.
pub(super) fn ceil_micros(time: Timestamp) -> i64 {
    let floor = floor_micros(time);
    floor + i64::from(time.as_nanosecond().rem_euclid(1_000) > 0)
}

pub(in crate::backend) fn timestamp(micros: i64) -> Result<Timestamp, SqlError> {
    Timestamp::from_microsecond(micros).map_err(decode)
}

/// The HTTP status and the gRPC code of a status; neither without a response.
pub(in crate::backend) fn status_codes(status: Status) -> (Option<i64>, Option<i64>) {
    match status {
        Status::None => (None, None),
        Status::Http(code) => (Some(code.into()), None),
        Status::Grpc(code) => (None, Some(code.into())),
    }
}

/// The status of a row.
pub(super) fn status(row: &impl Row) -> Result<Status, SqlError> {
    Ok(
        match (row.integer("http_status")?, row.integer("grpc_status")?) {
            (None, None) => Status::None,
            (Some(code), None) => Status::Http(u16::try_from(code).map_err(decode)?),
            (None, Some(code)) => Status::Grpc(u8::try_from(code).map_err(decode)?),
            (Some(_), Some(_)) => return Err(decode("a row has both an HTTP and a gRPC status")),
        },
    )
}

/// The value of a column or row that must not be missing.
pub(super) fn required<T>(value: Option<T>) -> Result<T, SqlError> {
    value.ok_or_else(|| decode("unexpected NULL or missing row"))
}

pub(super) fn text(row: &impl Row, column: &str) -> Result<String, SqlError> {
    Ok(required(row.text(column)?)?.into())
}

pub(super) fn number(row: &impl Row, column: &str) -> Result<u64, SqlError> {
    u64::try_from(required(row.integer(column)?)?).map_err(decode)
}

pub(super) fn time(row: &impl Row, column: &str) -> Result<Timestamp, SqlError> {
    timestamp(required(row.time(column)?)?)
}

pub(super) fn optional_time(row: &impl Row, column: &str) -> Result<Option<Timestamp>, SqlError> {
    row.time(column)?.map(timestamp).transpose()
}

/// The caller and the kind of a row.
pub(super) fn series(row: &impl Row) -> Result<Series, SqlError> {
    let id = |column: &str| i32::try_from(required(row.integer(column)?)?).map_err(decode);
    Ok(Series {
        caller: id("caller_id")?,
        kind: id("kind_id")?,
    })
}

/// The amounts of a row, except for latencies.
pub(super) fn amounts(row: &impl Row) -> Result<Amounts, SqlError> {
    Ok(Amounts {
        count: number(row, "count")?,
        cost: number(row, "cost")?,
        request_bytes: number(row, "request_bytes")?,
        response_bytes: number(row, "response_bytes")?,
        ..Amounts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_and_ceil_are_correct_before_1970() {
        for (nanos, floor, ceil) in [
            (-1_001, -2, -1),
            (-1_000, -1, -1),
            (-1, -1, 0),
            (0, 0, 0),
            (1, 0, 1),
            (1_000, 1, 1),
        ] {
            let time = Timestamp::from_nanosecond(nanos).unwrap();
            assert_eq!((floor_micros(time), ceil_micros(time)), (floor, ceil));
        }
    }
}
