//! The filter field for owners, which matches parts of their names.

use maud::{Markup, html};

use super::components::{Input, suggestions};
use crate::dashboard::form::FormFields;
use crate::dashboard::state::Shared;
use crate::key::{KeyQuery, StoreError};

/// The maximum number of suggested owners.
const SUGGESTED: usize = 200;

/// The owners to suggest.
pub(super) async fn suggested(shared: &Shared) -> Result<Vec<String>, StoreError> {
    shared.keys.owners("", SUGGESTED).await
}

/// The exact owner and the part of an owner that the text of the field stands for: the owner of this name if there is
/// one, otherwise all owners whose names contain the text.
pub(super) async fn resolve(
    shared: &Shared,
    text: String,
) -> Result<(Option<String>, Option<String>), StoreError> {
    let query = KeyQuery::new().owner(&*text).limit(1);
    Ok(match shared.keys.list(&query).await?.items.is_empty() {
        true => (None, Some(text)),
        false => (Some(text), None),
    })
}

pub(super) fn owner_field(fields: &FormFields, suggested: &[String]) -> Markup {
    let owner = fields.get("owner").unwrap_or_default();
    html! {
        (Input::new("owner", "Owner", owner).suggest("owners").in_url())
        (suggestions("owners", suggested))
    }
}
