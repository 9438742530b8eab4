//! The suite for limiters.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::assert::{equal, fails_with, holds, join_all, succeeds};
use super::fixture::id;
use crate::clock::{Clock, Now};
use crate::id::KeyId;
use crate::limit::{
    Decision, LimitError, LimitHandle, LimitResponse, Limiter, RateLimit, Subject, SubjectLimits,
};

/// Checks a limiter. Takes a second or two: the suite waits for capacity to return, since a limiter may use the time of
/// its server instead of the one that it is given.
///
/// # Panics
///
/// If the limiter breaks one of these rules:
///
/// - A limit admits its burst at once and rejects requests beyond it. Each decision has the status of every limit, in
///   the order in which they were attached.
/// - A rejected request is admitted after its [wait](Decision::wait). A cost above the burst is never admitted, and has
///   no wait.
/// - A request consumes its cost from every limit of all subjects, or from none if one of them is exceeded. A cost of 0 and
///   [`peek`](LimitHandle::peek) consume nothing, and a cost of 0 is always admitted.
/// - Handles share the usage of limits of the same subject and name; other subjects and names have usage of their own.
///   A key and an owner are different subjects, also if their ids are equal. An owner without limits changes nothing.
///   Dropping the handles of a subject keeps its usage.
/// - Concurrent requests consume no more than the burst.
/// - [Another cost](LimitHandle::recharge) of an admitted request is charged instead of the first one; a higher cost only
///   if every limit allows it. Returned capacity is not returned twice.
/// - Invalid limits are rejected with [`LimitError::Invalid`].
pub async fn limiter<L: Limiter + ?Sized>(limiter: &L) {
    let suite = Suite { limiter };
    suite.burst().await;
    suite.waits().await;
    suite.all_or_none().await;
    suite.shared_usage().await;
    suite.concurrent_requests().await;
    suite.other_costs().await;
    suite.restored_costs().await;
    suite.owners().await;
    suite.invalid_limits();
}

struct Suite<'a, L: ?Sized> {
    limiter: &'a L,
}

/// The attached limits of a subject.
struct Attached(Arc<dyn LimitHandle>);

impl<L: Limiter + ?Sized> Suite<'_, L> {
    fn attach(&self, lineage: KeyId, limits: &[RateLimit]) -> Attached {
        self.attach_all(&[SubjectLimits::new(lineage, limits)])
    }

    fn attach_all(&self, subjects: &[SubjectLimits<'_>]) -> Attached {
        let attached = self.limiter.attach(subjects, Clock::system().now());
        Attached(succeeds(attached, "valid limits are attached"))
    }

    async fn burst(&self) {
        // Restored so slowly that a busy machine makes no difference.
        let limits = [RateLimit::per_day(6), RateLimit::per_day(4).with_name("b")];
        let attached = self.attach(id(), &limits);
        for used in 1..=4 {
            let decision = attached.acquire(1).await;
            holds(decision.is_allowed(), "a limit admits its burst at once");
            let expected = [6 - used, 4 - used];
            let rule =
                "a decision has the remaining cost of every limit, in the order of attachment";
            equal(&remaining(&decision), &expected.to_vec(), rule);
        }
        let decision = attached.acquire(1).await;
        let rule = "a limit rejects requests beyond its burst, and no other limit does";
        let exceeded = [decision.is_exceeded(0), decision.is_exceeded(1)];
        equal(&exceeded, &[false, true], rule);
    }

    async fn waits(&self) {
        let limit = RateLimit::per_second(8).with_burst(1);
        let attached = self.attach(id(), &[limit]);
        holds(
            attached.acquire(1).await.is_allowed(),
            "a limit admits its burst at once",
        );
        for _ in 0..3 {
            let decision = attached.acquire(1).await;
            // On a busy machine, the capacity may have returned.
            if let Some(wait) = decision.wait() {
                let rule = "a wait is no longer than the time that restores the cost";
                holds(wait <= Duration::from_millis(125), rule);
                tokio::time::sleep(wait).await;
                let rule = "a rejected request is admitted after its wait";
                holds(attached.acquire(1).await.is_allowed(), rule);
            }
        }
        let decision = attached.acquire(2).await;
        holds(!decision.is_allowed(), "a cost above the burst is rejected");
        equal(
            &decision.wait(),
            &None,
            "a cost above the burst has no wait",
        );
    }

    async fn all_or_none(&self) {
        let limits = [RateLimit::per_day(9), RateLimit::per_day(3).with_name("b")];
        let attached = self.attach(id(), &limits);
        holds(
            attached.acquire(2).await.is_allowed(),
            "a cost within the limits is admitted",
        );
        holds(
            !attached.acquire(2).await.is_allowed(),
            "a cost beyond one of the limits is rejected",
        );
        let rule = "a rejected request and a cost of 0 consume nothing";
        equal(&remaining(&attached.acquire(0).await), &vec![7, 1], rule);
        equal(&remaining(&attached.acquire(0).await), &vec![7, 1], rule);
        for _ in 0..2 {
            equal(
                &remaining(&attached.peek().await),
                &vec![7, 1],
                "`peek` consumes nothing",
            );
        }
        holds(
            attached.acquire(1).await.is_allowed(),
            "the rest of a limit is admitted",
        );
        let rule = "a cost of 0 is always admitted";
        holds(attached.acquire(0).await.is_allowed(), rule);
    }

    async fn shared_usage(&self) {
        let subject = id();
        let attached = self.attach(subject, &[RateLimit::per_day(5)]);
        holds(
            attached.acquire(2).await.is_allowed(),
            "a cost within the limit is admitted",
        );
        let other = self.attach(id(), &[RateLimit::per_day(5)]);
        let rule = "other subjects have usage of their own";
        equal(&remaining(&other.peek().await), &vec![5], rule);
        let again = self.attach(subject, &[RateLimit::per_day(5)]);
        let rule = "handles share the usage of a subject";
        equal(&remaining(&again.acquire(1).await), &vec![2], rule);
        equal(&remaining(&attached.peek().await), &vec![2], rule);
        let named = self.attach(subject, &[RateLimit::per_day(5).with_name("b")]);
        let rule = "limits of other names have usage of their own";
        equal(&remaining(&named.peek().await), &vec![5], rule);
        drop((attached, again, named));
        let again = self.attach(subject, &[RateLimit::per_day(5)]);
        let rule = "dropping the handles of a subject keeps its usage";
        equal(&remaining(&again.peek().await), &vec![2], rule);
    }

    async fn owners(&self) {
        let ids = [id(), id()];
        let owner = Subject::Owner(ids[0].as_str());
        let (of_keys, of_owner) = ([RateLimit::per_day(3)], [RateLimit::per_day(4)]);
        let [first, second] = ids.map(|id| {
            self.attach_all(&[
                SubjectLimits::new(id, &of_keys),
                SubjectLimits::new(owner, &of_owner),
            ])
        });
        let rule = "the limits of a key and its owner are charged together, and are separate";
        equal(&remaining(&first.acquire(1).await), &vec![2, 3], rule);
        let rule = "the keys of an owner share its limits";
        equal(&remaining(&second.acquire(2).await), &vec![1, 1], rule);
        let decision = first.acquire(2).await;
        let exceeded = [decision.is_exceeded(0), decision.is_exceeded(1)];
        let rule = "a cost beyond a limit of the owner is rejected";
        equal(&exceeded, &[false, true], rule);
        let rule = "a rejected request consumes nothing from any subject";
        equal(&remaining(&first.peek().await), &vec![2, 1], rule);
        let charged_at = Clock::system().now();
        holds(
            first.acquire(1).await.is_allowed(),
            "the rest of a limit is admitted",
        );
        let left = remaining(&first.recharge(1, charged_at, 0).await);
        let rule = "a lower cost is returned to all subjects";
        equal(&left, &vec![2, 1], rule);
        let without_limits = self.attach_all(&[
            SubjectLimits::new(ids[0], &of_keys),
            SubjectLimits::new(owner, &[]),
        ]);
        let rule = "a key has the same usage with an owner without limits";
        equal(&remaining(&without_limits.peek().await), &vec![2], rule);
        let alone = self.attach_all(&[SubjectLimits::new(owner, &of_owner)]);
        let rule = "handles share the usage of an owner";
        equal(&remaining(&alone.acquire(1).await), &vec![0], rule);
        let rule = "a cost beyond a limit of the owner is rejected";
        holds(!first.acquire(1).await.is_allowed(), rule);
        let owner = Subject::Owner(ids[1].as_str());
        let (of_keys, of_owner) = ([RateLimit::per_day(9)], [RateLimit::per_day(20)]);
        let handles = [(); 4].map(|()| {
            self.attach_all(&[
                SubjectLimits::new(id(), &of_keys),
                SubjectLimits::new(owner, &of_owner),
            ])
        });
        let decisions = join_all((0..100).map(|n| handles[n % 4].acquire(1))).await;
        let admitted = decisions.iter().filter(|decision| decision.is_allowed());
        let rule = "concurrent requests of an owner consume no more than the burst, and all of it";
        equal(&admitted.count(), &20, rule);
    }

    async fn concurrent_requests(&self) {
        let subject = id();
        let handles = [(); 4].map(|()| self.attach(subject, &[RateLimit::per_day(20)]));
        let requests = (0..100).map(|n| handles[n % 4].acquire(1));
        let decisions = join_all(requests).await;
        let admitted = decisions
            .iter()
            .filter(|decision| decision.is_allowed())
            .count();
        equal(
            &admitted,
            &20,
            "concurrent requests consume no more than the burst, and all of it",
        );
    }

    async fn other_costs(&self) {
        let attached = self.attach(id(), &[RateLimit::per_day(10)]);
        holds(
            attached.acquire(3).await.is_allowed(),
            "a cost within the limit is admitted",
        );
        let charged_at = Clock::system().now();
        holds(
            attached.acquire(4).await.is_allowed(),
            "a cost within the limit is admitted",
        );
        let recharged_at = Clock::system().now();
        let decision = attached.recharge(4, charged_at, 5).await;
        holds(
            decision.is_allowed(),
            "a higher cost within the limit is admitted",
        );
        let rule = "a higher cost is charged instead of the first one";
        equal(&remaining(&decision), &vec![2], rule);
        let decision = attached.recharge(5, recharged_at, 1).await;
        holds(decision.is_allowed(), "a lower cost is admitted");
        let left = remaining(&decision)[0];
        holds(
            (2..=6).contains(&left),
            "a lower cost returns the difference at most",
        );
        let decision = attached.recharge(1, recharged_at, 20).await;
        holds(
            !decision.is_allowed(),
            "a higher cost beyond the limit is rejected",
        );
        let rule = "a rejected cost consumes nothing, and returns the first one at most";
        holds((left..=left + 1).contains(&remaining(&decision)[0]), rule);
    }

    async fn restored_costs(&self) {
        let limit = RateLimit::per_second(1).with_burst(5);
        let attached = self.attach(id(), &[limit]);
        let charged_at = Clock::system().now();
        holds(
            attached.acquire(1).await.is_allowed(),
            "a cost within the limit is admitted",
        );
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let began = Instant::now();
        holds(
            attached.acquire(5).await.is_allowed(),
            "time restores the capacity",
        );
        let left = remaining(&attached.recharge(1, charged_at, 0).await)[0];
        let rule = "capacity that time has restored is not returned again";
        holds(u64::from(left) <= began.elapsed().as_secs(), rule);
    }

    fn invalid_limits(&self) {
        let twice = [RateLimit::per_day(5), RateLimit::per_day(6)];
        for limits in [&[RateLimit::per_day(0)][..], &twice] {
            let subjects = [SubjectLimits::new(id(), limits)];
            let attached = self.limiter.attach(&subjects, Clock::system().now());
            let is_invalid = |error: &LimitError| matches!(error, LimitError::Invalid(_));
            let rule = "invalid limits are rejected with LimitError::Invalid";
            fails_with(attached, "LimitError::Invalid", is_invalid, rule);
        }
    }
}

impl Attached {
    async fn acquire(&self, cost: u32) -> Decision {
        decide(self.0.acquire(cost, Clock::system().now())).await
    }

    async fn recharge(&self, charged: u32, charged_at: Now, cost: u32) -> Decision {
        let now = Clock::system().now();
        decide(self.0.recharge(charged, charged_at, cost, now)).await
    }

    async fn peek(&self) -> Decision {
        decide(self.0.peek(Clock::system().now())).await
    }
}

async fn decide(response: LimitResponse) -> Decision {
    match response {
        LimitResponse::Ready(decision) => decision,
        LimitResponse::Pending(decision) => succeeds(decision.await, "the limiter is available"),
    }
}

fn remaining(decision: &Decision) -> Vec<u32> {
    decision
        .statuses()
        .iter()
        .map(|status| status.remaining)
        .collect()
}
