//! What of the log is asked for.

use jiff::Timestamp;

use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::range::{Picked, next_second};
use crate::id::KeyId;
use crate::page::PageToken;
use crate::usage::{LogFilter, Outcome, StatusClass};

/// The fields that filter the log.
pub(in crate::dashboard::pages) const FILTERS: [&str; 10] = [
    "resource", "key", "owner", "since", "until", "outcome", "method", "endpoint", "code",
    "request",
];

/// All fields of a page with a log but its place in the log.
pub(super) const FIELDS: [&str; 14] = [
    "resource", "key", "owner", "since", "until", "outcome", "method", "endpoint", "code",
    "request", "range", "from", "to", "zone",
];

pub(super) const NO_PLACE: &str = "There is no such place in the log.";

/// What is asked for, or what of it cannot be understood.
pub(super) struct Filtered {
    pub(super) filter: LogFilter,
    pub(super) after: Option<PageToken>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Timestamp,
    pub(super) wrong: FieldErrors,
}

impl Filtered {
    /// Of this key, if the page is about one; times within the page's range, unless there are others.
    pub(super) fn read(
        visit: &PageContext,
        fields: &FormFields,
        key: Option<KeyId>,
        picked: Option<&Picked>,
    ) -> Self {
        let mut wrong = FieldErrors::default();
        let since = wrong.take("since", fields.time(visit, "since"));
        let since = since.or(picked.map(|picked| picked.range.start));
        let until = wrong.take("until", fields.time(visit, "until"));
        let until = until.or(picked.map(|picked| picked.range.end));
        let until = until.unwrap_or_else(next_second);
        if since.is_some_and(|since| since >= until) && wrong.is_empty() {
            wrong.add("until", "The end is not after the start.");
        }
        let text = |name| fields.get(name).map(String::from);
        let mut filter = LogFilter::new().to(until);
        filter.from = since;
        filter.resource_id = text("resource");
        filter.request_id = text("request");
        filter.endpoint = text("endpoint");
        filter.method = wrong.take(
            "method",
            known(fields, "method", "There is no such method."),
        );
        filter.outcome = wrong.take("outcome", outcome(fields));
        filter.status_class = fields.get("code").and_then(class);
        if filter.status_class.is_none() {
            let why = "A response status is a code such as 404, or a class such as 4xx.";
            filter.status = wrong.take("code", known(fields, "code", why));
        }
        if key.is_some() {
            filter.key = key;
        } else {
            let why = "This is not the id of a key.";
            filter.key = wrong.take("key", known(fields, "key", why));
            filter.owner = text("owner");
        }
        Self {
            filter,
            after: wrong.take("after", known(fields, "after", NO_PLACE)),
            since,
            until,
            wrong,
        }
    }
}

/// What a field says, if it says anything.
fn known<T: std::str::FromStr>(
    fields: &FormFields,
    name: &str,
    why: &'static str,
) -> Result<Option<T>, &'static str> {
    let read = fields.get(name).map(str::parse);
    read.transpose().map_err(|_| why)
}

fn outcome(fields: &FormFields) -> Result<Option<Outcome>, &'static str> {
    let Some(name) = fields.get("outcome") else {
        return Ok(None);
    };
    let mut known = Outcome::ALL.into_iter();
    let known = known.find(|outcome| outcome.as_str() == name);
    known.map(Some).ok_or("There is no such status.")
}

fn class(code: &str) -> Option<StatusClass> {
    // `none` is a status too, and its class has no other.
    let mut classes = StatusClass::ALL.into_iter();
    classes.find(|class| class.as_str().eq_ignore_ascii_case(code))
}
