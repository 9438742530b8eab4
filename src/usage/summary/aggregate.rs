//! A common interface to events and rollups.

use crate::usage::{Rollup, UsageEvent};

/// An item that can be summarized: a [`UsageEvent`] or a [`Rollup`].
///
/// This trait is sealed, since summaries rely on a rollup counting the same as its events.
pub trait Aggregate: sealed::Sealed {}

impl Aggregate for UsageEvent {}
impl Aggregate for Rollup {}

pub(super) mod sealed {
    use std::sync::Arc;

    use jiff::Timestamp;

    use crate::id::KeyId;
    use crate::usage::summary::totals::Amounts;
    use crate::usage::{LatencyHistogram, Method, Rollup, Status, UsageEvent};

    pub trait Sealed {
        fn time(&self) -> Timestamp;
        fn key(&self) -> Option<KeyId>;
        fn owner(&self) -> Option<&Arc<str>>;
        fn method(&self) -> Method;
        fn endpoint(&self) -> &Arc<str>;
        fn status(&self) -> Status;
        fn amounts(&self) -> Amounts;
        fn add_latency(&self, histogram: &mut LatencyHistogram);
    }

    impl Sealed for UsageEvent {
        #[inline]
        fn time(&self) -> Timestamp {
            self.time
        }

        #[inline]
        fn key(&self) -> Option<KeyId> {
            self.key
        }

        #[inline]
        fn owner(&self) -> Option<&Arc<str>> {
            self.owner.as_ref()
        }

        #[inline]
        fn method(&self) -> Method {
            self.method
        }

        #[inline]
        fn endpoint(&self) -> &Arc<str> {
            &self.endpoint
        }

        #[inline]
        fn status(&self) -> Status {
            self.status
        }

        #[inline]
        fn amounts(&self) -> Amounts {
            Amounts {
                outcome: self.outcome,
                cause: self.cause,
                rejection_reason: self.rejection_reason,
                billable: self.billable,
                count: 1,
                cost: self.cost.into(),
                request_bytes: self.request_bytes,
                response_bytes: self.response_bytes,
            }
        }

        #[inline]
        fn add_latency(&self, histogram: &mut LatencyHistogram) {
            histogram.record(self.latency_us);
        }
    }

    impl Sealed for Rollup {
        fn time(&self) -> Timestamp {
            self.start
        }

        fn key(&self) -> Option<KeyId> {
            self.key
        }

        fn owner(&self) -> Option<&Arc<str>> {
            self.owner.as_ref()
        }

        fn method(&self) -> Method {
            self.method
        }

        fn endpoint(&self) -> &Arc<str> {
            &self.endpoint
        }

        fn status(&self) -> Status {
            self.status
        }

        fn amounts(&self) -> Amounts {
            Amounts::of(self)
        }

        fn add_latency(&self, histogram: &mut LatencyHistogram) {
            histogram.merge(&self.latency);
        }
    }
}
