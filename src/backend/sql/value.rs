//! Values of columns, and back.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Error as SqlError;

use crate::key::{Key, KeyRecord};
use crate::usage::Status;

/// A column holds what no version of this crate has written.
pub(in crate::backend) fn decode(error: impl Into<Box<dyn Error + Send + Sync>>) -> SqlError {
    SqlError::Decode(error.into())
}

/// Reads a text back.
pub(in crate::backend) fn parsed<T: FromStr>(text: &str) -> Result<T, SqlError>
where
    T::Err: Into<Box<dyn Error + Send + Sync>>,
{
    text.parse().map_err(decode)
}

/// As JSON; for types that always have one.
pub(in crate::backend) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(in crate::backend) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, SqlError> {
    serde_json::from_str(text).map_err(decode)
}

/// A time that is kept in whole microseconds.
pub(in crate::backend) fn as_micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// The last whole microsecond up to a time.
pub(in crate::backend) fn floor_micros(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond().div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// The first whole microsecond from a time on.
pub(in crate::backend) fn ceil_micros(time: Timestamp) -> i64 {
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

pub(in crate::backend) fn status(http: Option<i64>, grpc: Option<i64>) -> Result<Status, SqlError> {
    Ok(match (http, grpc) {
        (None, None) => Status::None,
        (Some(code), None) => Status::Http(u16::try_from(code).map_err(decode)?),
        (None, Some(code)) => Status::Grpc(u8::try_from(code).map_err(decode)?),
        (Some(_), Some(_)) => return Err(decode("a status of both HTTP and gRPC")),
    })
}

/// A key's record, column by column.
pub(in crate::backend) struct KeyRow {
    pub(in crate::backend) id: String,
    pub(in crate::backend) name: String,
    /// The name in lower case, as the list's filter compares it.
    pub(in crate::backend) name_folded: String,
    pub(in crate::backend) owner: Option<String>,
    pub(in crate::backend) environment: Option<String>,
    pub(in crate::backend) scopes: String,
    pub(in crate::backend) limits: String,
    pub(in crate::backend) addresses: String,
    pub(in crate::backend) metadata: String,
    pub(in crate::backend) created: i64,
    pub(in crate::backend) expires: Option<i64>,
    pub(in crate::backend) disabled: bool,
    pub(in crate::backend) revoked: Option<i64>,
    pub(in crate::backend) rotated_from: Option<String>,
    pub(in crate::backend) line: String,
    pub(in crate::backend) last_used: Option<i64>,
    pub(in crate::backend) hint: String,
    pub(in crate::backend) digest: String,
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRow")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl From<&KeyRecord> for KeyRow {
    fn from(record: &KeyRecord) -> Self {
        let key = &record.key;
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            name_folded: key.name.to_lowercase(),
            owner: key.owner.as_deref().map(str::to_owned),
            environment: key.environment.clone(),
            scopes: to_json(&key.scopes),
            limits: to_json(&key.limits),
            addresses: to_json(&key.addresses),
            metadata: to_json(&key.metadata),
            created: as_micros(key.created),
            expires: key.expires.map(as_micros),
            disabled: key.disabled,
            revoked: key.revoked.map(as_micros),
            rotated_from: key.rotated_from.map(|id| id.to_string()),
            line: key.line.to_string(),
            last_used: key.last_used.map(as_micros),
            hint: key.hint.clone(),
            digest: record.digest.to_string(),
        }
    }
}

impl TryFrom<KeyRow> for KeyRecord {
    type Error = SqlError;

    fn try_from(row: KeyRow) -> Result<Self, SqlError> {
        let time = |micros: Option<i64>| micros.map(timestamp).transpose();
        let created = timestamp(row.created)?;
        let mut key = Key::new(parsed(&row.id)?, row.name, created);
        key.owner = row.owner.map(Into::into);
        key.environment = row.environment;
        key.scopes = from_json(&row.scopes)?;
        key.limits = from_json(&row.limits)?;
        key.addresses = from_json(&row.addresses)?;
        key.metadata = from_json(&row.metadata)?;
        key.expires = time(row.expires)?;
        key.disabled = row.disabled;
        key.revoked = time(row.revoked)?;
        key.rotated_from = row.rotated_from.as_deref().map(parsed).transpose()?;
        key.line = parsed(&row.line)?;
        key.last_used = time(row.last_used)?;
        key.hint = row.hint;
        let digest = parsed(&row.digest)?;
        Ok(Self { key, digest })
    }
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
            assert_eq!(
                (floor_micros(time), ceil_micros(time)),
                (floor, ceil),
                "{nanos}"
            );
        }
        for time in [Timestamp::MIN, Timestamp::MAX] {
            assert!(floor_micros(time) <= ceil_micros(time));
        }
    }

    #[test]
    fn every_status_reads_back() {
        for it in [
            Status::None,
            Status::Http(7),
            Status::Http(u16::MAX),
            Status::Grpc(16),
        ] {
            let (http, grpc) = status_codes(it);
            assert_eq!(status(http, grpc).unwrap(), it);
        }
        for (http, grpc) in [
            (Some(70_000), None),
            (Some(-1), None),
            (None, Some(256)),
            (Some(1), Some(1)),
        ] {
            assert!(status(http, grpc).is_err());
        }
    }
}
