//! The totals of each caller.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use sqlx::Error as SqlError;

use super::row::Attributes;
use crate::backend::sql::callers::{Callers, KeyAndOwner};
use crate::backend::sql::rollup_record::{Sums, for_each_sums};
use crate::backend::sql::series_rollup::{Amounts, Series};
use crate::id::KeyId;
use crate::usage::Totals;
use crate::usage::summary::Amounts as KindAmounts;

/// The maximum size of records that have not been added, in bytes.
const MAX_PENDING: usize = 4 << 20;

/// The totals of the callers that have attributes.
pub(super) struct TotalsByCaller {
    callers: Arc<Callers>,
    /// In the order of the callers.
    totals: Vec<Totals>,
    kinds: HashMap<i32, KindAmounts, RandomState>,
    /// Records that have not been added, and the range of the starts to add, in microseconds.
    pending: Vec<(Vec<u8>, Range<i64>)>,
    pending_bytes: usize,
}

impl TotalsByCaller {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self {
            callers: attributes.callers.clone(),
            totals: vec![Totals::default(); attributes.callers.all().len()],
            kinds: attributes.kind_amounts().collect(),
            pending: Vec::new(),
            pending_bytes: 0,
        }
    }

    pub(super) fn add(&mut self, Series { caller, kind }: Series, amounts: &Amounts) {
        let sums = Sums {
            count: amounts.count,
            cost: amounts.cost,
            request_bytes: amounts.request_bytes,
            response_bytes: amounts.response_bytes,
        };
        if let Some(position) = self.callers.position(caller) {
            self.add_at(position, kind, &sums);
        }
    }

    /// Adds the rollups of a record that start in a range, in microseconds, now or with
    /// [`add_pending`](Self::add_pending).
    ///
    /// # Errors
    ///
    /// If a record is damaged. Some of its rollups may have been added.
    pub(super) async fn add_record(
        &mut self,
        record: &[u8],
        starts: &Range<i64>,
    ) -> Result<(), SqlError> {
        self.pending.push((record.into(), starts.clone()));
        self.pending_bytes += record.len();
        if self.pending_bytes > MAX_PENDING {
            self.add_pending().await?;
        }
        Ok(())
    }

    /// Adds the records that have not been added yet.
    ///
    /// # Errors
    ///
    /// Those of [`add_record`](Self::add_record).
    pub(super) async fn add_pending(&mut self) -> Result<(), SqlError> {
        self.pending_bytes = 0;
        for (record, starts) in std::mem::take(&mut self.pending) {
            self.add_now(&record, &starts)?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn add_now(&mut self, record: &[u8], starts: &Range<i64>) -> Result<(), SqlError> {
        let callers = self.callers.clone();
        let mut last = 0;
        let find = |caller, start: i64| {
            let is_wanted = starts.contains(&start);
            let found = is_wanted.then(|| callers.position_near(last, caller));
            found.flatten().inspect(|position| last = *position)
        };
        for_each_sums(record, find, |position, kind, sums| {
            self.add_at(position, kind, sums);
        })
    }

    /// Adds the amounts of the caller at a position. Those of an unknown kind are left out.
    #[inline]
    fn add_at(&mut self, position: usize, kind: i32, sums: &Sums) {
        let Some(&of_kind) = self.kinds.get(&kind) else {
            return;
        };
        if let Some(totals) = self.totals.get_mut(position) {
            totals.add(&KindAmounts {
                count: sums.count,
                cost: sums.cost,
                request_bytes: sums.request_bytes,
                response_bytes: sums.response_bytes,
                ..of_kind
            });
        }
    }

    pub(super) fn by_key(&self) -> BTreeMap<Option<KeyId>, Totals> {
        let sorted = self.counted(self.callers.by_key());
        grouped(sorted.map(|((key, _), totals)| (*key, totals)))
    }

    /// Without requests of keys that have no owner.
    pub(super) fn by_owner(&self) -> BTreeMap<Arc<str>, Totals> {
        let sorted = self.counted(self.callers.by_owner());
        grouped(sorted.filter_map(|((_, owner), totals)| Some((owner.clone()?, totals))))
    }

    /// The callers with requests, in the order of these positions.
    fn counted<'a>(
        &'a self,
        positions: &'a [usize],
    ) -> impl Iterator<Item = (&'a KeyAndOwner, &'a Totals)> {
        let (nothing, callers) = (Totals::default(), self.callers.all());
        let all = positions.iter();
        let all = all.filter_map(|&position| callers.get(position).zip(self.totals.get(position)));
        all.filter(move |(_, totals)| **totals != nothing)
    }
}

/// Adds up the totals of each name. They must be sorted by name.
fn grouped<'a, K: Ord>(sorted: impl Iterator<Item = (K, &'a Totals)>) -> BTreeMap<K, Totals> {
    let at_most = sorted.size_hint().1.unwrap_or_default();
    let mut groups: Vec<(K, Totals)> = Vec::with_capacity(at_most);
    for (name, totals) in sorted {
        match groups.last_mut() {
            Some((last, sum)) if *last == name => sum.merge(totals),
            _ => groups.push((name, totals.clone())),
        }
    }
    groups.into_iter().collect()
}
