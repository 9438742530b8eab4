//! Why requests failed, in plain words.

use std::borrow::Cow;
use std::cmp::Reverse;

use http::StatusCode;

use crate::usage::{Cause, Outcome, RejectionReason, Status, StatusClass, Summary, UsageEvent};

/// The field of the request log that filters by [`Cause`] or [`RejectionReason`]. Their names are distinct.
pub(super) const FIELD: &str = "cause";

/// Failed requests with the same cause.
pub(super) struct FailureCause {
    pub(super) label: String,
    pub(super) count: u64,
    /// The values of the log's `cause` and `code` fields. `None` if no filter selects these requests.
    pub(super) filter: Option<(&'static str, String)>,
}

/// The causes of the failed requests of a summary, the most frequent first. They add up to all failed requests.
pub(super) fn of_summary(summary: &Summary) -> Vec<FailureCause> {
    let mut causes = Vec::new();
    let mut add = |label: String, count: u64, filter| {
        if count > 0 {
            causes.push(FailureCause {
                label,
                count,
                filter,
            });
        }
    };
    let mut without_reason = summary.totals.failed_by(Cause::Rejected);
    for (&reason, totals) in &summary.by_rejection_reason {
        let count = totals.failed_by(Cause::Rejected);
        without_reason = without_reason.saturating_sub(count);
        add(
            of_rejection(reason).into(),
            count,
            Some((reason.as_str(), String::new())),
        );
    }
    // Usage of before schema version 4 has no reasons, which the log may have.
    add("Rejected".into(), without_reason, None);
    for (&status, totals) in &summary.by_status {
        for cause in [Cause::ClientError, Cause::ServerError] {
            let label = match code(status) {
                Some(code) => format!("{} ({code})", of_status(cause, status)),
                None => of_status(cause, status).into(),
            };
            let filter = Some((cause.as_str(), status.to_string()));
            add(label, totals.failed_by(cause), filter);
        }
    }
    let cancelled = Some((Cause::Cancelled.as_str(), String::new()));
    add(
        "Cancelled".into(),
        summary.totals.failed_by(Cause::Cancelled),
        cancelled,
    );
    add("Other".into(), summary.totals.failed_by(None), None);
    causes.sort_by_key(|cause| Reverse(cause.count));
    causes
}

/// Why a request failed or was limited.
pub(super) fn of_event(event: &UsageEvent) -> Option<Cow<'static, str>> {
    if let Some(reason) = event.rejection_reason {
        return Some(of_rejection(reason).into());
    }
    match (event.outcome, event.cause) {
        (Outcome::Completed, _) => None,
        (Outcome::RateLimited, _) => Some("Rate limited".into()),
        (Outcome::Failed, None) => Some("Other".into()),
        (Outcome::Failed, Some(cause @ (Cause::ClientError | Cause::ServerError))) => {
            Some(of_status(cause, event.status))
        }
        (Outcome::Failed, Some(cause)) => Some(of_cause(cause).into()),
    }
}

/// The value of the log's `cause` field that selects requests with the cause of this one.
pub(super) fn filter_of(event: &UsageEvent) -> Option<&'static str> {
    let reason = event.rejection_reason.map(|reason| reason.as_str());
    reason.or(event.cause.map(|cause| cause.as_str()))
}

/// Why a request failed or was limited, in a sentence.
pub(super) fn explanation(event: &UsageEvent) -> Option<&'static str> {
    if let Some(reason) = event.rejection_reason {
        return Some(explanation_of(reason));
    }
    match (event.outcome, event.cause) {
        (Outcome::Completed, _) => None,
        (Outcome::RateLimited, _) => Some(explanation_of(RejectionReason::RateLimited)),
        (Outcome::Failed, Some(Cause::Rejected)) => {
            Some("The request was rejected before it reached the service.")
        }
        (Outcome::Failed, Some(Cause::ClientError)) => {
            Some("The service responded that the request is invalid or cannot be fulfilled.")
        }
        (Outcome::Failed, Some(Cause::ServerError)) if event.status == Status::None => {
            Some("The service failed before it sent a response.")
        }
        (Outcome::Failed, Some(Cause::ServerError)) => {
            Some("The service responded with an internal error.")
        }
        (Outcome::Failed, Some(Cause::Cancelled)) => Some(
            "The client disconnected or the service shut down before the response was complete.",
        ),
        (Outcome::Failed, None) => Some("The application classified the request as failed."),
    }
}

fn explanation_of(reason: RejectionReason) -> &'static str {
    match reason {
        RejectionReason::Missing => "The request had no API key.",
        RejectionReason::Malformed => {
            "The credential is not an API key of this service, or it is incomplete: its checksum is wrong."
        }
        RejectionReason::Ambiguous => "The request had two different API keys.",
        RejectionReason::Unknown => "No API key has this ID. It may have been deleted.",
        RejectionReason::WrongSecret => "The API key exists, but the secret is wrong.",
        RejectionReason::Disabled => "The API key was disabled. Enable it to accept its requests.",
        RejectionReason::Revoked => "The API key was revoked. Generate another one.",
        RejectionReason::Expired => {
            "The API key had expired. Change its expiry date or generate another one."
        }
        RejectionReason::OwnerSuspended => {
            "The owner of the API key is suspended. Resume the owner to accept its requests."
        }
        RejectionReason::ClientIp => {
            "The client's IP address is unknown or not among the allowed IPs of the API key."
        }
        RejectionReason::Scope => "The API key lacks a scope that the endpoint requires.",
        RejectionReason::RateLimited => "The API key exceeded a rate limit.",
        RejectionReason::StoreUnavailable => {
            "The API key could not be verified: the key store was unavailable."
        }
        RejectionReason::LimiterUnavailable => {
            "The rate limit could not be checked: the rate limiter was unavailable."
        }
        RejectionReason::RecorderFull => {
            "The request could not be recorded: the usage recorder was full or shut down."
        }
        RejectionReason::LookupLimit => {
            "The client's IP address exceeded the limit of failed lookups."
        }
    }
}

/// The choices of the log's `cause` field.
pub(super) fn choices() -> impl Iterator<Item = (&'static str, &'static str)> {
    let reasons = RejectionReason::ALL.into_iter();
    let reasons = reasons.map(|reason| (reason.as_str(), of_rejection(reason)));
    let causes = Cause::ALL.into_iter();
    causes
        .map(|cause| (cause.as_str(), of_cause(cause)))
        .chain(reasons)
}

/// The name of an outcome.
pub(super) fn label_of_outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "Completed",
        Outcome::Failed => "Failed",
        Outcome::RateLimited => "Rate limited",
    }
}

fn of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Rejected => "Rejected",
        Cause::ClientError => "Client error",
        Cause::ServerError => "Server error",
        Cause::Cancelled => "Cancelled",
    }
}

pub(super) fn of_rejection(reason: RejectionReason) -> &'static str {
    match reason {
        RejectionReason::Missing => "No key",
        RejectionReason::Malformed => "Malformed key",
        RejectionReason::Ambiguous => "Two different keys",
        RejectionReason::Unknown => "Unknown key",
        RejectionReason::WrongSecret => "Wrong secret",
        RejectionReason::Disabled => "Disabled",
        RejectionReason::Revoked => "Revoked",
        RejectionReason::Expired => "Expired",
        RejectionReason::OwnerSuspended => "Owner suspended",
        RejectionReason::ClientIp => "Address not allowed",
        RejectionReason::Scope => "Scope missing",
        RejectionReason::RateLimited => "Rate limited",
        RejectionReason::StoreUnavailable => "Key store unavailable",
        RejectionReason::LimiterUnavailable => "Rate limiter unavailable",
        RejectionReason::RecorderFull => "Recorder full",
        RejectionReason::LookupLimit => "Too many lookups",
    }
}

/// The name of an error status, or of its cause, if the application has classified the request otherwise.
fn of_status(cause: Cause, status: Status) -> Cow<'static, str> {
    let class = match cause {
        Cause::ClientError => StatusClass::ClientError,
        _ => StatusClass::ServerError,
    };
    match status {
        Status::Http(500) => of_cause(cause).into(),
        _ if status.class() != class => of_cause(cause).into(),
        _ => name(status).unwrap_or_else(|| of_cause(cause).into()),
    }
}

/// The code of a status with its name: `404 Not found`.
pub(super) fn status_label(status: Status) -> String {
    let Some(code) = code(status) else {
        return "No response".into();
    };
    match name(status) {
        Some(name) => format!("{code} {name}"),
        None => code,
    }
}

fn code(status: Status) -> Option<String> {
    match status {
        Status::None => None,
        Status::Http(code) => Some(code.to_string()),
        Status::Grpc(code) => Some(format!("gRPC {code}")),
    }
}

fn name(status: Status) -> Option<Cow<'static, str>> {
    /// By code, as in <https://grpc.io/docs/guides/status-codes>.
    const GRPC: [&str; 17] = [
        "OK",
        "Cancelled",
        "Unknown error",
        "Invalid argument",
        "Deadline exceeded",
        "Not found",
        "Already exists",
        "Permission denied",
        "Resource exhausted",
        "Failed precondition",
        "Aborted",
        "Out of range",
        "Unimplemented",
        "Internal error",
        "Unavailable",
        "Data loss",
        "Unauthenticated",
    ];
    match status {
        Status::None => None,
        Status::Grpc(code) => GRPC.get(usize::from(code)).map(|name| (*name).into()),
        Status::Http(code) => {
            let reason = StatusCode::from_u16(code).ok()?.canonical_reason()?;
            Some(sentence_case(reason).into())
        }
    }
}

/// `Not Found` as `Not found`. Keeps words in capitals, such as `HTTP`.
fn sentence_case(reason: &str) -> String {
    let mut words = reason.split(' ').map(String::from).enumerate();
    let mut text = String::with_capacity(reason.len());
    for (n, word) in &mut words {
        let is_capitals = word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        if n > 0 {
            text.push(' ');
        }
        text.push_str(&if n == 0 || is_capitals {
            word
        } else {
            word.to_lowercase()
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::usage::SummarySpec;

    fn event(status: Status, cause: Option<Cause>, reason: Option<RejectionReason>) -> UsageEvent {
        let mut event = UsageEvent::new(Timestamp::UNIX_EPOCH);
        event.status = status;
        (event.outcome, event.cause) = (Outcome::Failed, cause);
        event.rejection_reason = reason;
        event
    }

    #[test]
    fn causes_have_plain_names_and_add_up() {
        let rejected = Some(Cause::Rejected);
        let (client, server) = (Some(Cause::ClientError), Some(Cause::ServerError));
        let events = [
            (
                event(Status::Http(403), rejected, Some(RejectionReason::ClientIp)),
                "Address not allowed",
            ),
            (
                event(Status::Http(401), rejected, Some(RejectionReason::Disabled)),
                "Disabled",
            ),
            (event(Status::Http(404), client, None), "Not found"),
            (event(Status::Grpc(5), client, None), "Not found"),
            (event(Status::Http(500), server, None), "Server error"),
            (event(Status::None, server, None), "Server error"),
            (
                event(Status::Http(505), server, None),
                "HTTP version not supported",
            ),
            (event(Status::Http(200), client, None), "Client error"),
            (event(Status::Http(599), server, None), "Server error"),
            (
                event(Status::None, Some(Cause::Cancelled), None),
                "Cancelled",
            ),
            (event(Status::Http(401), rejected, None), "Rejected"),
            (event(Status::Http(200), None, None), "Other"),
        ];
        for (event, expected) in &events {
            assert_eq!(of_event(event).as_deref(), Some(*expected));
        }
        let mut more = event(Status::Http(404), client, None);
        let completed = UsageEvent::new(Timestamp::UNIX_EPOCH);
        assert_eq!(of_event(&completed), None);
        more.request_bytes = 1;
        let all = events
            .iter()
            .map(|(event, _)| event)
            .chain([&more, &completed]);
        let summary = SummarySpec::new().summarize(all);
        let causes = of_summary(&summary);
        let sum: u64 = causes.iter().map(|cause| cause.count).sum();
        assert_eq!(sum, summary.totals.failed());
        assert_eq!((&*causes[0].label, causes[0].count), ("Not found (404)", 2));
        let labels: Vec<_> = causes.iter().map(|cause| &*cause.label).collect();
        for label in [
            "Not found (gRPC 5)",
            "Server error (500)",
            "Server error",
            "Address not allowed",
        ] {
            assert!(labels.contains(&label), "{label} in {labels:?}");
        }
        let filter = |label: &str| {
            causes
                .iter()
                .find(|cause| cause.label == label)
                .unwrap()
                .filter
                .clone()
        };
        assert_eq!(filter("Disabled"), Some(("disabled", String::new())));
        assert_eq!(
            filter("Not found (gRPC 5)"),
            Some(("client_error", "grpc-5".into()))
        );
        assert_eq!(filter("Rejected"), None);
    }

    #[test]
    fn rate_limited_requests_are_no_failures() {
        let mut limited = event(Status::Http(429), None, Some(RejectionReason::RateLimited));
        limited.outcome = Outcome::RateLimited;
        assert_eq!(of_event(&limited).as_deref(), Some("Rate limited"));
        assert!(of_summary(&SummarySpec::new().summarize([&limited])).is_empty());
        limited.rejection_reason = None;
        assert_eq!(of_event(&limited).as_deref(), Some("Rate limited"));
    }

    #[test]
    fn statuses_have_their_names() {
        for (status, label) in [
            (Status::Http(404), "404 Not found"),
            (Status::Http(414), "414 URI too long"),
            (Status::Http(418), "418 I'm a teapot"),
            (Status::Http(799), "799"),
            (Status::Grpc(0), "gRPC 0 OK"),
            (Status::Grpc(99), "gRPC 99"),
            (Status::None, "No response"),
        ] {
            assert_eq!(status_label(status), label);
        }
    }

    #[test]
    fn choices_are_distinct() {
        let mut values: Vec<_> = choices().collect();
        assert!(values.iter().all(|(value, _)| !value.is_empty()));
        values.sort_unstable();
        values.dedup_by_key(|(value, _)| *value);
        assert_eq!(values.len(), Cause::ALL.len() + RejectionReason::ALL.len());
    }
}
