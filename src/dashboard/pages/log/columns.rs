//! Which columns of the request log are shown. A cookie has the choice, which the script changes too.

use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::SET_COOKIE;
use maud::{Markup, html};

use super::rows::{COLUMNS, Column};
use crate::dashboard::form::FormFields;
use crate::dashboard::next::{self, NEXT};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::posted_form::PostedForm;
use crate::dashboard::pages::{components, redirect};
use crate::dashboard::session::cookies;

/// The form fields: the kind of table, and one for each column.
const KIND: &str = "kind";
const COLUMN: &str = "column";

/// Separates the columns in the cookie.
const SEPARATOR: char = '.';

/// Tables with and without columns for the key and its owner are chosen apart.
#[derive(Clone, Copy)]
pub(in crate::dashboard::pages) enum Table {
    AllKeys,
    OneKey,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::AllKeys => "all",
            Self::OneKey => "key",
        }
    }

    fn columns(self) -> impl Iterator<Item = &'static Column> {
        COLUMNS.iter().filter(move |column| match self {
            Self::AllKeys => true,
            Self::OneKey => !["key", "owner"].contains(&column.id),
        })
    }
}

/// The columns of a table.
pub(in crate::dashboard::pages) struct Columns {
    table: Table,
    /// The columns, and whether each is shown.
    pub(super) all: Vec<(&'static Column, bool)>,
}

impl Columns {
    /// The columns as chosen before, or the usual ones.
    pub(in crate::dashboard::pages) fn of(table: Table, headers: &HeaderMap) -> Self {
        let name = cookie_name(table.name());
        let chosen = cookies(headers, &name).next();
        let chosen: Vec<_> = chosen.unwrap_or_default().split(SEPARATOR).collect();
        let is_chosen = |column: &Column| chosen.contains(&column.id);
        let is_valid = table.columns().any(is_chosen);
        let all = table.columns().map(|column| match is_valid {
            true => (column, is_chosen(column)),
            false => (column, column.is_usual),
        });
        Self {
            table,
            all: all.collect(),
        }
    }

    /// Renders the form that changes the choice and returns to the page with these fields.
    pub(super) fn form(&self, context: &PageContext, fields: &FormFields) -> Markup {
        let page = format!("{}?{}#log", context.path, fields.query());
        html! {
            details .columns {
                summary { "Edit columns" }
                form method="post" action=(context.at("/log/columns")) aria-label="Columns" autocomplete="off" {
                    (components::token(context))
                    input type="hidden" name=(KIND) value=(self.table.name());
                    input type="hidden" name=(NEXT) value=(page);
                    @for (column, is_shown) in &self.all {
                        label {
                            input type="checkbox" name=(COLUMN) value=(column.id) checked[*is_shown];
                            (column.name)
                        }
                    }
                    button type="submit" { "Apply columns" }
                }
            }
        }
    }
}

fn cookie_name(kind: &str) -> String {
    format!("keytally_columns_{kind}")
}

pub(in crate::dashboard) async fn choose(
    context: PageContext,
    PostedForm(fields): PostedForm,
) -> Response {
    let chosen = fields.iter().filter(|(name, _)| *name == COLUMN);
    let chosen: Vec<_> = chosen.map(|(_, id)| id).collect();
    let known = COLUMNS.iter().map(|column| column.id);
    let chosen: Vec<_> = known.filter(|id| chosen.contains(id)).collect();
    let mut kinds = [Table::AllKeys, Table::OneKey].map(Table::name).into_iter();
    let kind = kinds.find(|kind| fields.get(KIND) == Some(kind));
    let cookie = kind.map(|kind| {
        let (name, value) = (cookie_name(kind), chosen.join(&SEPARATOR.to_string()));
        // As the script sets it.
        let cookie = format!("{name}={value}; Path=/; Max-Age=31536000; SameSite=Strict");
        [(SET_COOKIE, cookie)]
    });
    let page = redirect(next::url(&context.base, fields.get(NEXT)));
    (cookie, page).into_response()
}

/// There is nothing to show at the URL of the form.
pub(in crate::dashboard) async fn form(context: PageContext) -> Response {
    redirect(context.at("/log"))
}
