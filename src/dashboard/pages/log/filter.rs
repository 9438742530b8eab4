//! Parses the filter of the request log.

use jiff::Timestamp;

use crate::dashboard::form::{FieldErrors, FormFields};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::Failure;
use crate::dashboard::pages::breakdowns::STATUSES;
use crate::dashboard::pages::causes;
use crate::dashboard::pages::owner_field;
use crate::dashboard::pages::range::{TimeRange, next_second};
use crate::dashboard::state::Shared;
use crate::id::KeyId;
use crate::page::PageToken;
use crate::usage::{Cause, LogFilter, LogQuery, Method, Outcome, RejectionReason, StatusFilter};

/// The fields that filter the log.
pub(in crate::dashboard::pages) const FILTERS: [&str; 12] = [
    "resource", "key", "owner", "since", "until", "outcome", "cause", "method", "endpoint", "code",
    "client", "request",
];

/// All fields of a page with a log, except for the page tokens.
pub(in crate::dashboard::pages) const FIELDS: [&str; 17] = [
    "resource", "key", "owner", "since", "until", "outcome", "cause", "method", "endpoint", "code",
    "client", "request", "range", "from", "to", "zone", STATUSES,
];

/// The filters that have several values.
pub(super) const SEVERAL: [&str; 3] = ["outcome", "method", "code"];

/// The fields with page tokens.
pub(in crate::dashboard::pages) const PAGE_TOKENS: [&str; 2] = ["after", "newer"];

pub(super) const INVALID_PAGE_TOKEN: &str =
    "Invalid page token. Start again from the newest requests.";

/// The values that a form suggests.
pub(super) struct Suggestions {
    pub(super) owners: Vec<String>,
    pub(super) endpoints: Vec<String>,
}

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
        filter.endpoint_contains = text("endpoint");
        filter.methods = several(fields, "method", &mut wrong);
        filter.outcomes = several(fields, "outcome", &mut wrong);
        filter.statuses = several(fields, "code", &mut wrong);
        if let Some(text) = fields.get("client") {
            let why = "Enter an IP address.";
            filter.client_ip = wrong.take("client", text.parse().map(Some).map_err(|_| why));
        }
        if let Some(name) = fields.get(causes::FIELD) {
            let mut causes = Cause::ALL.into_iter();
            filter.cause = causes.find(|cause| cause.as_str() == name);
            let mut reasons = RejectionReason::ALL.into_iter();
            filter.rejection_reason = reasons.find(|reason| reason.as_str() == name);
            if filter.cause.is_none() && filter.rejection_reason.is_none() {
                wrong.add(causes::FIELD, "Choose a cause from the list.");
            }
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

    /// Replaces parts of an owner and of an endpoint that are the full name of one.
    pub(super) async fn resolve(&mut self, shared: &Shared) -> Result<(), Failure> {
        let filter = &mut self.filter;
        if let Some(endpoint) = &filter.endpoint_contains {
            let query = LogQuery::new(LogFilter::new().endpoint(&**endpoint)).limit(1);
            if !shared.usage.requests(&query).await?.items.is_empty() {
                filter.endpoint = filter.endpoint_contains.take();
            }
        }
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

/// A field with several values, which are separated by commas or repeat the field.
trait Listed: Copy + PartialEq + 'static {
    const WHY: &'static str;

    fn parse(text: &str) -> Option<Self>;
}

impl Listed for Method {
    const WHY: &'static str = "Choose methods from the list.";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Listed for Outcome {
    const WHY: &'static str = "Choose statuses from the list.";

    fn parse(text: &str) -> Option<Self> {
        let mut known = Self::ALL.into_iter();
        known.find(|outcome| outcome.as_str() == text)
    }
}

impl Listed for StatusFilter {
    const WHY: &'static str = "Enter a code such as 404, a class such as 4xx, or several of them.";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Parses the values of a field, each once.
fn several<T: Listed>(fields: &FormFields, name: &'static str, wrong: &mut FieldErrors) -> Vec<T> {
    let mut values = Vec::new();
    for text in values_of(fields, name) {
        match T::parse(text) {
            Some(value) if values.contains(&value) => {}
            Some(value) => values.push(value),
            None => {
                wrong.replace(name, T::WHY);
                return Vec::new();
            }
        }
    }
    values
}

/// The values of a field that may have several.
pub(super) fn values_of<'a>(
    fields: &'a FormFields,
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    let values = fields.all(name).flat_map(|value| value.split(','));
    values.map(str::trim).filter(|value| !value.is_empty())
}
