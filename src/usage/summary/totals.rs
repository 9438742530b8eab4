//! Totals over a set of requests.

use serde::{Deserialize, Serialize};

use crate::usage::saturating::{self, add};
use crate::usage::{Cause, Outcome, RejectionReason, Rollup};

/// The number of requests by outcome, with their total cost, billable part and body sizes.
///
/// [`total`](Self::total) is computed from the outcomes, so they always add up. Instead of overflowing, numbers
/// saturate at 2⁶³ − 1, the largest number that every database can store, so the order of additions does not
/// matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Shown", from = "Shown")]
pub struct Totals {
    completed: u64,
    rate_limited: u64,
    /// Indexed by [`Cause`]; the last element counts failures without a cause.
    failed: [u64; FAILURES],
    cost: u64,
    billable: u64,
    billable_cost: u64,
    request_bytes: u64,
    response_bytes: u64,
}

const FAILURES: usize = Cause::ALL.len() + 1;
const NO_CAUSE: usize = Cause::ALL.len();

/// The amounts that one event or rollup contributes.
#[derive(Debug, Clone, Copy)]
pub struct Amounts {
    pub(crate) outcome: Outcome,
    pub(crate) cause: Option<Cause>,
    pub(crate) rejection_reason: Option<RejectionReason>,
    pub(crate) billable: bool,
    pub(crate) count: u64,
    pub(crate) cost: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

impl Amounts {
    pub(crate) fn of(rollup: &Rollup) -> Self {
        Self {
            outcome: rollup.outcome,
            cause: rollup.cause,
            rejection_reason: rollup.rejection_reason,
            billable: rollup.billable,
            count: rollup.count,
            cost: rollup.cost,
            request_bytes: rollup.request_bytes,
            response_bytes: rollup.response_bytes,
        }
    }
}

impl Totals {
    /// The number of all requests.
    pub fn total(&self) -> u64 {
        saturating::total([self.completed, self.rate_limited, self.failed()])
    }

    /// The number of completed requests.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// The number of requests rejected by a rate limit.
    pub fn rate_limited(&self) -> u64 {
        self.rate_limited
    }

    /// The number of failed requests, for any cause.
    pub fn failed(&self) -> u64 {
        saturating::total(self.failed)
    }

    /// The number of requests that failed for this cause; `None` for failures without a cause.
    pub fn failed_by(&self, cause: impl Into<Option<Cause>>) -> u64 {
        self.failed[cause.into().map_or(NO_CAUSE, |cause| cause as usize)]
    }

    /// The total cost of the requests.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// The number of [billable](crate::usage::RecorderBuilder::billable) requests.
    pub fn billable(&self) -> u64 {
        self.billable
    }

    /// The total cost of the billable requests.
    pub fn billable_cost(&self) -> u64 {
        self.billable_cost
    }

    /// The total size of the request bodies in bytes.
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes
    }

    /// The total size of the response bodies in bytes.
    pub fn response_bytes(&self) -> u64 {
        self.response_bytes
    }

    /// Adds the totals of other requests.
    pub fn merge(&mut self, other: &Self) {
        add(&mut self.completed, other.completed);
        add(&mut self.rate_limited, other.rate_limited);
        for (mine, &theirs) in self.failed.iter_mut().zip(&other.failed) {
            add(mine, theirs);
        }
        add(&mut self.cost, other.cost);
        add(&mut self.billable, other.billable);
        add(&mut self.billable_cost, other.billable_cost);
        add(&mut self.request_bytes, other.request_bytes);
        add(&mut self.response_bytes, other.response_bytes);
    }

    #[inline]
    pub(crate) fn add(&mut self, amounts: &Amounts) {
        let counter = match amounts.outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::RateLimited => &mut self.rate_limited,
            Outcome::Failed => {
                &mut self.failed[amounts.cause.map_or(NO_CAUSE, |cause| cause as usize)]
            }
        };
        add(counter, amounts.count);
        add(&mut self.cost, amounts.cost);
        if amounts.billable {
            add(&mut self.billable, amounts.count);
            add(&mut self.billable_cost, amounts.cost);
        }
        add(&mut self.request_bytes, amounts.request_bytes);
        add(&mut self.response_bytes, amounts.response_bytes);
    }
}

impl<'a> std::iter::Sum<&'a Self> for Totals {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, totals| {
            sum.merge(totals);
            sum
        })
    }
}

/// The JSON representation. `total` and `failed` are computed; deserialization ignores them.
#[derive(Serialize, Deserialize)]
struct Shown {
    #[serde(default)]
    total: u64,
    completed: u64,
    #[serde(default)]
    failed: u64,
    rate_limited: u64,
    failures: Failures,
    cost: u64,
    #[serde(default)]
    billable: u64,
    #[serde(default)]
    billable_cost: u64,
    request_bytes: u64,
    response_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Failures {
    #[serde(alias = "refused")]
    rejected: u64,
    client_error: u64,
    server_error: u64,
    cancelled: u64,
    other: u64,
}

impl From<Totals> for Shown {
    fn from(totals: Totals) -> Self {
        Self {
            total: totals.total(),
            completed: totals.completed,
            failed: totals.failed(),
            rate_limited: totals.rate_limited,
            failures: Failures {
                rejected: totals.failed_by(Cause::Rejected),
                client_error: totals.failed_by(Cause::ClientError),
                server_error: totals.failed_by(Cause::ServerError),
                cancelled: totals.failed_by(Cause::Cancelled),
                other: totals.failed_by(None),
            },
            cost: totals.cost,
            billable: totals.billable,
            billable_cost: totals.billable_cost,
            request_bytes: totals.request_bytes,
            response_bytes: totals.response_bytes,
        }
    }
}

impl From<Shown> for Totals {
    fn from(shown: Shown) -> Self {
        let mut failed = [0; FAILURES];
        failed[Cause::Rejected as usize] = shown.failures.rejected;
        failed[Cause::ClientError as usize] = shown.failures.client_error;
        failed[Cause::ServerError as usize] = shown.failures.server_error;
        failed[Cause::Cancelled as usize] = shown.failures.cancelled;
        failed[NO_CAUSE] = shown.failures.other;
        let read = Self {
            completed: shown.completed,
            rate_limited: shown.rate_limited,
            failed,
            cost: shown.cost,
            billable: shown.billable,
            billable_cost: shown.billable_cost,
            request_bytes: shown.request_bytes,
            response_bytes: shown.response_bytes,
        };
        // The input may exceed the maximum; merging saturates.
        let mut totals = Self::default();
        totals.merge(&read);
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::saturating::MAX;

    fn amounts(outcome: Outcome, cause: Option<Cause>, count: u64) -> Amounts {
        Amounts {
            outcome,
            cause,
            rejection_reason: None,
            billable: outcome == Outcome::Completed,
            count,
            cost: 2,
            request_bytes: 3,
            response_bytes: MAX / 2,
        }
    }

    #[test]
    fn the_total_is_the_sum_of_the_outcomes() {
        let mut totals = Totals::default();
        totals.add(&amounts(Outcome::Completed, None, 4));
        totals.add(&amounts(Outcome::RateLimited, None, 3));
        for cause in Cause::ALL {
            totals.add(&amounts(Outcome::Failed, Some(cause), 1));
            assert_eq!(totals.failed_by(cause), 1);
        }
        totals.add(&amounts(Outcome::Failed, None, 5));
        assert_eq!((totals.failed(), totals.failed_by(None)), (9, 5));
        assert_eq!(totals.total(), 16);
        assert_eq!((totals.cost(), totals.request_bytes()), (14, 21));
        assert_eq!(totals.response_bytes(), MAX);
    }

    #[test]
    fn totals_add_up() {
        let mut one = Totals::default();
        one.add(&amounts(Outcome::Completed, None, 4));
        let mut other = Totals::default();
        other.add(&amounts(Outcome::Failed, Some(Cause::Cancelled), 5));
        let sum: Totals = [&one, &other].into_iter().sum();
        assert_eq!((sum.completed(), sum.failed_by(Cause::Cancelled)), (4, 5));
        assert_eq!((sum.cost(), sum.request_bytes()), (4, 6));
    }

    #[test]
    fn json_has_computed_totals_and_round_trips() {
        let mut totals = Totals::default();
        totals.add(&amounts(Outcome::Failed, Some(Cause::Cancelled), 2));
        totals.add(&amounts(Outcome::Completed, None, 1));
        let value = serde_json::to_value(&totals).unwrap();
        assert_eq!((&value["total"], &value["failed"]), (&3.into(), &2.into()));
        assert_eq!(value["failures"]["cancelled"], 2);
        assert_eq!(
            serde_json::from_value::<Totals>(value.clone()).unwrap(),
            totals
        );
        let mut too_large = value;
        too_large["cost"] = u64::MAX.into();
        let read = serde_json::from_value::<Totals>(too_large).unwrap();
        assert_eq!(read.cost(), MAX);
    }

    #[test]
    fn a_cause_without_a_failure_is_ignored() {
        let mut totals = Totals::default();
        totals.add(&amounts(Outcome::Completed, Some(Cause::Rejected), 1));
        assert_eq!((totals.completed(), totals.failed()), (1, 0));
    }
}
