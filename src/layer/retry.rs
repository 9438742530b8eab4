//! Retry information for rejected gRPC calls: the pushback, after which clients retry automatically
//! ([gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md)), and
//! [`google.rpc.RetryInfo`](https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto)
//! for the application.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The value of `grpc-retry-pushback-ms` in milliseconds. `-1`, which disables retries, if the wait exceeds `max`
/// or the call's own deadline.
pub(super) fn pushback(wait: Option<Duration>, max: Duration, headers: &HeaderMap) -> HeaderValue {
    let millis = wait
        .filter(|wait| *wait <= max && deadline(headers).is_none_or(|deadline| *wait < deadline))
        .and_then(|wait| i32::try_from(wait.as_millis()).ok());
    millis.unwrap_or(-1).into()
}

/// The `grpc-timeout` of a call: at most eight digits and a unit. `None` if malformed.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The value of `grpc-status-details-bin`: a `google.rpc.Status` with a `RetryInfo`.
pub(super) fn details(code: u8, message: &str, wait: Duration) -> Option<HeaderValue> {
    let mut delay = Vec::new();
    field_varint(&mut delay, 1, wait.as_secs());
    field_varint(&mut delay, 2, wait.subsec_nanos().into());
    let mut info = Vec::new();
    field_bytes(&mut info, 1, &delay);
    let mut any = Vec::new();
    field_bytes(&mut any, 1, b"type.googleapis.com/google.rpc.RetryInfo");
    field_bytes(&mut any, 2, &info);
    let mut status = Vec::new();
    field_varint(&mut status, 1, code.into());
    field_bytes(&mut status, 2, message.as_bytes());
    field_bytes(&mut status, 3, &any);
    HeaderValue::try_from(STANDARD_NO_PAD.encode(status)).ok()
}

/// Encodes a protobuf varint field. Zero is omitted.
fn field_varint(message: &mut Vec<u8>, number: u8, value: u64) {
    if value > 0 {
        message.push(number << 3);
        varint(message, value);
    }
}

/// Encodes a protobuf string or message field.
fn field_bytes(message: &mut Vec<u8>, number: u8, value: &[u8]) {
    message.push(number << 3 | 2);
    varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushback_is_limited_by_the_maximum_and_the_deadline() {
        let second = Duration::from_secs(1);
        let pushback = |secs: Option<u64>, timeout: Option<&str>, max| {
            let timeout = timeout.map(|text| (GRPC_TIMEOUT, text.parse().unwrap()));
            let headers = HeaderMap::from_iter(timeout);
            pushback(secs.map(Duration::from_secs), max, &headers)
        };
        for (secs, timeout, max, expected) in [
            (Some(1), None, second, "1000"),
            (Some(2), None, second, "-1"),
            (None, None, second, "-1"),
            (Some(60), None, 60 * second, "60000"),
            (Some(1), None, Duration::ZERO, "-1"),
            // Exceeds an int32.
            (Some(5_184_000), None, Duration::MAX, "-1"),
            // Compared with the deadline.
            (Some(1), Some("8S"), second, "1000"),
            (Some(1), Some("1S"), second, "-1"),
            (Some(1), Some("1001m"), second, "1000"),
            (Some(1), Some("999999u"), second, "-1"),
            (Some(1), Some("99999999n"), second, "-1"),
            (Some(1), Some("99999999H"), second, "1000"),
            (Some(30), Some("1M"), 60 * second, "30000"),
            // A malformed timeout is ignored.
            (Some(1), Some("S"), second, "1000"),
            (Some(1), Some("1s"), second, "1000"),
            (Some(1), Some("100000000n"), second, "1000"),
            (Some(1), Some("-1S"), second, "1000"),
            (Some(1), Some(""), second, "1000"),
        ] {
            assert_eq!(
                pushback(secs, timeout, max),
                expected,
                "{secs:?} {timeout:?}"
            );
        }
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes, tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<Delay>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }

    #[test]
    fn details_contain_retry_info() {
        use prost::Message;

        for wait in [
            Duration::from_secs(515),
            Duration::from_nanos(1),
            Duration::from_secs(31_622_400),
            Duration::ZERO,
        ] {
            let value = details(8, "a rate limit is exceeded", wait).unwrap();
            let status = STANDARD_NO_PAD.decode(value).unwrap();
            let status = Status::decode(&*status).unwrap();
            assert_eq!(
                (status.code, &*status.message),
                (8, "a rate limit is exceeded")
            );
            let [any] = &status.details[..] else {
                panic!("expected one detail");
            };
            assert_eq!(any.type_url, "type.googleapis.com/google.rpc.RetryInfo");
            let delay = RetryInfo::decode(&*any.value).unwrap().retry_delay.unwrap();
            assert_eq!(delay.seconds, wait.as_secs() as i64);
            assert_eq!(delay.nanos, wait.subsec_nanos() as i32);
        }
    }
}
