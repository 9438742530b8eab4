//! Plans, and the policy that a key has from its plan and its owner.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{InvalidPlan, check_time};
use super::field_bounds::{check_metadata, is_name};
use super::owner::{Owner, OwnerStatus};
use crate::limit::{RateLimit, Subject, SubjectLimits};
use crate::page::whole_micros;

/// A named set of rate limits, for keys and owners that have none of their own.
///
/// ```
/// use keytally::key::Plan;
/// use keytally::limit::RateLimit;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut plan = Plan::new("pro", "2026-11-01T10:00:00Z".parse()?);
/// plan.key_limits = vec![RateLimit::per_second(20)];
/// plan.owner_limits = vec![RateLimit::per_minute(6_000)];
/// plan.validate()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// The name, which identifies the plan.
    pub name: Arc<str>,
    /// Rate limits of each key without limits of its own. If empty, the limits of the owner's plan or the defaults of the
    /// layer apply.
    pub key_limits: Vec<RateLimit>,
    /// Rate limits that all keys of an owner share, for owners without limits of their own. If empty, there are none.
    pub owner_limits: Vec<RateLimit>,
    /// Additional data of the application.
    pub metadata: Map<String, Value>,
    /// When the plan was created. Replacing it keeps the time.
    pub created_at: Timestamp,
}

impl Plan {
    /// Creates a plan without limits.
    pub fn new(name: impl Into<Arc<str>>, created_at: Timestamp) -> Self {
        Self {
            name: name.into(),
            key_limits: Vec::new(),
            owner_limits: Vec::new(),
            metadata: Map::new(),
            created_at: whole_micros(created_at),
        }
    }

    /// Checks that every field is within its bounds; [`InvalidPlan`] lists them.
    ///
    /// # Errors
    ///
    /// The first violation found.
    pub fn validate(&self) -> Result<(), InvalidPlan> {
        if !is_name(&self.name) || self.name.trim() != &*self.name {
            return Err(InvalidPlan::Name);
        }
        check_metadata(&self.metadata)?;
        check_time(self.created_at).map_err(|_| InvalidPlan::Time)?;
        RateLimit::validate_all(&self.key_limits).map_err(InvalidPlan::KeyLimits)?;
        let limits = SubjectLimits::new(Subject::Owner(""), &self.owner_limits);
        limits.validate().map_err(InvalidPlan::OwnerLimits)
    }
}

/// The limits and the status that a key has from its plan and its owner. Stores resolve it in the lookup of the key; the default, for
/// stores without plans and owners, has no limits.
///
/// ```
/// use keytally::key::{Owner, Plan, Policy};
/// use keytally::limit::RateLimit;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let now = "2026-11-01T10:00:00Z".parse()?;
/// let mut plan = Plan::new("pro", now);
/// plan.key_limits = vec![RateLimit::per_second(20)];
/// let owner = Owner::new("customer-17", now);
/// let policy = Policy::of(None, Some(&owner), Some(&plan));
/// assert_eq!(policy.key_limits, plan.key_limits);
/// assert!(!policy.is_owner_suspended);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Policy {
    /// The rate limits of the key unless it has its own: those of its plan, or else those of its owner's plan. If empty,
    /// the defaults of the layer apply.
    pub key_limits: Vec<RateLimit>,
    /// The rate limits that all keys of the owner share: those of the owner, or else those of the owner's plan.
    pub owner_limits: Vec<RateLimit>,
    /// Whether the owner is suspended. Keys of a suspended owner are rejected.
    pub is_owner_suspended: bool,
}

impl Policy {
    /// The policy of a key with this plan, of this owner, who has this plan.
    pub fn of(key_plan: Option<&Plan>, owner: Option<&Owner>, owner_plan: Option<&Plan>) -> Self {
        let key_limits = |plan: Option<&Plan>| plan.map(|plan| plan.key_limits.clone());
        let owner_limits = [
            owner.map(|owner| owner.limits.clone()),
            owner_plan.map(|plan| plan.owner_limits.clone()),
        ];
        Self::resolve(
            [key_plan, owner_plan].map(|plan| key_limits(plan).unwrap_or_default()),
            owner_limits.map(Option::unwrap_or_default),
            owner.map(|owner| owner.status),
        )
    }

    /// Takes the first limits that are not empty.
    pub(crate) fn resolve(
        key_limits: [Vec<RateLimit>; 2],
        owner_limits: [Vec<RateLimit>; 2],
        owner: Option<OwnerStatus>,
    ) -> Self {
        let first = |[own, other]: [Vec<RateLimit>; 2]| if own.is_empty() { other } else { own };
        Self {
            key_limits: first(key_limits),
            owner_limits: first(owner_limits),
            is_owner_suspended: owner == Some(OwnerStatus::Suspended),
        }
    }

    /// Whether nothing applies.
    pub(crate) fn is_empty(&self) -> bool {
        self.key_limits.is_empty() && self.owner_limits.is_empty() && !self.is_owner_suspended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::InvalidMetadata;
    use crate::limit::InvalidLimit;

    fn limits(burst: u32) -> Vec<RateLimit> {
        vec![RateLimit::per_second(1).with_burst(burst)]
    }

    #[test]
    fn first_limits_that_are_not_empty_apply() {
        let plan = |key, owner| Plan {
            key_limits: limits(key),
            owner_limits: limits(owner),
            ..Plan::new("pro", Timestamp::UNIX_EPOCH)
        };
        let (key_plan, owner_plan) = (plan(1, 2), plan(3, 4));
        let bare = Plan::new("bare", Timestamp::UNIX_EPOCH);
        let owner = Owner::new("acme", Timestamp::UNIX_EPOCH);
        let limited = Owner {
            limits: limits(5),
            status: OwnerStatus::Suspended,
            ..owner.clone()
        };
        let all = Policy::of(Some(&key_plan), Some(&limited), Some(&owner_plan));
        let expected = (limits(1), limits(5), true);
        assert_eq!(
            (all.key_limits, all.owner_limits, all.is_owner_suspended),
            expected
        );
        for key_plan in [None, Some(&bare)] {
            let policy = Policy::of(key_plan, Some(&owner), Some(&owner_plan));
            let expected = (limits(3), limits(4), false);
            assert_eq!(
                (
                    policy.key_limits,
                    policy.owner_limits,
                    policy.is_owner_suspended
                ),
                expected
            );
        }
        // The owner limits of a plan are those of owners, not of keys.
        let policy = Policy::of(Some(&key_plan), None, None);
        assert_eq!(
            (policy.key_limits, policy.owner_limits),
            (limits(1), vec![])
        );
        assert!(Policy::of(Some(&bare), Some(&owner), Some(&bare)).is_empty());
        assert!(Policy::default().is_empty());
        let mutations: [fn(&mut Policy); 3] = [
            |it| it.key_limits = limits(1),
            |it| it.owner_limits = limits(1),
            |it| it.is_owner_suspended = true,
        ];
        for mutate in mutations {
            let mut policy = Policy::default();
            mutate(&mut policy);
            assert!(!policy.is_empty(), "{policy:?}");
        }
    }

    #[test]
    fn fields_of_plans_are_bounded() {
        let plan = |name: &str| Plan::new(name, Timestamp::UNIX_EPOCH);
        for fits in ["a", "Business 2026", &"ä".repeat(100)] {
            assert_eq!(plan(fits).validate(), Ok(()), "{fits}");
        }
        for other in ["", " ", " a", "a\u{a0}", "a\n", &"a".repeat(101)] {
            assert_eq!(plan(other).validate(), Err(InvalidPlan::Name), "{other:?}");
        }
        let mut wrong = plan("a");
        let named = |n: usize| RateLimit::per_second(1).with_name(n.to_string());
        wrong.owner_limits = (0..=RateLimit::MAX_PER_OWNER).map(named).collect();
        let too_many = InvalidPlan::OwnerLimits(InvalidLimit::TooMany);
        assert_eq!(wrong.validate(), Err(too_many));
        let invalid = vec![RateLimit::per_second(0)];
        wrong.owner_limits = invalid.clone();
        assert_eq!(
            wrong.validate(),
            Err(InvalidPlan::OwnerLimits(InvalidLimit::Zero))
        );
        wrong.key_limits = invalid;
        assert_eq!(
            wrong.validate(),
            Err(InvalidPlan::KeyLimits(InvalidLimit::Zero))
        );
        wrong.created_at = Timestamp::MIN;
        assert_eq!(wrong.validate(), Err(InvalidPlan::Time));
        wrong.metadata.insert("a".into(), "\0".into());
        assert_eq!(
            wrong.validate(),
            Err(InvalidPlan::Metadata(InvalidMetadata::Nul))
        );
    }
}
