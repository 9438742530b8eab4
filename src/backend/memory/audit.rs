//! The audit log of the in-memory backend.

use std::cmp::Reverse;
use std::collections::VecDeque;

use uuid::Uuid;

use crate::key::{AuditEntry, AuditQuery, StoreError};
use crate::page::Page;

/// The most recent entries, oldest first.
pub(super) struct Audit {
    entries: VecDeque<AuditEntry>,
    capacity: usize,
}

impl Audit {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity,
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.capacity > 0
    }

    pub(super) fn add(&mut self, entry: AuditEntry) {
        self.entries.push_back(entry);
        if self.entries.len() > self.capacity {
            self.entries.pop_front();
        }
    }

    pub(super) fn page(&self, query: &AuditQuery) -> Result<Page<AuditEntry>, StoreError> {
        let before = match &query.page.after {
            Some(token) => Some((token.time(), token.id::<Uuid>()?)),
            None => None,
        };
        let place = |entry: &AuditEntry| (entry.time, entry.id);
        let mut matching: Vec<&AuditEntry> = self
            .entries
            .iter()
            .filter(|entry| before.is_none_or(|before| place(entry) < before))
            .filter(|entry| query.matches(entry))
            .collect();
        // Entries are out of order only if the clock was set back.
        matching.sort_by_key(|entry| Reverse(place(entry)));
        let limit = query.page.size();
        let items = matching.into_iter().take(limit + 1).cloned().collect();
        Ok(Page::from_surplus(items, limit, AuditQuery::page_token))
    }
}
