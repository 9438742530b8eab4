//! The hot path of a pass: one cell per endpoint and kind of request.
//!
//! Adding each item to the totals of its method, status and endpoint would write to three places. Instead, items
//! are added to one cell for the combination. At the end, the totals are computed from the cells: thousands
//! instead of millions of items.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::groups::{Groups, Methods};
use super::totals::Amounts;
use crate::usage::{Cause, Method, Outcome, RejectionReason, Status};

/// The maximum number of cells (4 MiB), enough for a thousand endpoints with a hundred kinds of requests each. If
/// more are needed, the existing cells are added to the totals first.
const MOST_CELLS: usize = 1 << 17;

/// The initial number of cells per endpoint.
const FIRST_STRIDE: usize = 16;

/// Aggregates by method, status and endpoint.
#[derive(Debug)]
pub(super) struct Accumulator<'a> {
    kinds: Names<Kind, u64>,
    endpoints: Names<&'a Arc<str>, (usize, usize)>,
    /// The number of cells per endpoint; at least the number of kinds.
    stride: usize,
    cells: Vec<Cell>,
    sums: GroupTotals<'a>,
}

/// The totals of a pass.
#[derive(Debug)]
pub(super) struct GroupTotals<'a> {
    pub(super) methods: Methods,
    pub(super) statuses: Groups<Status>,
    pub(super) rejections: Groups<RejectionReason>,
    pub(super) endpoints: Groups<&'a Arc<str>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cell {
    count: u64,
    cost: u64,
    request_bytes: u64,
    response_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    method: Method,
    status: Status,
    outcome: Outcome,
    cause: Option<Cause>,
    rejection_reason: Option<RejectionReason>,
    billable: bool,
}

impl<'a> Accumulator<'a> {
    pub(super) fn new() -> Self {
        Self {
            kinds: Names::new(),
            endpoints: Names::new(),
            stride: FIRST_STRIDE,
            cells: Vec::new(),
            sums: GroupTotals {
                methods: Methods::default(),
                statuses: Groups::new(),
                rejections: Groups::new(),
                endpoints: Groups::new(),
            },
        }
    }

    #[inline]
    pub(super) fn add(
        &mut self,
        method: Method,
        status: Status,
        endpoint: &'a Arc<str>,
        amounts: &Amounts,
    ) {
        let kind = Kind {
            method,
            status,
            outcome: amounts.outcome,
            cause: amounts.cause,
            rejection_reason: amounts.rejection_reason,
            billable: amounts.billable,
        };
        // The address identifies the string while the items that own it are borrowed (`'a`).
        let address = (Arc::as_ptr(endpoint).cast::<u8>().addr(), endpoint.len());
        let mut column = self.kinds.slot(kind.packed(), kind);
        let mut row = self.endpoints.slot(address, endpoint);
        let fits = column < self.stride && row * self.stride < self.cells.len();
        if !fits && !self.grow() {
            self.add_up();
            column = self.kinds.slot(kind.packed(), kind);
            row = self.endpoints.slot(address, endpoint);
            self.grow();
        }
        let cell = &mut self.cells[row * self.stride + column];
        // The totals are capped later; here it is enough not to overflow.
        cell.count = cell.count.saturating_add(amounts.count);
        cell.cost = cell.cost.saturating_add(amounts.cost);
        cell.request_bytes = cell.request_bytes.saturating_add(amounts.request_bytes);
        cell.response_bytes = cell.response_bytes.saturating_add(amounts.response_bytes);
    }

    /// Grows the cells to fit all kinds and endpoints. Returns `false` if there would be too many.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) -> bool {
        let stride = self.kinds.len().next_power_of_two().max(self.stride);
        // Round up, so that not every new endpoint copies the cells.
        let rows = self.endpoints.len().next_power_of_two();
        if stride * rows > MOST_CELLS {
            return false;
        }
        let mut cells = vec![Cell::default(); stride * rows];
        let narrow = self.cells.chunks(self.stride);
        for (wide, narrow) in cells.chunks_mut(stride).zip(narrow) {
            wide[..narrow.len()].copy_from_slice(narrow);
        }
        (self.stride, self.cells) = (stride, cells);
        true
    }

    /// Adds all cells to the totals and clears them.
    #[cold]
    #[inline(never)]
    fn add_up(&mut self) {
        let kinds = self.kinds.take();
        let rows = self.endpoints.take().into_iter();
        for (endpoint, cells) in rows.zip(self.cells.chunks(self.stride)) {
            let used = kinds.iter().zip(cells);
            for (kind, cell) in used.filter(|(_, cell)| **cell != Cell::default()) {
                let amounts = Amounts {
                    outcome: kind.outcome,
                    cause: kind.cause,
                    rejection_reason: kind.rejection_reason,
                    billable: kind.billable,
                    count: cell.count,
                    cost: cell.cost,
                    request_bytes: cell.request_bytes,
                    response_bytes: cell.response_bytes,
                };
                self.sums.methods.add(kind.method, &amounts);
                self.sums.statuses.add(kind.status, &amounts);
                if let Some(reason) = kind.rejection_reason {
                    self.sums.rejections.add(reason, &amounts);
                }
                self.sums.endpoints.add(endpoint, &amounts);
            }
        }
        self.cells.clear();
        self.stride = FIRST_STRIDE;
    }

    pub(super) fn finish(mut self) -> GroupTotals<'a> {
        self.add_up();
        self.sums
    }
}

impl Kind {
    /// A unique number for the kind.
    #[inline]
    fn packed(self) -> u64 {
        let status = match self.status {
            Status::None => 0,
            Status::Http(code) => 0x1_0000 | u64::from(code),
            Status::Grpc(code) => 0x2_0000 | u64::from(code),
        };
        let cause = self.cause.map_or(Cause::ALL.len(), |cause| cause as usize) as u64;
        let reason = match self.rejection_reason {
            Some(reason) => reason as usize,
            None => RejectionReason::ALL.len(),
        } as u64;
        u64::from(self.billable) << 56
            | reason << 48
            | status << 24
            | cause << 16
            | (self.outcome as u64) << 8
            | self.method as u64
    }
}

/// Assigns consecutive numbers to names.
///
/// A token is a cheap proxy for a name: names with equal tokens are equal.
#[derive(Debug)]
struct Names<N, T> {
    /// A cache of the latest token and its slot, indexed by the token's hash. Of fixed size, even if every item
    /// has a different token.
    latest: Box<[Option<(T, usize)>; LATEST]>,
    slots: HashMap<N, usize, RandomState>,
    names: Vec<N>,
}

const LATEST: usize = 512;

trait Token: Copy + Eq {
    fn number(self) -> u64;
}

impl Token for u64 {
    #[inline]
    fn number(self) -> u64 {
        self
    }
}

impl Token for (usize, usize) {
    #[inline]
    fn number(self) -> u64 {
        self.0 as u64
    }
}

impl<N: Copy + Eq + Hash, T: Token> Names<N, T> {
    fn new() -> Self {
        Self {
            latest: Box::new([None; LATEST]),
            slots: HashMap::default(),
            names: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.names.len()
    }

    #[inline]
    fn slot(&mut self, token: T, name: N) -> usize {
        // Fibonacci hashing: the high bits of the product depend on all bits of the number.
        let hash = token.number().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let latest = (hash >> (64 - LATEST.ilog2())) as usize;
        match self.latest[latest] {
            Some((seen, slot)) if seen == token => slot,
            _ => {
                let slot = self.lookup(name);
                self.latest[latest] = Some((token, slot));
                slot
            }
        }
    }

    #[inline(never)]
    fn lookup(&mut self, name: N) -> usize {
        *self.slots.entry(name).or_insert_with(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }

    /// Clears and returns all names.
    fn take(&mut self) -> Vec<N> {
        self.latest.fill(None);
        self.slots.clear();
        std::mem::take(&mut self.names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNTS: Amounts = Amounts {
        outcome: Outcome::Completed,
        cause: None,
        rejection_reason: None,
        billable: true,
        count: 1,
        cost: 2,
        request_bytes: 3,
        response_bytes: 4,
    };

    fn endpoints(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("/{n}").into()).collect()
    }

    #[test]
    fn a_new_kind_and_a_new_endpoint_do_not_exceed_the_maximum() {
        let half = MOST_CELLS / 2 / FIRST_STRIDE;
        let endpoints = endpoints(half + 1);
        let mut cells = Accumulator::new();
        for endpoint in &endpoints[..half] {
            cells.add(Method::Get, Status::None, endpoint, &AMOUNTS);
        }
        for code in 1..FIRST_STRIDE as u8 {
            cells.add(Method::Get, Status::Grpc(code), &endpoints[0], &AMOUNTS);
        }
        assert_eq!(cells.cells.len(), MOST_CELLS / 2);
        // Doubling both would need four times as many cells.
        cells.add(Method::Post, Status::None, &endpoints[half], &AMOUNTS);
        assert!(cells.cells.len() <= MOST_CELLS);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow with 300,000 cells")]
    fn cells_are_bounded_and_totals_exact_for_many_names() {
        let endpoints = endpoints(3_000);
        let mut cells = Accumulator::new();
        for code in 0..100 {
            for endpoint in &endpoints {
                cells.add(Method::Get, Status::Grpc(code), endpoint, &AMOUNTS);
                assert!(cells.cells.len() <= MOST_CELLS);
            }
        }
        let sums = cells.finish();
        let (statuses, endpoints) = (sums.statuses.finish(), sums.endpoints.finish());
        assert_eq!((statuses.len(), endpoints.len()), (100, 3_000));
        assert!(statuses.values().all(|totals| totals.total() == 3_000));
        let exact = |totals: &crate::usage::Totals| {
            (totals.total(), totals.cost(), totals.response_bytes()) == (100, 200, 400)
        };
        assert!(endpoints.values().all(exact));
    }
}
