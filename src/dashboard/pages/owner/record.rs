//! The record of an owner on its page: status, plan and limits, and the actions on it.

use maud::{Markup, html};

use crate::dashboard::form::FormFields;
use crate::dashboard::owner_path::owner_path;
use crate::dashboard::page_context::PageContext;
use crate::dashboard::pages::Failure;
use crate::dashboard::pages::components::{folded, minute, name_or_none};
use crate::dashboard::pages::plans;
use crate::dashboard::state::Shared;
use crate::key::{Owner, OwnerAdmin, Plan, Policy};
use crate::limit::RateLimit;

/// An owner, who may have no record yet, and the owner's plan.
pub(super) struct Record<'a> {
    pub(super) admin: &'a dyn OwnerAdmin,
    pub(super) owner: Option<Owner>,
    pub(super) plan: Option<Plan>,
}

impl<'a> Record<'a> {
    /// `None` if the store has no owners.
    pub(super) async fn read(shared: &'a Shared, id: &str) -> Result<Option<Self>, Failure> {
        let Some(admin) = shared.keys.owner_admin() else {
            return Ok(None);
        };
        let owner = admin.owner(id).await?;
        let plan = match owner.as_ref().and_then(|owner| owner.plan.as_deref()) {
            Some(plan) => admin.plan(plan).await?,
            None => None,
        };
        Ok(Some(Self { admin, owner, plan }))
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.owner.as_ref().is_some_and(Owner::is_suspended)
    }

    /// The limits of all keys together.
    pub(super) fn limits(&self) -> Vec<RateLimit> {
        Policy::of(None, self.owner.as_ref(), self.plan.as_ref()).owner_limits
    }

    pub(super) fn section(&self, context: &PageContext, id: &str) -> Markup {
        let owner = self.owner.as_ref();
        let plan = owner.and_then(|owner| owner.plan.as_deref());
        let of_plan = self.plan.as_ref();
        let of_keys = of_plan.map(|plan| &plan.key_limits[..]);
        let facts = [
            ("Status", html! { (badge(self.is_suspended())) }),
            (
                "Name",
                name_or_none(owner.and_then(|owner| owner.name.as_deref())),
            ),
            ("Plan", plans::link(context, plan)),
            (
                "Rate limits of all keys together",
                plans::limits(&self.limits(), "None"),
            ),
            (
                "Rate limits of each key",
                plans::limits(of_keys.unwrap_or_default(), "Service defaults"),
            ),
            (
                "Created",
                html! { @match owner { Some(owner) => (minute(context, owner.created_at)), None => "–" } },
            ),
        ];
        let at = context.at(&owner_path(id));
        let of_owner: FormFields = [("owner", id.to_owned())].into_iter().collect();
        html! {
            section .panel aria-label="Owner details" {
                (folded(&html! { "Details" }, false, &html! { dl .facts {
                    @for (term, fact) in facts { div { dt { (term) } dd { (fact) } } }
                } }))
                p .actions {
                    a .button href={ (at) "/edit" } { "Edit" } " "
                    @if self.is_suspended() {
                        a .button href={ (at) "/resume" } { "Resume" } " "
                    } @else {
                        a .button .danger href={ (at) "/suspend" } { "Suspend" } " "
                    }
                    a .button href={ (context.at("/keys")) "?" (of_owner.query()) } { "View API keys" } " "
                    a .button href={ (context.at("/audit")) "?" (of_owner.query()) } { "View audit log" }
                }
            }
        }
    }
}

/// The status of an owner.
pub(in crate::dashboard::pages) fn badge(is_suspended: bool) -> Markup {
    html! {
        @if is_suspended { span .badge.disabled { "suspended" } }
        @else { span .badge.active { "active" } }
    }
}
