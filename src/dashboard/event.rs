//! A request of the log by its event id.

use serde::Deserialize;
use uuid::Uuid;

use crate::usage::{LogFilter, LogQuery, ReadError, UsageEvent, UsageReader};

/// The event id in the path, extracted by name: the path at which the dashboard is nested may have captures too.
#[derive(Deserialize)]
pub(super) struct EventId {
    pub(super) id: Uuid,
}

/// Reads a request. `None` if it is not in the log.
pub(super) async fn read(
    usage: &dyn UsageReader,
    id: Uuid,
) -> Result<Option<UsageEvent>, ReadError> {
    let query = LogQuery::new(LogFilter::new().event_id(id)).limit(1);
    let page = usage.requests(&query).await?;
    Ok(page.items.into_iter().next())
}
