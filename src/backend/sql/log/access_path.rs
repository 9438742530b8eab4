//! The ways to find requests by their ids.

use std::net::IpAddr;

use jiff::Timestamp;
use uuid::Uuid;

use crate::backend::sql::batch_rollup::uuid_millis;
use crate::backend::sql::value::{as_micros, ceil_micros};
use crate::usage::LogFilter;

/// The first and the last time that requests may have, in microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) from: i64,
    pub(super) to: i64,
}

/// A way to find the requests of a filter. Each request is found by at most one.
pub(super) struct AccessPath {
    pub(super) times: Times,
    pub(super) resource_id: Option<String>,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) id: Option<Id>,
    /// The request id of a request that is found by its event id.
    pub(super) request_id: Option<String>,
}

impl AccessPath {
    pub(super) fn has_ids(&self) -> bool {
        self.resource_id.is_some() || self.id.is_some()
    }
}

/// The id to find a request by.
pub(super) enum Id {
    /// The request id on the wire.
    Request(String),
    /// The event id, unless the text is the request id on the wire. `has_time` is whether it contains the time of the
    /// request.
    Event {
        id: Uuid,
        text: Option<String>,
        has_time: bool,
    },
}

/// The access paths to requests that match a filter and are not newer than the last one seen.
pub(super) fn access_paths(
    filter: &LogFilter,
    after: Option<(Timestamp, Uuid)>,
) -> Vec<AccessPath> {
    let mut times = Times {
        from: filter.from.map_or(i64::MIN, ceil_micros),
        // Stored times are whole microseconds.
        to: filter
            .to
            .map_or(i64::MAX, |to| ceil_micros(to).saturating_sub(1)),
    };
    if let Some((time, _)) = after {
        times.to = times.to.min(as_micros(time));
    }
    let path = |id, times| AccessPath {
        times,
        resource_id: filter.resource_id.clone(),
        client_ip: filter.client_ip,
        id,
        request_id: None,
    };
    let events = |id: Uuid, text: Option<&String>| {
        let event = |has_time| Id::Event {
            id,
            text: text.cloned(),
            has_time,
        };
        let of_id = uuid_millis(id).map(|millisecond| Times {
            from: times.from.max(millisecond * 1_000),
            to: times.to.min(millisecond * 1_000 + 999),
        });
        let timed = of_id.map(|of_id| path(Some(event(true)), of_id));
        let other = path(Some(event(false)), times);
        timed.into_iter().chain([other])
    };
    match (filter.event_id, &filter.request_id) {
        (Some(id), text) => {
            let text = text.as_ref().filter(|text| text.parse() != Ok(id));
            let found = events(id, None).map(|path| AccessPath {
                request_id: text.cloned(),
                ..path
            });
            found.collect()
        }
        (None, Some(text)) => {
            let id = text.parse();
            // The request id may also be an event id, in any UUID notation.
            let by_event = id.into_iter().flat_map(|id| events(id, Some(text)));
            let by_request = path(Some(Id::Request(text.clone())), times);
            by_event.chain([by_request]).collect()
        }
        (None, None) => vec![path(None, times)],
    }
}
