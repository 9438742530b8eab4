//! The usage of a calendar month as a CSV file, to bill owners.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::Response;
use jiff::Timestamp;

use super::download::file;
use super::month::Month;
use crate::id::KeyId;
use crate::key::Key;
use crate::usage::csv::{end_row, maybe, plain, text};
use crate::usage::{
    Granularity, ReadError, Summary, SummaryQuery, SummarySpec, Totals, UsageRange, UsageReader,
};

const AMOUNTS: &str =
    "requests,completed,failed,rate_limited,cost,billable_requests,billable_cost,exact";

/// The maximum length of the owner in a file name.
const MAX_SLUG: usize = 40;

/// The usage of each owner in a month.
pub(super) async fn by_owner(
    usage: &Arc<dyn UsageReader>,
    month: &Month,
) -> Result<Summary, ReadError> {
    let query = SummaryQuery::new(range_of(month), SummarySpec::new().by_owner());
    usage.summary(&query).await
}

/// The usage of an owner in a month.
pub(super) struct OwnerMonth {
    pub(super) by_key: BTreeMap<Option<KeyId>, Totals>,
    pub(super) totals: Totals,
    /// As [`Summary::exact`].
    pub(super) is_exact: bool,
}

impl OwnerMonth {
    pub(super) async fn read(
        usage: &Arc<dyn UsageReader>,
        month: &Month,
        owner: &str,
    ) -> Result<Self, ReadError> {
        let range = range_of(month);
        let times = month.range();
        let is_hour = |time: Timestamp| Granularity::Hour.floor(time) == time;
        // No rollup is wider. Otherwise the answer is the same for all owners, and cheap without one.
        let is_exact = is_hour(times.start) && is_hour(times.end) || {
            let query = SummaryQuery::new(range.clone(), SummarySpec::new());
            usage.summary(&query).await?.exact
        };
        let by_key = usage.totals_by_key(&range.owner(owner)).await?;
        Ok(Self {
            totals: by_key.values().sum(),
            by_key,
            is_exact,
        })
    }

    /// The `n` keys with the most requests, without anonymous requests.
    pub(super) fn top_keys(&self, n: usize) -> Vec<KeyId> {
        let mut keys: Vec<_> = self.by_key.iter().collect();
        keys.sort_by_cached_key(|(_, totals)| Reverse(totals.total()));
        keys.into_iter()
            .take(n)
            .filter_map(|(key, _)| *key)
            .collect()
    }
}

fn range_of(month: &Month) -> UsageRange {
    let times = month.range();
    UsageRange::new().from(times.start).to(times.end)
}

/// The file of [`by_owner`]: a row for each owner. Without requests of keys that have no owner.
pub(super) fn file_by_owner(month: &Month, summary: &Summary, has_bom: bool) -> Response {
    let mut rows = format!("month,time_zone,owner,{AMOUNTS}\r\n").into_bytes();
    for (owner, totals) in summary.by_owner.iter().flatten() {
        plain(month, &mut rows);
        plain(&month.zone_name(), &mut rows);
        text(owner, &mut rows);
        amounts(totals, summary.exact, &mut rows);
        end_row(&mut rows);
    }
    file(&format!("usage-{month}.csv"), rows, has_bom)
}

/// The file of an owner: a row for each key, and one with their total.
pub(super) fn file_by_key(
    month: &Month,
    owner: &str,
    usage: &OwnerMonth,
    keys: &BTreeMap<KeyId, Key>,
) -> Response {
    let mut rows =
        format!("month,time_zone,owner,key,name,{AMOUNTS},last_accepted_at,rejected_since\r\n")
            .into_bytes();
    let mut row = |id: Option<KeyId>, name: &str, totals: &Totals| {
        let key = id.and_then(|id| keys.get(&id));
        let name = key.map_or(name, |key| &key.name);
        plain(month, &mut rows);
        plain(&month.zone_name(), &mut rows);
        text(owner, &mut rows);
        maybe(id, &mut rows);
        text(name, &mut rows);
        amounts(totals, usage.is_exact, &mut rows);
        maybe(key.and_then(|key| key.last_accepted_at), &mut rows);
        maybe(key.map(|key| key.rejected_since), &mut rows);
        end_row(&mut rows);
    };
    for (key, totals) in &usage.by_key {
        row(*key, "", totals);
    }
    row(None, "Total", &usage.totals);
    file(&format!("usage-{}-{month}.csv", slug(owner)), rows, true)
}

fn amounts(totals: &Totals, is_exact: bool, rows: &mut Vec<u8>) {
    for amount in [
        totals.total(),
        totals.completed(),
        totals.failed(),
        totals.rate_limited(),
        totals.cost(),
        totals.billable(),
        totals.billable_cost(),
    ] {
        plain(&amount, rows);
    }
    plain(&is_exact, rows);
}

/// An owner as a part of a file name: lower case letters, digits and single hyphens.
fn slug(owner: &str) -> String {
    let words = owner.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let slug: String = words.join("-").chars().take(MAX_SLUG).collect();
    match slug.trim_end_matches('-') {
        "" => "owner".into(),
        slug => slug.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_plain_file_names() {
        for (owner, expected) in [
            ("customer-17", "customer-17"),
            ("Acme & Sons, Ltd.", "acme-sons-ltd"),
            ("../../etc/passwd", "etc-passwd"),
            ("a\"; filename=\"b", "a-filename-b"),
            ("ä🔑", "owner"),
            ("", "owner"),
        ] {
            assert_eq!(slug(owner), expected);
        }
        assert_eq!(slug(&"abc ".repeat(99)).len(), MAX_SLUG - 1);
    }
}
