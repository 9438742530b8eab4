//! The binary format of `COPY`
//! (<https://www.postgresql.org/docs/current/sql-copy.html>).

use std::net::IpAddr;

use super::types::{Time, push_address};

/// An encoder for rows.
#[derive(Debug)]
pub(super) struct Copy(Vec<u8>);

impl Copy {
    /// Creates an encoder with capacity for rows of about 160 bytes.
    pub(super) fn new(rows: usize) -> Self {
        let mut bytes = Vec::with_capacity(64 + rows * 160);
        bytes.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
        // No flags, no header extension.
        bytes.extend_from_slice(&[0; 8]);
        Self(bytes)
    }

    /// Starts a row with this number of columns.
    pub(super) fn row(&mut self, columns: i16) -> &mut Self {
        self.0.extend_from_slice(&columns.to_be_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        // The server rejects a value that is too long.
        let length = bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes.unwrap_or_default());
        self
    }

    pub(super) fn text(&mut self, text: Option<&str>) -> &mut Self {
        self.bytes(text.map(str::as_bytes))
    }

    pub(super) fn integer(&mut self, number: impl Into<Option<i32>>) -> &mut Self {
        let number = number.into();
        self.bytes(
            number
                .map(i32::to_be_bytes)
                .as_ref()
                .map(|bytes| &bytes[..]),
        )
    }

    /// A number in two columns: an `integer`, which is NULL if the number is too large for it, and a `bigint`, which
    /// is NULL otherwise.
    pub(super) fn integer_or_bigint(&mut self, number: u64) -> &mut Self {
        match i32::try_from(number) {
            Ok(small) => self.integer(small).bigint(None),
            Err(_) => self.integer(None).bigint(number.cast_signed()),
        }
    }

    pub(super) fn bigint(&mut self, number: impl Into<Option<i64>>) -> &mut Self {
        let number = number.into();
        self.bytes(
            number
                .map(i64::to_be_bytes)
                .as_ref()
                .map(|bytes| &bytes[..]),
        )
    }

    pub(super) fn time(&mut self, micros: i64) -> &mut Self {
        self.bigint(Time(micros).to_postgres())
    }

    pub(super) fn address(&mut self, address: Option<IpAddr>) -> &mut Self {
        let mut bytes = Vec::new();
        if let Some(address) = address {
            push_address(&mut bytes, address);
        }
        self.bytes(address.map(|_| &*bytes))
    }

    /// Appends the trailer and returns the encoded rows.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&(-1_i16).to_be_bytes());
        self.0
    }
}
