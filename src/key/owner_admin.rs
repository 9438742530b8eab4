//! Administration of owners and plans.

use std::sync::Arc;

use async_trait::async_trait;

use super::audit::Actor;
use super::error::StoreError;
use super::owner::{Owner, OwnerChange, OwnerQuery, OwnerUpdate};
use super::plan::Plan;
use crate::page::Page;

/// A store in which owners and plans can be administered, which
/// [`KeyAdmin::owner_admin`](super::KeyAdmin::owner_admin) returns.
///
/// An owner is created when a key first names it, in the transaction that writes the key, or by its first change. Changes
/// have an entry in the audit log, if there is one, written in the same transaction.
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`).
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::key::{Actor, Issuer, NewKey, OwnerAdmin, OwnerUpdate, Plan};
/// use keytally::limit::RateLimit;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryBackend::new();
/// let anna = Actor::new("anna@example.com");
/// let mut plan = Plan::new("pro", "2026-11-01T10:00:00Z".parse()?);
/// plan.key_limits = vec![RateLimit::per_second(20)];
/// store.set_plan(plan, anna).await?;
///
/// let new = NewKey::new("Zapier integration").owner("customer-17");
/// Issuer::new("acme_live")?.issue(&store, new, anna).await?;
/// let owner = store.update_owner("customer-17", OwnerUpdate::new().plan(Some("pro")), anna).await?;
/// assert_eq!(owner.plan.as_deref(), Some("pro"));
/// store.suspend_owner("customer-17", anna).await?;
/// # Ok(()) }
/// ```
#[async_trait]
pub trait OwnerAdmin: Send + Sync + 'static {
    /// The owner with this id. `None` if no key has named it and it was not changed.
    ///
    /// # Errors
    ///
    /// Returns an error if the query fails.
    async fn owner(&self, id: &str) -> Result<Option<Owner>, StoreError>;

    /// Lists owners, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Page`] if the page token is invalid.
    async fn list_owners(&self, query: &OwnerQuery) -> Result<Page<Owner>, StoreError>;

    /// Changes an owner atomically, by [`Owner::apply`], and returns the changed owner. Creates the owner first if it does
    /// not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidOwner`] if a field would be out of bounds; [`StoreError::PlanNotFound`] if the update names a
    /// plan that does not exist. Nothing is changed then.
    async fn change_owner(
        &self,
        id: &str,
        change: OwnerChange,
        actor: Actor<'_>,
    ) -> Result<Owner, StoreError>;

    /// The plan with this name.
    ///
    /// # Errors
    ///
    /// Returns an error if the query fails.
    async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError>;

    /// All plans, sorted by name.
    ///
    /// # Errors
    ///
    /// Returns an error if the query fails.
    async fn list_plans(&self) -> Result<Vec<Plan>, StoreError>;

    /// Creates or replaces the plan with this name, and returns it as stored. Keys and owners of the plan have the new
    /// limits. A plan that exists keeps its creation time.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidPlan`] if a field is out of bounds.
    async fn set_plan(&self, plan: Plan, actor: Actor<'_>) -> Result<Plan, StoreError>;

    /// Deletes a plan that no key and no owner has.
    ///
    /// # Errors
    ///
    /// [`StoreError::PlanNotFound`]; [`StoreError::PlanInUse`] if a key or an owner has the plan, whatever its status.
    async fn delete_plan(&self, name: &str, actor: Actor<'_>) -> Result<(), StoreError>;

    /// Updates the fields of an owner.
    ///
    /// # Errors
    ///
    /// As [`change_owner`](Self::change_owner).
    async fn update_owner(
        &self,
        id: &str,
        update: OwnerUpdate,
        actor: Actor<'_>,
    ) -> Result<Owner, StoreError> {
        self.change_owner(id, OwnerChange::Update(Box::new(update)), actor)
            .await
    }

    /// Suspends an owner. All keys of the owner are rejected, with the same response as unknown keys.
    ///
    /// # Errors
    ///
    /// As [`change_owner`](Self::change_owner).
    async fn suspend_owner(&self, id: &str, actor: Actor<'_>) -> Result<Owner, StoreError> {
        self.change_owner(id, OwnerChange::Suspend, actor).await
    }

    /// Resumes a suspended owner.
    ///
    /// # Errors
    ///
    /// As [`change_owner`](Self::change_owner).
    async fn resume_owner(&self, id: &str, actor: Actor<'_>) -> Result<Owner, StoreError> {
        self.change_owner(id, OwnerChange::Resume, actor).await
    }
}

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: OwnerAdmin + ?Sized> OwnerAdmin for $pointer<S> {
            async fn owner(&self, id: &str) -> Result<Option<Owner>, StoreError> {
                (**self).owner(id).await
            }

            async fn list_owners(&self, query: &OwnerQuery) -> Result<Page<Owner>, StoreError> {
                (**self).list_owners(query).await
            }

            async fn change_owner(
                &self,
                id: &str,
                change: OwnerChange,
                actor: Actor<'_>,
            ) -> Result<Owner, StoreError> {
                (**self).change_owner(id, change, actor).await
            }

            async fn plan(&self, name: &str) -> Result<Option<Plan>, StoreError> {
                (**self).plan(name).await
            }

            async fn list_plans(&self) -> Result<Vec<Plan>, StoreError> {
                (**self).list_plans().await
            }

            async fn set_plan(&self, plan: Plan, actor: Actor<'_>) -> Result<Plan, StoreError> {
                (**self).set_plan(plan, actor).await
            }

            async fn delete_plan(&self, name: &str, actor: Actor<'_>) -> Result<(), StoreError> {
                (**self).delete_plan(name, actor).await
            }

            async fn update_owner(
                &self,
                id: &str,
                update: OwnerUpdate,
                actor: Actor<'_>,
            ) -> Result<Owner, StoreError> {
                (**self).update_owner(id, update, actor).await
            }

            async fn suspend_owner(&self, id: &str, actor: Actor<'_>) -> Result<Owner, StoreError> {
                (**self).suspend_owner(id, actor).await
            }

            async fn resume_owner(&self, id: &str, actor: Actor<'_>) -> Result<Owner, StoreError> {
                (**self).resume_owner(id, actor).await
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);
