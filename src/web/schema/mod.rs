//! What goes over the wire, and how the OpenAPI document describes it.
//!
//! The core's types are the application's to use; these are the API's, so that a change of one is no
//! change of the other by accident.

mod audit;
mod key;
mod key_input;
pub(crate) mod names;
mod request;
mod totals;

use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::audit::AuditEntry;
pub(crate) use self::key::Limit;
pub(crate) use self::key::{Issued, Key, Revealed};
pub(crate) use self::key_input::{KeyUpdate, NewKey, Rotation};
pub(crate) use self::request::{RecordedPage, Request};
pub(crate) use self::totals::Summary;
pub(crate) use self::totals::{OverTime, Spikes};
use crate::page;

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items, newest first.
    items: Vec<T>,
    /// Where the next page begins: give it back as `after`. `null` on the last one.
    next: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn of<U>(page: page::Page<U>, item: impl FnMut(U) -> T) -> Self {
        Self {
            items: page.items.into_iter().map(item).collect(),
            next: page.next.map(|token| token.to_string()),
        }
    }
}
