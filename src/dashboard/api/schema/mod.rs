//! What goes over the wire, and how the OpenAPI document describes it.
//!
//! The core's types are the application's to use; these are the API's, so that a change of one is no
//! change of the other by accident.

mod audit;
mod key;
mod key_input;
pub(super) mod names;
mod request;
mod totals;

use serde::Serialize;
use utoipa::ToSchema;

pub(super) use self::audit::AuditEntry;
pub(in crate::dashboard) use self::key::Limit;
pub(super) use self::key::{Issued, Key, Revealed};
pub(super) use self::key_input::{KeyUpdate, NewKey, Rotation};
pub(super) use self::request::{RecordedPage, Request};
pub(in crate::dashboard) use self::totals::Summary;
pub(super) use self::totals::{OverTime, Spikes};
use crate::page;

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items, newest first.
    items: Vec<T>,
    /// Where the next page begins: give it back as `after`. `null` on the last one.
    next: Option<String>,
}

impl<T> Page<T> {
    pub(super) fn of<U>(page: page::Page<U>, item: impl FnMut(U) -> T) -> Self {
        Self {
            items: page.items.into_iter().map(item).collect(),
            next: page.next.map(|token| token.to_string()),
        }
    }
}
