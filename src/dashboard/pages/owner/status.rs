//! Suspends and resumes an owner.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::record::Record;
use crate::dashboard::flash::{Done, Flash};
use crate::dashboard::owner_path::owner_path;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::components::{self, name, name_of_owner};
use crate::dashboard::pages::owner_in_path::OwnerInPath;
use crate::dashboard::pages::posted_form::PostedForm;
use crate::dashboard::pages::{Failure, page, redirect_with};
use crate::dashboard::return_path::ReturnPath;
use crate::dashboard::state::Shared;
use crate::key::{KeyQuery, OwnerChange};
use crate::page::PageRequest;

pub(in crate::dashboard) async fn suspend_form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
) -> Response {
    let what = "Requests with any API key of this owner will be rejected until you resume it.";
    ask(&shared, &context, &owner, ["suspend", "Suspend", what]).await
}

pub(in crate::dashboard) async fn resume_form(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
) -> Response {
    let what = "Requests with the active API keys of this owner will be accepted again. Other instances may reject them for up to 30 seconds.";
    ask(&shared, &context, &owner, ["resume", "Resume", what]).await
}

async fn ask(
    shared: &Shared,
    context: &PageContext,
    owner: &str,
    [action, label, what]: [&str; 3],
) -> Response {
    let count = match count_of_keys(shared, owner).await {
        Ok(count) => count,
        Err(failure) => return failure.page(context),
    };
    let at = context.at(&owner_path(owner));
    let content = html! {
        p { a href=(at) { "Back to owner" } }
        h1 { (label) " " (name(name_of_owner(owner))) "?" }
        form .column .panel method="post" action={ (at) "/" (action) } {
            (components::token(context))
            p { (what) }
            dl .facts { div { dt { "API keys" } dd { (count) } } }
            p .actions {
                button type="submit" class=(if action == "resume" { "primary" } else { "danger" }) { (label) }
                a .button href=(at) { "Cancel" }
            }
        }
    };
    page(
        context,
        &format!("{label} {}", name_of_owner(owner)),
        &content,
    )
}

/// The number of keys of an owner, of at most one page.
async fn count_of_keys(shared: &Shared, owner: &str) -> Result<Markup, Failure> {
    let query = KeyQuery::new().owner(owner).limit(PageRequest::MAX_LIMIT);
    let page = shared.keys.list(&query).await?;
    Ok(html! { (page.items.len()) @if page.next.is_some() { "+" } })
}

pub(in crate::dashboard) async fn suspend(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
    _: PostedForm,
) -> Response {
    change(&shared, &context, &owner, OwnerChange::Suspend).await
}

pub(in crate::dashboard) async fn resume(
    State(shared): State<Arc<Shared>>,
    context: PageContext,
    OwnerInPath(owner): OwnerInPath,
    _: PostedForm,
) -> Response {
    change(&shared, &context, &owner, OwnerChange::Resume).await
}

async fn change(
    shared: &Shared,
    context: &PageContext,
    owner: &str,
    change: OwnerChange,
) -> Response {
    let done = match change {
        OwnerChange::Suspend => Done::Suspended,
        _ => Done::Resumed,
    };
    let changed = async {
        let record = Record::read(shared, owner).await?;
        let admin = record.ok_or(Failure::NotFound)?.admin;
        Ok::<_, Failure>(
            admin
                .change_owner(owner, change, context.admin.actor())
                .await?,
        )
    };
    match changed.await {
        Ok(_) => {
            let back = ReturnPath::owner(owner);
            redirect_with(shared, context, &back, &Flash::named(done, owner))
        }
        Err(failure) => failure.page(context),
    }
}
