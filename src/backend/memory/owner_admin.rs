//! Administration of owners and plans in the in-memory backend.

use async_trait::async_trait;

use super::backend::MemoryBackend;
use crate::key::{Actor, AuditEntry, Owner, OwnerAdmin, OwnerChange, OwnerQuery, Plan, StoreError};
use crate::page::{Page, whole_micros};

#[async_trait]
impl OwnerAdmin for MemoryBackend {
    async fn owner(&self, id: &str) -> Result<Option<Owner>, StoreError> {
        Ok(self.keys().owners.owners.get(id).cloned())
    }

    async fn list_owners(&self, query: &OwnerQuery) -> Result<Page<Owner>, StoreError> {
        self.keys().owners.list(query)
    }

    async fn change_owner(
        &self,
        id: &str,
        change: OwnerChange,
        actor: Actor<'_>,
    ) -> Result<Owner, StoreError> {
        let owner = {
            let mut keys = self.keys();
            let now = whole_micros(self.time());
            let before = keys.owners.owners.get(id).cloned();
            let mut owner = before.clone().unwrap_or_else(|| Owner::new(id, now));
            owner.validate()?;
            owner.apply(&change)?;
            keys.owners.check_plan(owner.plan.as_ref())?;
            let entry = AuditEntry::owner_changed(actor, &change, before, owner.clone(), now);
            keys.owners.owners.insert(owner.id.clone(), owner.clone());
            keys.audit.add(entry);
            owner
        };
        self.shared.changes.publish_owner(id);
        Ok(owner)
    }

    async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError> {
        Ok(self.keys().owners.plans.get(name).cloned())
    }

    async fn list_plans(&self) -> Result<Vec<Plan>, StoreError> {
        Ok(self.keys().owners.plans.values().cloned().collect())
    }

    async fn set_plan(&self, mut plan: Plan, actor: Actor<'_>) -> Result<Plan, StoreError> {
        plan.validate()?;
        {
            let mut keys = self.keys();
            let before = keys.owners.plans.get(&plan.name).cloned();
            let created_at = before.as_ref().map_or(plan.created_at, |it| it.created_at);
            plan.created_at = whole_micros(created_at);
            let entry = AuditEntry::plan_set(actor, before, plan.clone(), self.time());
            keys.owners.plans.insert(plan.name.clone(), plan.clone());
            keys.audit.add(entry);
        }
        self.shared.changes.publish_all();
        Ok(plan)
    }

    async fn delete_plan(&self, name: &str, actor: Actor<'_>) -> Result<(), StoreError> {
        let mut keys = self.keys();
        let Some(plan) = keys.owners.plans.get(name).cloned() else {
            return Err(StoreError::PlanNotFound(name.into()));
        };
        if keys.owners.has_owner_with(name) || keys.has_key_with(name) {
            return Err(StoreError::PlanInUse(plan.name));
        }
        keys.owners.plans.remove(name);
        let entry = AuditEntry::plan_deleted(actor, plan, self.time());
        keys.audit.add(entry);
        // No key has the plan, so that caches need no invalidation.
        Ok(())
    }
}
