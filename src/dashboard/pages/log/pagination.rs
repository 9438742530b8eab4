//! Pagination of the request log.
//!
//! Page tokens lead to older requests only. To link back to newer pages, the URL carries the tokens of the pages before.

use crate::dashboard::form::FormFields;
use crate::page::PageToken;

/// The maximum number of tokens in a URL: about two thousand requests.
const MAX_TOKENS: usize = 40;

/// Replaces older tokens that were dropped.
const DROPPED: &str = "-";

/// Separates tokens; not part of any.
const SEPARATOR: char = '~';

/// The tokens of the pages before this one, without the first page.
fn behind(fields: &FormFields) -> Vec<&str> {
    let behind = fields.get("newer").unwrap_or_default().split(SEPARATOR);
    behind.filter(|place| !place.is_empty()).collect()
}

fn at(fixed: &FormFields, place: &str, behind: &[&str]) -> FormFields {
    let behind = behind.join(&SEPARATOR.to_string());
    fixed.with([("after", place), ("newer", &*behind)])
}

pub(super) fn newest(fixed: &FormFields, fields: &FormFields) -> Option<FormFields> {
    fields.get("after").map(|_| at(fixed, "", &[]))
}

pub(super) fn newer(fixed: &FormFields, fields: &FormFields) -> Option<FormFields> {
    fields.get("after")?;
    let mut behind = behind(fields);
    match behind.pop() {
        Some(DROPPED) => None,
        Some(place) => Some(at(fixed, place, &behind)),
        None => Some(at(fixed, "", &[])),
    }
}

pub(super) fn older(
    fixed: &FormFields,
    fields: &FormFields,
    next: Option<&PageToken>,
) -> Option<FormFields> {
    let mut behind = behind(fields);
    behind.extend(fields.get("after"));
    if behind.len() > MAX_TOKENS {
        behind.drain(..behind.len() - MAX_TOKENS);
        behind[0] = DROPPED;
    }
    next.map(|next| at(fixed, &next.to_string(), &behind))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn newer_links_lead_back_to_the_pages_before() {
        let token = |n: i64| PageToken::new(Timestamp::from_second(n).unwrap(), "a-b");
        let fixed: FormFields = [("method", "GET".to_owned())].into_iter().collect();
        let mut pages = vec![fixed.clone()];
        for n in 1..100 {
            let page = older(&fixed, pages.last().unwrap(), Some(&token(n))).unwrap();
            assert!(page.query().len() < 2_000);
            pages.push(page);
        }
        assert_eq!(older(&fixed, &pages[5], None).map(|it| it.query()), None);
        // Up to `MOST` pages back to the first page; beyond that, as far as tokens are kept.
        for n in 1..MAX_TOKENS {
            let back = newer(&fixed, &pages[n]).unwrap();
            assert_eq!(back.query(), pages[n - 1].query());
        }
        let mut page = pages[99].clone();
        let mut turned = 0;
        while let Some(back) = newer(&fixed, &page) {
            turned += 1;
            page = back;
            assert_eq!(page.get("after"), pages[99 - turned].get("after"));
        }
        assert_eq!(turned, MAX_TOKENS - 1);
        assert_eq!(newest(&fixed, &page).unwrap().query(), "method=GET");
        assert!(newest(&fixed, &pages[0]).is_none() && newer(&fixed, &pages[0]).is_none());
    }
}
