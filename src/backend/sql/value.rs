//! Values of columns, and back.

use std::error::Error;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use sqlx::Error as SqlError;

use super::engine::Row;
use crate::usage::Status;

/// A column holds what no version of this crate has written.
pub(in crate::backend) fn decode(error: impl Into<Box<dyn Error + Send + Sync>>) -> SqlError {
    SqlError::Decode(error.into())
}

/// Reads a text back.
pub(super) fn parsed<T: FromStr>(text: &str) -> Result<T, SqlError>
where
    T::Err: Into<Box<dyn Error + Send + Sync>>,
{
    text.parse().map_err(decode)
}

/// Reads the name of a member of a closed set.
pub(super) fn named<'de, T: Deserialize<'de>>(name: &'de str) -> Result<T, SqlError> {
    let name: StrDeserializer<'de, NameError> = name.into_deserializer();
    T::deserialize(name).map_err(decode)
}

/// As JSON; for types that always have one.
pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, SqlError> {
    serde_json::from_str(text).map_err(decode)
}

/// A time that is kept in whole microseconds.
pub(in crate::backend) fn as_micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// The last whole microsecond up to a time.
pub(super) fn floor_micros(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond().div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// The first whole microsecond from a time on.
pub(super) fn ceil_micros(time: Timestamp) -> i64 {
    let floor = floor_micros(time);
    floor + i64::from(time.as_nanosecond().rem_euclid(1_000) > 0)
}

pub(in crate::backend) fn timestamp(micros: i64) -> Result<Timestamp, SqlError> {
    Timestamp::from_microsecond(micros).map_err(decode)
}

/// A status as the code of HTTP or that of gRPC; neither where there was no answer.
pub(in crate::backend) fn status_codes(status: Status) -> (Option<i64>, Option<i64>) {
    match status {
        Status::None => (None, None),
        Status::Http(code) => (Some(code.into()), None),
        Status::Grpc(code) => (None, Some(code.into())),
    }
}

/// The status that a row has.
pub(super) fn status(row: &impl Row) -> Result<Status, SqlError> {
    Ok(
        match (row.integer("http_status")?, row.integer("grpc_status")?) {
            (None, None) => Status::None,
            (Some(code), None) => Status::Http(u16::try_from(code).map_err(decode)?),
            (None, Some(code)) => Status::Grpc(u8::try_from(code).map_err(decode)?),
            (Some(_), Some(_)) => return Err(decode("a status of both HTTP and gRPC")),
        },
    )
}

/// What a column that is never empty has.
pub(super) fn there<T>(value: Option<T>) -> Result<T, SqlError> {
    value.ok_or_else(|| decode("a column is empty"))
}

pub(super) fn text(row: &impl Row, column: &str) -> Result<String, SqlError> {
    Ok(there(row.text(column)?)?.into())
}

pub(super) fn number(row: &impl Row, column: &str) -> Result<u64, SqlError> {
    u64::try_from(there(row.integer(column)?)?).map_err(decode)
}

pub(super) fn time(row: &impl Row, column: &str) -> Result<Timestamp, SqlError> {
    timestamp(there(row.time(column)?)?)
}

pub(super) fn optional_time(row: &impl Row, column: &str) -> Result<Option<Timestamp>, SqlError> {
    row.time(column)?.map(timestamp).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_cut_the_right_way_before_1970_too() {
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
