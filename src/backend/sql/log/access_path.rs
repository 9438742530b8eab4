//! The ways to find requests by their ids.

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
    pub(super) id: Option<Id>,
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
        text: String,
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
        id,
    };
    let Some(text) = filter.request_id.clone() else {
        return vec![path(None, times)];
    };
    let mut paths = Vec::new();
    // The request id may also be an event id, in any UUID notation.
    if let Ok(id) = text.parse::<Uuid>() {
        let event = |has_time| Id::Event {
            id,
            text: text.clone(),
            has_time,
        };
        if let Some(millisecond) = uuid_millis(id) {
            let of_id = Times {
                from: times.from.max(millisecond * 1_000),
                to: times.to.min(millisecond * 1_000 + 999),
            };
            paths.push(path(Some(event(true)), of_id));
        }
        paths.push(path(Some(event(false)), times));
    }
    paths.push(path(Some(Id::Request(text)), times));
    paths
}
