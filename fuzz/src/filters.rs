//! Filters of the request log, as query strings and as JSON: results agree with a second implementation of the
//! filter, and invalid filters are rejected.
//!
//! The input is a letter that selects the endpoint, followed by the query.

use std::cell::{LazyCell, RefCell};
use std::net::IpAddr;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use keytally::backend::MemoryBackend;
use keytally::dashboard::{AllowEveryone, Dashboard};
use keytally::usage::{
    Batch, Cause, Count, LogFilter, Method, Outcome, RejectionReason, Status, StatusClass,
    StatusFilter, UsageEvent, UsageReader, UsageSink,
};
use keytally::{Clock, KeyId, PageToken};
use serde_json::Value;
use tower_service::Service;
use uuid::Uuid;

use crate::now::now;

pub fn check(input: &[u8]) {
    let Some((&endpoint, query)) = input.split_first() else {
        return;
    };
    DASHBOARD.with(|dashboard| match endpoint {
        b'c' => dashboard.check_count(&encoded(query)),
        b'l' => dashboard.check_list(&encoded(query)),
        b'e' => dashboard.check_export(&encoded(query)),
        b'p' => dashboard.check_page(&encoded(query)),
        b'j' => dashboard.check_json(query),
        _ => {}
    });
}

/// Percent-encodes a query for use in a URI. Existing encodings, valid or not, are kept.
fn encoded(query: &[u8]) -> String {
    let mut text = String::with_capacity(query.len());
    for &byte in query {
        if byte.is_ascii_alphanumeric() || b"-_.~=&%+:/,;@!$'()*?".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// A filter, as parsed by this implementation.
#[derive(Default)]
struct Filter {
    key: Option<KeyId>,
    owner: Option<String>,
    owner_part: Option<String>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    /// Empty for any, as other lists.
    outcomes: Vec<Outcome>,
    cause: Option<Cause>,
    reason: Option<RejectionReason>,
    methods: Vec<Method>,
    endpoint: Option<String>,
    endpoint_part: Option<String>,
    statuses: Vec<StatusFilter>,
    resource: Option<String>,
    client: Option<IpAddr>,
    request: Option<String>,
    event: Option<Uuid>,
    limit: Option<usize>,
    after: Option<PageToken>,
}

type Fields = Vec<(String, String)>;

fn fields(query: &str) -> Fields {
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

fn named<T: Copy + ToString>(all: &[T], name: &str) -> Option<T> {
    all.iter()
        .copied()
        .find(|member| member.to_string() == name)
}

/// A code or a class, in upper or lower case.
fn status(text: &str) -> Option<StatusFilter> {
    let class = named(&StatusClass::ALL, &text.to_ascii_lowercase());
    match class {
        Some(class) => Some(class.into()),
        None => Some(text.parse::<Status>().ok()?.into()),
    }
}

/// The values of a list in a query of the JSON API.
fn list<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let values: Option<Vec<T>> = text.split(',').map(parse).collect();
    values.filter(|values| values.len() <= 100)
}

impl Filter {
    /// Parses a query of the JSON API: unknown and repeated parameters are errors.
    fn of_api(query: &str, paged: bool) -> Option<Self> {
        let mut wanted = Self::default();
        let mut seen = Vec::new();
        for (name, value) in fields(query) {
            if seen.contains(&name) {
                return None;
            }
            match &*name {
                "key" => wanted.key = Some(value.parse().ok()?),
                "owner" => wanted.owner = Some(value),
                "owner_contains" => wanted.owner_part = Some(value),
                "from" => wanted.from = Some(value.parse().ok()?),
                "to" => wanted.to = Some(value.parse().ok()?),
                "outcome" => wanted.outcomes = list(&value, |it| named(&Outcome::ALL, it))?,
                "cause" => wanted.cause = Some(named(&Cause::ALL, &value)?),
                "rejection_reason" => {
                    wanted.reason = Some(named(&RejectionReason::ALL, &value)?);
                }
                "method" => wanted.methods = list(&value, |it| it.parse().ok())?,
                "endpoint" => wanted.endpoint = Some(value),
                "endpoint_contains" => wanted.endpoint_part = Some(value),
                "status" => wanted.statuses = list(&value, status)?,
                "resource_id" => wanted.resource = Some(value),
                "client_ip" => wanted.client = Some(value.parse().ok()?),
                "request_id" => wanted.request = Some(value),
                "limit" if paged => wanted.limit = Some(value.parse().ok()?),
                "after" if paged => wanted.after = Some(value.parse().ok()?),
                _ => return None,
            }
            seen.push(name);
        }
        let ordered = !matches!((wanted.from, wanted.to), (Some(from), Some(to)) if from > to);
        let bounded = wanted.limit.is_none_or(|limit| (1..=1000).contains(&limit));
        let own = wanted
            .after
            .as_ref()
            .is_none_or(|after| after.id::<Uuid>().is_ok());
        (ordered && bounded && own).then_some(wanted)
    }

    /// Parses a query of a dashboard page: the first non-empty value counts, trimmed; unknown parameters are
    /// ignored.
    fn of_page(query: &str) -> Option<Self> {
        let fields: Fields = fields(query)
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let get = |wanted: &str| {
            let (_, value) = fields.iter().find(|(name, _)| name == wanted)?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        // An unknown time zone is an error only if a local time depends on it.
        let zone = get("zone").map_or(Some(TimeZone::UTC), |name| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
            let is_name = !name.starts_with('/') && name.chars().all(plain);
            is_name.then(|| TimeZone::get(&name).ok())?
        });
        let first = Timestamp::from_second(-62_135_596_800).unwrap();
        let time = |name| {
            let Some(text) = get(name) else {
                return Some(None);
            };
            let zone = zone.as_ref()?;
            let on_clock = || zone.to_timestamp(text.parse::<DateTime>().ok()?).ok();
            let time: Option<Timestamp> = text.parse().ok().or_else(on_clock);
            time.filter(|time| *time >= first).map(Some)
        };
        let mut wanted = Self {
            owner_part: get("owner"),
            from: time("since")?,
            to: Some(time("until")?.unwrap_or_else(Timestamp::now)),
            resource: get("resource"),
            request: get("request"),
            ..Self::default()
        };
        if let Some(text) = get("key") {
            wanted.key = Some(text.parse().ok()?);
        }
        // The name of an endpoint matches no others.
        match get("endpoint") {
            Some(text) if ENDPOINTS.contains(&&*text) => wanted.endpoint = Some(text),
            text => wanted.endpoint_part = text,
        }
        if let Some(text) = get("client") {
            wanted.client = Some(text.parse().ok()?);
        }
        // Values are separated by commas or repeat the field.
        let values = |name: &str| -> Vec<String> {
            let values = fields.iter().filter(|(it, _)| it == name);
            let values = values.flat_map(|(_, value)| value.split(','));
            let values = values.map(|value| value.trim().to_owned());
            values.filter(|value| !value.is_empty()).collect()
        };
        let methods = values("method").into_iter().map(|it| it.parse().ok());
        wanted.methods = methods.collect::<Option<_>>()?;
        let outcomes = values("outcome").into_iter();
        let outcomes = outcomes.map(|it| named(&Outcome::ALL, &it));
        wanted.outcomes = outcomes.collect::<Option<_>>()?;
        let statuses = values("code").into_iter().map(|it| status(&it));
        wanted.statuses = statuses.collect::<Option<_>>()?;
        if let Some(text) = get("cause") {
            wanted.cause = named(&Cause::ALL, &text);
            if wanted.cause.is_none() {
                wanted.reason = Some(named(&RejectionReason::ALL, &text)?);
            }
        }
        (wanted.from.is_none() || wanted.from < wanted.to).then_some(wanted)
    }

    fn of_filter(filter: &LogFilter) -> Self {
        let filter = filter.clone();
        Self {
            key: filter.key,
            owner: filter.owner,
            owner_part: filter.owner_contains,
            from: filter.from,
            to: filter.to,
            outcomes: filter.outcomes,
            cause: filter.cause,
            reason: filter.rejection_reason,
            methods: filter.methods,
            endpoint: filter.endpoint,
            endpoint_part: filter.endpoint_contains,
            statuses: filter.statuses,
            resource: filter.resource_id,
            client: filter.client_ip,
            request: filter.request_id,
            event: filter.event_id,
            ..Self::default()
        }
    }

    fn matches(&self, event: &UsageEvent) -> bool {
        fn is<T: PartialEq>(wanted: &Option<T>, actual: Option<T>) -> bool {
            wanted.is_none() || *wanted == actual
        }
        fn any<T>(wanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
            wanted.is_empty() || wanted.iter().any(matches)
        }
        let text = |text: Option<&str>| text.map(str::to_owned);
        let class = match event.status {
            Status::None => StatusClass::None,
            Status::Http(..200) => StatusClass::Informational,
            Status::Http(200..300) | Status::Grpc(0) => StatusClass::Success,
            Status::Http(300..400) => StatusClass::Redirection,
            Status::Http(400..500) => StatusClass::ClientError,
            Status::Grpc(2 | 4 | 12..=15) | Status::Http(_) => StatusClass::ServerError,
            Status::Grpc(_) => StatusClass::ClientError,
        };
        let own_id = |id: &String| id.parse::<Uuid>().is_ok_and(|id| id == event.id);
        is(&self.key, event.key)
            && is(&self.owner, text(event.owner.as_deref()))
            && self.owner_part.as_ref().is_none_or(|part| {
                let owner = event.owner.as_deref().map(str::to_lowercase);
                owner.is_some_and(|owner| owner.contains(&part.to_lowercase()))
            })
            && self.from.is_none_or(|from| from <= event.time)
            && self.to.is_none_or(|to| event.time < to)
            && any(&self.outcomes, |it| *it == event.outcome)
            && is(&self.cause, event.cause)
            && is(&self.reason, event.rejection_reason)
            && any(&self.methods, |it| *it == event.method)
            && is(&self.endpoint, text(Some(&event.endpoint)))
            // No endpoint is a route template.
            && self.endpoint_part.as_ref().is_none_or(|part| {
                let endpoint = event.endpoint.to_lowercase();
                let path = part.split('?').next().unwrap_or_default();
                endpoint.contains(&part.to_lowercase())
                    || part.starts_with('/') && endpoint == path.to_lowercase()
            })
            && any(&self.statuses, |it| match it {
                StatusFilter::Status(status) => *status == event.status,
                StatusFilter::Class(it) => *it == class,
                _ => false,
            })
            && is(&self.resource, text(event.resource_id.as_deref()))
            && is(&self.client, event.client_ip)
            && is(&self.event, Some(event.id))
            && (is(&self.request, text(event.request_id.as_deref()))
                || self.request.as_ref().is_some_and(own_id))
            && self.after.as_ref().is_none_or(|after| {
                let position = (after.time(), after.id::<Uuid>().unwrap());
                (event.time, event.id) < position
            })
    }
}

struct Fixture {
    backend: MemoryBackend,
    router: RefCell<Box<Router>>,
    /// Newest first.
    events: Vec<UsageEvent>,
}

/// Returns the response to a GET request.
type Router = dyn FnMut(&str) -> (StatusCode, Bytes);

thread_local! {
    static DASHBOARD: LazyCell<Fixture> = const { LazyCell::new(Fixture::new) };
}

impl Fixture {
    fn new() -> Self {
        let clock = Clock::manual("2020-03-01T10:00:00Z".parse().unwrap());
        let backend = MemoryBackend::with_clock(Default::default(), clock);
        let events = events();
        now(backend.write(&Batch::new(events.clone()))).unwrap();
        let dashboard = Dashboard::new(backend.clone(), AllowEveryone);
        let mut router = dashboard.signing_key([7; 32]).into_router();
        let get = move |uri: &str| {
            let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            let response = now(router.call(request)).unwrap();
            let status = response.status();
            (
                status,
                now(response.into_body().collect()).unwrap().to_bytes(),
            )
        };
        Self {
            backend,
            router: RefCell::new(Box::new(get)),
            events,
        }
    }

    fn get(&self, path: &str, query: &str) -> (StatusCode, Bytes) {
        (self.router.borrow_mut())(&format!("{path}?{query}"))
    }

    fn matching(&self, wanted: &Filter) -> Vec<Uuid> {
        let matching = self.events.iter().filter(|event| wanted.matches(event));
        matching.map(|event| event.id).collect()
    }

    fn check_count(&self, query: &str) {
        let (status, body) = self.get("/api/log/count", query);
        match Filter::of_api(query, false) {
            Some(wanted) => {
                let count = self.matching(&wanted).len();
                let expected = format!("{{\"count\":{count},\"exact\":true}}");
                assert_eq!(
                    (status.as_u16(), &*body),
                    (200, expected.as_bytes()),
                    "{query}"
                );
            }
            None => check_problem(status, &body),
        }
    }

    fn check_list(&self, query: &str) {
        let (status, body) = self.get("/api/log", query);
        let Some(wanted) = Filter::of_api(query, true) else {
            return check_problem(status, &body);
        };
        assert_eq!(status, 200, "{query}");
        let mut expected = self.matching(&wanted);
        let more = expected.len() > wanted.limit.unwrap_or(50);
        expected.truncate(wanted.limit.unwrap_or(50));
        let page: Value = serde_json::from_slice(&body).unwrap();
        let items = page["items"].as_array().unwrap().iter();
        let ids: Vec<Uuid> = items
            .map(|item| item["id"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
        let next: Option<PageToken> = serde_json::from_value(page["next"].clone()).unwrap();
        assert_eq!(next.is_some(), more, "{query}");
        assert!(next.is_none_or(|next| next.id() == Ok(ids[ids.len() - 1])));
    }

    fn check_export(&self, query: &str) {
        // These parameters change the format of the file.
        let skipped = ["bom", "after_cursor"];
        if fields(query)
            .iter()
            .any(|(name, _)| skipped.contains(&&**name))
        {
            return;
        }
        let (status, body) = self.get("/api/log/export/jsonl", query);
        match Filter::of_api(query, false) {
            Some(wanted) => self.check_lines(&wanted, status, &body),
            None => check_problem(status, &body),
        }
    }

    fn check_page(&self, query: &str) {
        let (status, body) = self.get("/log/jsonl", query);
        match Filter::of_page(query) {
            Some(wanted) => self.check_lines(&wanted, status, &body),
            None => assert!(status.is_client_error(), "{status} {query}"),
        }
    }

    fn check_lines(&self, wanted: &Filter, status: StatusCode, body: &[u8]) {
        assert_eq!(status, 200);
        let lines = body.split_inclusive(|byte| *byte == b'\n');
        let read: Vec<UsageEvent> = lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let expected: Vec<_> = self
            .events
            .iter()
            .filter(|event| wanted.matches(event))
            .collect();
        assert_eq!(read.iter().collect::<Vec<_>>(), expected);
    }

    fn check_json(&self, text: &[u8]) {
        let Ok(filter) = serde_json::from_slice::<LogFilter>(text) else {
            return;
        };
        let again = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<LogFilter>(&again).unwrap(), filter);
        let wanted = Filter::of_filter(&filter);
        let count = now(self.backend.count(&filter)).unwrap();
        assert_eq!(count, Count::Exactly(self.matching(&wanted).len() as u64));
    }
}

/// Checks that the response is a problem document with the status 400.
fn check_problem(status: StatusCode, body: &[u8]) {
    assert_eq!(status, 400);
    let problem: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(problem["status"], 400);
}

const ENDPOINTS: [&str; 3] = ["/a", "/b", "é"];

/// Requests that differ in all filterable fields, newest first.
fn events() -> Vec<UsageEvent> {
    let start: Timestamp = "2020-02-01T10:00:00Z".parse().unwrap();
    let statuses = [
        Status::Http(200),
        Status::Http(404),
        Status::Grpc(0),
        Status::Grpc(7),
        Status::Http(503),
        Status::None,
        Status::Http(302),
        Status::Grpc(14),
    ];
    let mut events = Vec::new();
    for nth in 0..12 {
        let mut event = UsageEvent::new(start + SignedDuration::from_secs(nth as i64 / 2));
        event.id = Uuid::from_u128(nth as u128);
        event.key = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"]
            .get(nth % 3)
            .map(|id| id.parse().unwrap());
        event.owner = ["o", "a b", ""].get(nth % 4).map(|owner| (*owner).into());
        event.method = Method::ALL[nth % Method::ALL.len()];
        event.endpoint = ENDPOINTS[nth % 3].into();
        event.client_ip = (nth % 3 > 0).then(|| [203, 0, 113, nth as u8 % 2].into());
        event.status = statuses[nth % statuses.len()];
        (event.outcome, event.cause) = Outcome::of(event.status);
        if nth == 1 {
            (event.outcome, event.cause) = (Outcome::RateLimited, None);
            event.rejection_reason = Some(RejectionReason::RateLimited);
        }
        if nth == 3 {
            event.cause = Some(Cause::Rejected);
            event.rejection_reason = Some(RejectionReason::ClientIp);
        }
        event.resource_id = (nth % 2 == 0).then(|| "r".into());
        event.request_id = (nth % 5 == 0).then(|| format!("id-{nth}").into());
        events.insert(0, event);
    }
    events
}
