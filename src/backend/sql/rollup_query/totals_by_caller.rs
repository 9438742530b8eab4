//! The totals of each caller.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use sqlx::Error as SqlError;

use super::row::{Attributes, KeyAndOwner};
use crate::backend::sql::rollup_record::for_each_rollup;
use crate::backend::sql::series_rollup::{Amounts, Series};
use crate::id::KeyId;
use crate::usage::Totals;
use crate::usage::summary::Amounts as KindAmounts;

/// The totals of the callers that have attributes.
pub(super) struct TotalsByCaller<'a> {
    attributes: &'a Attributes,
    /// In the order of the callers.
    totals: Vec<Totals>,
    kinds: HashMap<i32, KindAmounts, RandomState>,
}

impl<'a> TotalsByCaller<'a> {
    pub(super) fn new(attributes: &'a Attributes) -> Self {
        Self {
            attributes,
            totals: vec![Totals::default(); attributes.callers().len()],
            kinds: attributes.kind_amounts().collect(),
        }
    }

    pub(super) fn add(&mut self, Series { caller, kind }: Series, amounts: &Amounts) {
        if let Some(position) = self.attributes.position(caller) {
            self.add_at(position, kind, amounts);
        }
    }

    /// Adds the rollups of a record that start in a range, in microseconds.
    ///
    /// # Errors
    ///
    /// If it is damaged. Some of its rollups may have been added.
    pub(super) fn add_record(
        &mut self,
        record: &[u8],
        starts: &Range<i64>,
    ) -> Result<(), SqlError> {
        let attributes = self.attributes;
        let find = |caller, start: i64| {
            let is_wanted = starts.contains(&start);
            is_wanted.then(|| attributes.position(caller)).flatten()
        };
        for_each_rollup(record, find, |position, rollup| {
            self.add_at(position, rollup.series.kind, &rollup.amounts);
        })
    }

    /// Adds the amounts of the caller at a position. Those of an unknown kind are left out.
    #[inline]
    fn add_at(&mut self, position: usize, kind: i32, amounts: &Amounts) {
        let Some(&of_kind) = self.kinds.get(&kind) else {
            return;
        };
        if let Some(totals) = self.totals.get_mut(position) {
            totals.add(&KindAmounts {
                count: amounts.count,
                cost: amounts.cost,
                request_bytes: amounts.request_bytes,
                response_bytes: amounts.response_bytes,
                ..of_kind
            });
        }
    }

    pub(super) fn by_key(&self) -> BTreeMap<Option<KeyId>, Totals> {
        grouped(self.counted().map(|((key, _), totals)| (*key, totals)))
    }

    /// Without requests of keys that have no owner.
    pub(super) fn by_owner(&self) -> BTreeMap<Arc<str>, Totals> {
        let owned = self.counted();
        let owned = owned.filter_map(|((_, owner), totals)| Some((owner.as_ref()?, totals)));
        let owners = grouped(owned).into_iter();
        owners
            .map(|(owner, totals)| (owner.clone(), totals))
            .collect()
    }

    /// The callers with requests.
    fn counted(&self) -> impl Iterator<Item = (&'a KeyAndOwner, &Totals)> {
        let nothing = Totals::default();
        let callers = self.attributes.callers().iter().zip(&self.totals);
        callers.filter(move |(_, totals)| **totals != nothing)
    }
}

fn grouped<'a, K: Ord + Clone>(
    totals: impl Iterator<Item = (K, &'a Totals)>,
) -> BTreeMap<K, Totals> {
    let mut totals: Vec<_> = totals.collect();
    totals.sort_by(|(one, _), (other, _)| one.cmp(other));
    let groups = totals.chunk_by(|(one, _), (other, _)| one == other);
    let groups = groups.filter_map(|group| {
        let (name, _) = group.first()?;
        Some((name.clone(), group.iter().map(|(_, totals)| *totals).sum()))
    });
    groups.collect()
}
