//! The HTML pages.

pub(super) mod assets;
pub(super) mod audit;
mod audit_changes;
mod breakdowns;
pub(super) mod bulk;
mod causes;
mod components;
mod confirmation;
pub(super) mod delete;
mod details;
pub(super) mod edit;
mod expiry_fields;
pub(super) mod find;
mod flash;
pub(super) mod generate;
mod key_form;
mod key_in_path;
mod key_order;
pub(super) mod keys;
mod keys_by_id;
mod layout;
mod limit_fields;
mod limit_text;
mod limits_now;
mod lineage;
mod live;
pub(super) mod log;
pub(super) mod overview;
pub(super) mod owner;
mod owner_field;
mod owner_in_path;
pub(super) mod owners;
pub(super) mod plans;
mod posted_form;
mod previous;
mod range;
pub(super) mod request;
pub(super) mod reveal;
pub(super) mod rotate;
mod secret;
pub(super) mod sign_in;
pub(super) mod status;
mod top;
pub(super) mod usage;

use self::layout::redirect_with;
pub(super) use self::layout::{
    Failure, access_denied, error_page, html_document, not_found, page, redirect,
};
