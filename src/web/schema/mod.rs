//! The types of requests and responses, with their OpenAPI schemas.
//!
//! They are separate from the crate's public types, so that neither API changes by accident with the other.

mod audit;
mod key;
mod key_input;
pub(crate) mod names;
mod owner;
mod owner_input;
mod request;
mod totals;

use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::audit::AuditEntry;
pub(crate) use self::key::LimitsNow;
pub(crate) use self::key::{Issued, Key, Revealed};
pub(crate) use self::key_input::{KeyUpdate, NewKey, Rotation};
pub(crate) use self::owner::{Owner, Plan};
pub(crate) use self::owner_input::{NewPlan, OwnerUpdate};
pub(crate) use self::request::{RecordedPage, Request};
pub(crate) use self::totals::Summary;
pub(crate) use self::totals::{MonthByOwner, OverTime, Spikes};
use crate::page;

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items, newest first.
    items: Vec<T>,
    /// The page token of the next page, to pass as `after`. `null` on the last page.
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
