//! The HTML pages.

pub(super) mod assets;
pub(super) mod audit;
mod breakdowns;
mod causes;
mod components;
pub(super) mod delete;
mod details;
pub(super) mod edit;
pub(super) mod find;
pub(super) mod generate;
mod key_form;
mod key_in_path;
pub(super) mod keys;
mod layout;
mod limit_text;
pub(super) mod log;
pub(super) mod overview;
pub(super) mod owner;
mod owner_field;
mod owner_in_path;
pub(super) mod owners;
mod posted_form;
mod range;
pub(super) mod reveal;
pub(super) mod rotate;
pub(super) mod sign_in;
pub(super) mod status;
mod top;
pub(super) mod usage;

pub(super) use self::layout::{
    Failure, access_denied, error_page, html_document, not_found, page, redirect,
};
