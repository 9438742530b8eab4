//! The owners and plans of the in-memory backend.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::key::{Key, Owner, OwnerQuery, Plan, Policy, StoreError};
use crate::page::Page;

#[derive(Default)]
pub(super) struct Owners {
    pub(super) owners: BTreeMap<Arc<str>, Owner>,
    pub(super) plans: BTreeMap<Arc<str>, Plan>,
}

impl Owners {
    /// Creates the owner of a key, unless it exists.
    pub(super) fn add(&mut self, owner: Option<&Arc<str>>, now: Timestamp) {
        if let Some(id) = owner
            && !self.owners.contains_key(id)
        {
            self.owners.insert(id.clone(), Owner::new(id.clone(), now));
        }
    }

    pub(super) fn check_plan(&self, plan: Option<&Arc<str>>) -> Result<(), StoreError> {
        match plan {
            Some(plan) if !self.plans.contains_key(plan) => {
                Err(StoreError::PlanNotFound(plan.clone()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn policy(&self, key: &Key) -> Policy {
        let plan = |name: &Option<Arc<str>>| self.plans.get(name.as_ref()?);
        let owner = key.owner.as_ref();
        let owner = owner.and_then(|owner| self.owners.get(owner));
        let owner_plan = owner.and_then(|owner| plan(&owner.plan));
        Policy::of(plan(&key.plan), owner, owner_plan)
    }

    pub(super) fn list(&self, query: &OwnerQuery) -> Result<Page<Owner>, StoreError> {
        let before = query.last_seen()?;
        let is_after = |owner: &Owner| {
            let before = before.as_ref();
            before.is_none_or(|(time, id)| (owner.created_at, &*owner.id) < (*time, &**id))
        };
        let owners = self.owners.values().filter(|owner| is_after(owner));
        let mut matching: Vec<_> = owners.filter(|owner| query.matches(owner)).collect();
        matching.sort_by_key(|owner| Reverse((owner.created_at, &owner.id)));
        let limit = query.page.size();
        let items = matching.into_iter().take(limit + 1).cloned().collect();
        Ok(Page::from_surplus(items, limit, OwnerQuery::page_token))
    }

    pub(super) fn has_owner_with(&self, plan: &str) -> bool {
        let mut owners = self.owners.values();
        owners.any(|owner| owner.plan.as_deref() == Some(plan))
    }
}
