//! PostgreSQL types in binary format. Implemented here because the corresponding features of sqlx would change the
//! types in the application's own queries.

use std::net::IpAddr;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// The epoch of PostgreSQL, 2000-01-01, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;

/// The earliest timestamp of PostgreSQL, in 4714 BC, in microseconds since 2000.
const EARLIEST: i64 = -211_813_488_000_000_000;

/// `timestamptz`: microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) i64);

impl Time {
    /// The binary representation. Earlier times than PostgreSQL supports become `-infinity`.
    pub(super) fn to_postgres(self) -> i64 {
        let time = self.0.saturating_sub(EPOCH);
        if time < EARLIEST { i64::MIN } else { time }
    }
}

/// `uuid`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Id(pub(super) [u8; 16]);

/// `jsonb`, as text.
#[derive(Debug, Clone)]
pub(super) struct Json<T>(pub(super) T);

/// The version of the binary format of `jsonb`.
const JSONB: u8 = 1;

macro_rules! oids {
    ($($name:ty: $oid:literal, $array:literal;)*) => {$(
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_oid(Oid($oid))
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::with_oid(Oid($array))
            }
        }
    )*};
}

// The OIDs in `pg_type`, which are the same in all versions.
oids! {
    Time: 1184, 1185;
    Id: 2950, 2951;
    Json<String>: 3802, 3807;
    Json<&str>: 3802, 3807;
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.to_postgres().to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Encode<'_, Postgres> for Id {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}

impl Encode<'_, Postgres> for Json<String> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&[JSONB]);
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

/// The bytes of a value of fixed size.
fn fixed<const N: usize>(value: PgValueRef<'_>) -> Result<[u8; N], BoxDynError> {
    if value.format() != PgValueFormat::Binary {
        return Err("unexpected value in text format".into());
    }
    Ok(value.as_bytes()?.try_into()?)
}

impl Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let time = i64::from_be_bytes(fixed(value)?);
        Ok(Self(time.saturating_add(EPOCH)))
    }
}

impl Decode<'_, Postgres> for Id {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(fixed(value)?))
    }
}

impl<'r> Decode<'r, Postgres> for Json<&'r str> {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = value.as_str()?;
        let text = text.strip_prefix(char::from(JSONB));
        text.map(Self)
            .ok_or_else(|| "unsupported jsonb version".into())
    }
}

/// Appends an `inet` in binary format: family, network bits, whether it is a `cidr`, length, bytes.
pub(super) fn push_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            bytes.extend_from_slice(&[2, 32, 0, 4]);
            bytes.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            bytes.extend_from_slice(&[3, 128, 0, 16]);
            bytes.extend_from_slice(&address.octets());
        }
    }
}

/// Parses the address of an `inet` in binary format.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let (_, address) = bytes.split_at_checked(4)?;
    if let Ok(address) = <[u8; 4]>::try_from(address) {
        return Some(address.into());
    }
    <[u8; 16]>::try_from(address).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["203.0.113.7", "2001:db8::1"] {
            let mut bytes = Vec::new();
            push_address(&mut bytes, text.parse().unwrap());
            assert_eq!(address(&bytes).unwrap().to_string(), text);
        }
        assert_eq!(address(&[2, 32]), None);
        assert_eq!(address(&[2, 32, 0, 5, 1, 2, 3, 4, 5]), None);
    }

    #[test]
    fn unsupported_early_times_are_minus_infinity() {
        assert_eq!(Time(0).to_postgres(), -EPOCH);
        assert_eq!(Time(i64::MIN).to_postgres(), i64::MIN);
    }
}
