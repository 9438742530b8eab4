//! The hot part of a pass: one cell of sums per endpoint and kind of request.
//!
//! Adding each item to its method's, its status's and its endpoint's totals would touch three places
//! per item. A cell for the combination is one place; the totals are added up from the cells in the
//! end, when there are thousands of cells instead of millions of items.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::groups::{Groups, Methods};
use super::totals::Amounts;
use crate::usage::{Cause, Method, Outcome, Status};

/// Where more cells than this would be needed (4 MiB), those so far are added up first: enough for a
/// thousand endpoints with a hundred kinds of request each.
const MOST_CELLS: usize = 1 << 17;

/// Cells of an endpoint to begin with.
const FIRST_STRIDE: usize = 16;

/// What one pass knows about methods, statuses and endpoints.
#[derive(Debug)]
pub(super) struct Accumulator<'a> {
    kinds: Names<Kind, u64>,
    endpoints: Names<&'a Arc<str>, (usize, usize)>,
    /// Cells of one endpoint; at least as many as there are kinds.
    stride: usize,
    cells: Vec<Cell>,
    sums: Sums<'a>,
}

/// Totals of a pass.
#[derive(Debug)]
pub(super) struct Sums<'a> {
    pub(super) methods: Methods,
    pub(super) statuses: Groups<Status>,
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
}

impl<'a> Accumulator<'a> {
    pub(super) fn new() -> Self {
        Self {
            kinds: Names::new(),
            endpoints: Names::new(),
            stride: FIRST_STRIDE,
            cells: Vec::new(),
            sums: Sums {
                methods: Methods::default(),
                statuses: Groups::new(),
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
        };
        // An address is told apart only while the items that own the text are borrowed (`'a`), so
        // nothing else can come to stand there.
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
        // Totals stop where all sums stop; until then it is enough not to overflow.
        cell.count = cell.count.saturating_add(amounts.count);
        cell.cost = cell.cost.saturating_add(amounts.cost);
        cell.request_bytes = cell.request_bytes.saturating_add(amounts.request_bytes);
        cell.response_bytes = cell.response_bytes.saturating_add(amounts.response_bytes);
    }

    /// Makes cells for all names there are; `false` when those would be too many.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) -> bool {
        let stride = self.kinds.len().next_power_of_two().max(self.stride);
        // Room for as many endpoints again, so that each new one is not another copy.
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

    /// Adds all cells to the sums and begins anew.
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
                    count: cell.count,
                    cost: cell.cost,
                    request_bytes: cell.request_bytes,
                    response_bytes: cell.response_bytes,
                };
                self.sums.methods.add(kind.method, &amounts);
                self.sums.statuses.add(kind.status, &amounts);
                self.sums.endpoints.add(endpoint, &amounts);
            }
        }
        self.cells.clear();
        self.stride = FIRST_STRIDE;
    }

    pub(super) fn finish(mut self) -> Sums<'a> {
        self.add_up();
        self.sums
    }
}

impl Kind {
    /// The kind as a number of its own.
    #[inline]
    fn packed(self) -> u64 {
        let status = match self.status {
            Status::None => 0,
            Status::Http(code) => 0x1_0000 | u64::from(code),
            Status::Grpc(code) => 0x2_0000 | u64::from(code),
        };
        let cause = self.cause.map_or(Cause::ALL.len(), |cause| cause as usize) as u64;
        status << 24 | cause << 16 | (self.outcome as u64) << 8 | self.method as u64
    }
}

/// Numbers for names in the order in which they turn up.
///
/// A token is a quick stand-in for a name: of equal tokens, the names are equal.
#[derive(Debug)]
struct Names<N, T> {
    /// The latest token at each place of a few bits of its hash: mostly right, and never large, even
    /// if every item has a token of its own.
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
        // Fibonacci hashing: the highest bits of the product depend on all bits of the number.
        let hash = token.number().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let latest = (hash >> (64 - LATEST.ilog2())) as usize;
        match self.latest[latest] {
            Some((seen, slot)) if seen == token => slot,
            _ => {
                let slot = self.look_up(name);
                self.latest[latest] = Some((token, slot));
                slot
            }
        }
    }

    #[inline(never)]
    fn look_up(&mut self, name: N) -> usize {
        *self.slots.entry(name).or_insert_with(|| {
            self.names.push(name);
            self.names.len() - 1
        })
    }

    /// Forgets and returns all names.
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
        count: 1,
        cost: 2,
        request_bytes: 3,
        response_bytes: 4,
    };

    fn endpoints(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("/{n}").into()).collect()
    }

    #[test]
    fn a_new_kind_of_request_to_a_new_endpoint_does_not_pass_the_bound() {
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
        // Twice as many of both would be four times as many cells.
        cells.add(Method::Post, Status::None, &endpoints[half], &AMOUNTS);
        assert!(cells.cells.len() <= MOST_CELLS);
    }

    #[test]
    #[cfg_attr(miri, ignore = "three hundred thousand cells take too long")]
    fn however_many_names_there_are_cells_are_few_and_sums_exact() {
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
