//! Parses the filter of the request log.

use jiff::Timestamp;

use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::breakdowns::STATUSES;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::owner_field;
use crate::dashboard::pages::range::{TimeRange, next_second};
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::key::StoreError;
use crate::page::PageToken;
use crate::usage::{Cause, LogFilter, Outcome, RejectionReason, StatusClass};

/// The fields that filter the log.
pub(in crate::dashboard::pages) const FILTERS: [&str; 11] = [
    "resource", "key", "owner", "since", "until", "outcome", "cause", "method", "endpoint", "code",
    "request",
];

/// All fields of a page with a log, except for the page tokens.
pub(in crate::dashboard::pages) const FIELDS: [&str; 16] = [
    "resource", "key", "owner", "since", "until", "outcome", "cause", "method", "endpoint", "code",
    "request", "range", "from", "to", "zone", STATUSES,
];

/// The fields with page tokens.
pub(in crate::dashboard::pages) const PAGE_TOKENS: [&str; 2] = ["after", "newer"];

pub(super) const INVALID_PAGE_TOKEN: &str =
    "Invalid page token. Start again from the newest requests.";

/// The parsed filter and its errors.
pub(super) struct Filtered {
    pub(super) filter: LogFilter,
    pub(super) after: Option<PageToken>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Timestamp,
    pub(super) wrong: FieldErrors,
}

impl Filtered {
    /// Parses the filter fields. A given `key` overrides the key and owner fields, a given `owner` the owner field, and
    /// the page's range is the default of the time fields.
    pub(super) fn read(
        context: &PageContext,
        fields: &FormFields,
        key: Option<KeyId>,
        owner: Option<&str>,
        picked: Option<&TimeRange>,
    ) -> Self {
        let mut wrong = FieldErrors::default();
        let since = wrong.take("since", fields.time(context, "since"));
        let since = since.or(picked.map(|picked| picked.range.start));
        let until = wrong.take("until", fields.time(context, "until"));
        let until = until.or(picked.map(|picked| picked.range.end));
        let until = until.unwrap_or_else(next_second);
        if since.is_some_and(|since| since >= until) && wrong.is_empty() {
            wrong.add("until", "The end must be after the start.");
        }
        let text = |name| fields.get(name).map(String::from);
        let mut filter = LogFilter::new().to(until);
        filter.from = since;
        filter.resource_id = text("resource");
        filter.request_id = text("request");
        filter.endpoint = text("endpoint");
        filter.method = wrong.take(
            "method",
            known(fields, "method", "Choose a method from the list."),
        );
        filter.outcome = wrong.take("outcome", outcome(fields));
        if let Some(name) = fields.get(causes::FIELD) {
            let mut causes = Cause::ALL.into_iter();
            filter.cause = causes.find(|cause| cause.as_str() == name);
            let mut reasons = RejectionReason::ALL.into_iter();
            filter.rejection_reason = reasons.find(|reason| reason.as_str() == name);
            if filter.cause.is_none() && filter.rejection_reason.is_none() {
                wrong.add(causes::FIELD, "Choose a cause from the list.");
            }
        }
        filter.status_class = fields.get("code").and_then(class);
        if filter.status_class.is_none() {
            let why = "Enter a code such as 404, or a class such as 4xx.";
            filter.status = wrong.take("code", known(fields, "code", why));
        }
        if key.is_some() {
            filter.key = key;
        } else {
            let why = "Choose a key from the list.";
            filter.key = wrong.take("key", known(fields, "key", why));
            filter.owner = owner.map(String::from);
            filter.owner_contains = text("owner").filter(|_| owner.is_none());
        }
        Self {
            filter,
            after: wrong.take("after", known(fields, "after", INVALID_PAGE_TOKEN)),
            since,
            until,
            wrong,
        }
    }

    /// Replaces a part of an owner that is the full name of one.
    pub(super) async fn resolve_owner(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let filter = &mut self.filter;
        (filter.owner, filter.owner_contains) = match filter.owner_contains.take() {
            Some(owner) => owner_field::resolve(shared, owner).await?,
            None => (filter.owner.take(), None),
        };
        Ok(())
    }
}

/// Parses a field if it is present.
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
    known.map(Some).ok_or("Choose a status from the list.")
}

fn class(code: &str) -> Option<StatusClass> {
    // `none` is both a status and a class, with the same requests.
    let mut classes = StatusClass::ALL.into_iter();
    classes.find(|class| class.as_str().eq_ignore_ascii_case(code))
}
