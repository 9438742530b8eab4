//! Administration of owners and plans.

use jiff::Timestamp;
use sqlx::Error as SqlError;

use super::backend::SqlBackend;
use super::changed::Changed;
use super::engine::{Engine, Session, Statement};
use super::owners;
use crate::key::{Actor, AuditEntry, Owner, OwnerChange, OwnerQuery, Plan, StoreError};
use crate::page::{Page, PageRequest, whole_micros};

type Row<E> = <<E as Engine>::Session as Session>::Row;

impl<E: Engine> SqlBackend<E> {
    pub(in crate::backend) async fn owner(&self, id: &str) -> Result<Option<Owner>, StoreError> {
        // Stored texts never contain U+0000, which PostgreSQL rejects.
        if id.contains('\0') {
            return Ok(None);
        }
        let find = owners::find(self.names(), id);
        Ok(self.rows(find, owners::owner_of).await?.pop())
    }

    pub(in crate::backend) async fn list_owners(
        &self,
        query: &OwnerQuery,
    ) -> Result<Page<Owner>, StoreError> {
        let (mut after, size) = (query.last_seen()?, query.page.size());
        if query.plan.as_deref().is_some_and(|it| it.contains('\0')) {
            return Ok(Page::empty());
        }
        let limit = match query.contains.as_deref() {
            None | Some("") => size + 1,
            // The databases disagree about upper and lower case.
            Some(_) => PageRequest::MAX_LIMIT,
        };
        let mut found = Vec::new();
        loop {
            let list = owners::list(self.names(), query, after.as_ref(), limit);
            let owners = self.rows(list, owners::owner_of).await?;
            let is_last = owners.len() < limit;
            after = owners.last().map(|it| (it.created_at, it.id.to_string()));
            found.extend(owners.into_iter().filter(|owner| query.matches(owner)));
            if is_last || found.len() > size {
                return Ok(Page::from_surplus(found, size, OwnerQuery::page_token));
            }
        }
    }

    pub(in crate::backend) async fn change_owner(
        &self,
        id: &str,
        what: OwnerChange,
        actor: Actor<'_>,
    ) -> Result<Owner, StoreError> {
        let now = Timestamp::now();
        let new = Owner::new(id, now);
        new.validate()?;
        let mut change = self.begin().await?;
        let insert = owners::insert(self.names(), std::slice::from_ref(&new));
        let is_new = change.run(insert).await? > 0;
        let lock = owners::lock(self.names(), id);
        let locked = change.fetch(lock, owners::owner_of).await?.pop();
        let mut owner = locked.ok_or_else(|| StoreError::unavailable(SqlError::RowNotFound))?;
        let before = (!is_new).then(|| owner.clone());
        owner.apply(&what)?;
        if let Some(plan) = &owner.plan
            && before.as_ref().and_then(|it| it.plan.as_ref()) != Some(plan)
        {
            change.require_plan(plan).await?;
        }
        change.run(owners::update(self.names(), &owner)).await?;
        let entry = AuditEntry::owner_changed(actor, &what, before, owner.clone(), now);
        change.record_audit(&[entry]).await?;
        change
            .commit(vec![Changed::Owner(owner.id.clone())])
            .await?;
        Ok(owner)
    }

    pub(in crate::backend) async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError> {
        if name.contains('\0') {
            return Ok(None);
        }
        let find = owners::find_plan(self.names(), name);
        Ok(self.rows(find, owners::plan_of).await?.pop())
    }

    pub(in crate::backend) async fn list_plans(&self) -> Result<Vec<Plan>, StoreError> {
        self.rows(owners::plans(self.names()), owners::plan_of)
            .await
    }

    pub(in crate::backend) async fn set_plan(
        &self,
        mut plan: Plan,
        actor: Actor<'_>,
    ) -> Result<Plan, StoreError> {
        plan.validate()?;
        plan.created_at = whole_micros(plan.created_at);
        let mut change = self.begin().await?;
        let before = loop {
            if change.run(owners::insert_plan(self.names(), &plan)).await? > 0 {
                break None;
            }
            // It may have been deleted meanwhile.
            let lock = owners::lock_plan(self.names(), &plan.name);
            if let Some(before) = change.fetch(lock, owners::plan_of).await?.pop() {
                break Some(before);
            }
        };
        if let Some(before) = &before {
            plan.created_at = before.created_at;
            change.run(owners::update_plan(self.names(), &plan)).await?;
        }
        let entry = AuditEntry::plan_set(actor, before, plan.clone(), Timestamp::now());
        change.record_audit(&[entry]).await?;
        change.commit(vec![Changed::Plans]).await?;
        Ok(plan)
    }

    pub(in crate::backend) async fn delete_plan(
        &self,
        name: &str,
        actor: Actor<'_>,
    ) -> Result<(), StoreError> {
        let not_found = || StoreError::PlanNotFound(name.into());
        if name.contains('\0') {
            return Err(not_found());
        }
        let mut change = self.begin().await?;
        let lock = owners::lock_plan(self.names(), name);
        let plan = change.fetch(lock, owners::plan_of).await?.pop();
        let plan = plan.ok_or_else(not_found)?;
        let uses = owners::uses_of_plan(self.names(), name);
        if !change.fetch(uses, |_| Ok(())).await?.is_empty() {
            return Err(StoreError::PlanInUse(plan.name));
        }
        change.run(owners::delete_plan(self.names(), name)).await?;
        let entry = AuditEntry::plan_deleted(actor, plan, Timestamp::now());
        change.record_audit(&[entry]).await?;
        // No key has the plan, so that caches need no invalidation.
        change.commit(Vec::new()).await
    }

    async fn rows<T>(
        &self,
        statement: Statement,
        decode: impl Fn(&Row<E>) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = async {
            let rows = self.engine.reader().await?.fetch(statement).await?;
            rows.iter().map(decode).collect::<Result<_, SqlError>>()
        };
        rows.await.map_err(StoreError::unavailable)
    }
}
