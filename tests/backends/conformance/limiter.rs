//! The suite for limiters passes for the local limiter, and fails for a limiter that violates any rule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use keytally::conformance;
use keytally::limit::{
    Decision, LimitError, LimitHandle, LimitResponse, Limiter, LocalLimiter, RateLimit, Subject,
    SubjectLimits,
};
use keytally::{KeyId, Now};

#[tokio::test]
async fn local_limiter_passes() {
    conformance::limiter(&LocalLimiter::new()).await;
    let shared: Arc<dyn Limiter> = Arc::new(LocalLimiter::new());
    conformance::limiter(&*shared).await;
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    AdmitsMore,
    ReversesStatuses,
    ShortensWaits,
    LengthensWaits,
    CostsAboveTheBurstHaveWaits,
    ConsumesOneByOne,
    FreeRequestsConsume,
    PeekConsumes,
    RejectsFreeRequests,
    SharesSubjects,
    SharesNothing,
    IgnoresOwners,
    SharesNoOwners,
    ConsumesFromKeysFirst,
    IgnoresNames,
    ForgetsUsage,
    IsRacy,
    ReturnsDouble,
    ReturnsRestoredCapacity,
    AcceptsInvalidLimits,
}

const FAULTS: [(Fault, &str); 20] = [
    (Fault::AdmitsMore, "the remaining cost of every limit"),
    (Fault::ReversesStatuses, "the remaining cost of every limit"),
    (Fault::ShortensWaits, "admitted after its wait"),
    (Fault::LengthensWaits, "a wait is no longer"),
    (
        Fault::CostsAboveTheBurstHaveWaits,
        "above the burst has no wait",
    ),
    (
        Fault::ConsumesOneByOne,
        "a rejected request and a cost of 0 consume nothing",
    ),
    (
        Fault::FreeRequestsConsume,
        "a rejected request and a cost of 0 consume nothing",
    ),
    (Fault::PeekConsumes, "`peek` consumes nothing"),
    (Fault::RejectsFreeRequests, "a cost of 0 is always admitted"),
    (
        Fault::SharesSubjects,
        "other subjects have usage of their own",
    ),
    (Fault::SharesNothing, "handles share the usage"),
    (
        Fault::IgnoresOwners,
        "a key and its owner are charged together",
    ),
    (
        Fault::SharesNoOwners,
        "the keys of an owner share its limits",
    ),
    (
        Fault::ConsumesFromKeysFirst,
        "consumes nothing from any subject",
    ),
    (Fault::IgnoresNames, "limits of other names"),
    (Fault::ForgetsUsage, "keeps its usage"),
    (Fault::IsRacy, "concurrent requests consume no more"),
    (Fault::ReturnsDouble, "charged instead of the first one"),
    (
        Fault::ReturnsRestoredCapacity,
        "restored is not returned again",
    ),
    (Fault::AcceptsInvalidLimits, "invalid limits are rejected"),
];

#[tokio::test]
async fn each_fault_fails_with_the_rule_it_violates() {
    conformance::limiter(&Faulty::new(Fault::None)).await;
    let runs = FAULTS.map(|(fault, rule)| {
        let run = tokio::spawn(async move { conformance::limiter(&Faulty::new(fault)).await });
        (fault, rule, run)
    });
    for (fault, rule, run) in runs {
        let panic = match run.await {
            Ok(()) => panic!("{fault:?} was not detected"),
            Err(error) => error.into_panic(),
        };
        let message = panic.downcast_ref::<String>().expect("a panic message");
        assert!(
            message.starts_with("broken rule: ") && message.contains(rule),
            "{fault:?} was reported as another violation: {message}"
        );
    }
}

/// The limiter of a subject, and its handle.
type Forgetful = (Weak<dyn LimitHandle>, LocalLimiter);

/// A limiter that violates a single rule.
struct Faulty {
    fault: Fault,
    inner: LocalLimiter,
    /// The limiters of subjects whose usage is forgotten.
    forgetful: Mutex<HashMap<KeyId, Forgetful>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            inner: LocalLimiter::new(),
            forgetful: Mutex::default(),
        }
    }
}

fn random_id() -> KeyId {
    let id: String = (0..16).map(|_| fastrand::digit(10)).collect();
    id.parse().unwrap()
}

impl Limiter for Faulty {
    fn attach(
        &self,
        subjects: &[SubjectLimits<'_>],
        now: Now,
    ) -> Result<Arc<dyn LimitHandle>, LimitError> {
        let fault = self.fault;
        let random = random_id();
        let mut changed: Vec<(Subject<'_>, Vec<RateLimit>)> = subjects
            .iter()
            .map(|one| (one.subject, one.limits.to_vec()))
            .collect();
        if fault == Fault::IgnoresOwners && changed.len() > 1 {
            changed.truncate(1);
        }
        for (subject, limits) in &mut changed {
            let is_five_per_day =
                matches!(&**limits, [limit] if limit.burst() == 5 && limit.requests() == 5);
            match (fault, &subject) {
                (Fault::AdmitsMore, _) => {
                    for limit in limits {
                        *limit = limit.clone().with_burst(limit.burst() + 1);
                    }
                }
                (Fault::SharesSubjects, _) if is_five_per_day => {
                    *subject = Subject::Owner("everyone");
                }
                (Fault::SharesNothing, Subject::Key(_))
                | (Fault::SharesNoOwners, Subject::Owner(_)) => *subject = random.into(),
                (Fault::IgnoresNames, _) if is_five_per_day => {
                    *limits = vec![RateLimit::per_day(5)];
                }
                (Fault::AcceptsInvalidLimits, _) if RateLimit::validate_all(limits).is_err() => {
                    limits.clear();
                }
                _ => {}
            }
        }
        let subjects: Vec<_> = changed
            .iter()
            .map(|(subject, limits)| SubjectLimits::new(*subject, limits))
            .collect();
        if let (Fault::ForgetsUsage, [one]) = (fault, &subjects[..])
            && let Subject::Key(key) = one.subject
        {
            let mut forgetful = self.forgetful.lock().unwrap();
            if let Some((handle, limiter)) = forgetful.get(&key)
                && handle.strong_count() > 0
            {
                return limiter.attach(&subjects, now);
            }
            let limiter = LocalLimiter::new();
            let handle = limiter.attach(&subjects, now)?;
            forgetful.insert(key, (Arc::downgrade(&handle), limiter));
            return Ok(handle);
        }
        let inner = self.inner.attach(&subjects, now)?;
        let attach_one = |subject, limit| {
            let one = SubjectLimits::new(subject, std::slice::from_ref(limit));
            self.inner.attach(&[one], now)
        };
        let singles = subjects.iter().flat_map(|one| {
            let limits = one.limits.iter();
            limits.map(|limit| attach_one(one.subject, limit))
        });
        Ok(Arc::new(FaultyHandle {
            fault,
            inner,
            has_owner: subjects.len() > 1,
            singles: singles.collect::<Result<_, _>>()?,
        }))
    }
}

#[derive(Debug)]
struct FaultyHandle {
    fault: Fault,
    inner: Arc<dyn LimitHandle>,
    has_owner: bool,
    singles: Vec<Arc<dyn LimitHandle>>,
}

fn ready(response: LimitResponse) -> Decision {
    match response {
        LimitResponse::Ready(decision) => decision,
        LimitResponse::Pending(_) => panic!("pending"),
    }
}

impl LimitHandle for FaultyHandle {
    fn acquire(&self, cost: u32, now: Now) -> LimitResponse {
        let cost = match self.fault {
            Fault::FreeRequestsConsume => cost.max(1),
            _ => cost,
        };
        if self.fault == Fault::IsRacy && cost > 0 {
            let (inner, peeked) = (self.inner.clone(), ready(self.inner.peek(now)));
            return LimitResponse::Pending(Box::pin(async move {
                tokio::task::yield_now().await;
                let decision = ready(inner.acquire(cost, now));
                let has_room = peeked.statuses().iter().all(|it| it.remaining >= cost);
                Ok(match has_room {
                    true => Decision::new(decision.statuses().iter().copied()),
                    false => decision,
                })
            }));
        }
        let decision = ready(self.inner.acquire(cost, now));
        let is_one_by_one = match self.fault {
            Fault::ConsumesOneByOne => true,
            Fault::ConsumesFromKeysFirst => self.has_owner,
            _ => false,
        };
        if is_one_by_one && !decision.is_allowed() {
            for single in &self.singles {
                let _ = single.acquire(cost, now);
            }
        }
        let mut statuses = decision.statuses().to_vec();
        if self.fault == Fault::ReversesStatuses {
            statuses.reverse();
        }
        let mut faulty = Decision::new(statuses.iter().copied());
        for index in (0..statuses.len()).filter(|&index| decision.is_exceeded(index)) {
            let wait = match self.fault {
                Fault::ShortensWaits => decision.wait().map(|wait| wait / 8),
                Fault::LengthensWaits => decision.wait().map(|wait| wait * 4),
                Fault::CostsAboveTheBurstHaveWaits => {
                    decision.wait().or(Some(Duration::from_secs(9)))
                }
                _ => decision.wait(),
            };
            faulty.deny(index, wait);
        }
        if self.fault == Fault::RejectsFreeRequests
            && cost == 0
            && statuses.iter().any(|it| it.remaining == 0)
        {
            faulty.deny(0, None);
        }
        LimitResponse::Ready(faulty)
    }

    fn recharge(&self, charged: u32, charged_at: Now, cost: u32, now: Now) -> LimitResponse {
        match self.fault {
            Fault::ReturnsDouble => self.inner.recharge(2 * charged, charged_at, cost, now),
            Fault::ReturnsRestoredCapacity => self.inner.recharge(charged, now, cost, now),
            _ => self.inner.recharge(charged, charged_at, cost, now),
        }
    }

    fn peek(&self, now: Now) -> LimitResponse {
        match self.fault {
            Fault::PeekConsumes => self.acquire(1, now),
            _ => self.inner.peek(now),
        }
    }
}
