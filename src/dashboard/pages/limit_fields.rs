//! The form fields of rate limits: a number, a period and, folded, a burst and a name for each.
//!
//! Together they are the text of a list of limits, as parsed by [`limit_text`].

use maud::{Markup, html};

use super::limit_text;
use crate::dashboard::form::{FieldErrors, FormFields};
use crate::limit::RateLimit;

/// The values and labels of periods.
const PERIODS: [(&str, &str); 4] = [
    ("s", "per second"),
    ("min", "per minute"),
    ("h", "per hour"),
    ("d", "per day"),
];

/// The fields of a list of limits.
#[derive(Clone, Copy)]
pub(super) struct LimitFields {
    /// The name of the field with all limits as text.
    pub(super) name: &'static str,
    /// Precedes the names of the fields of each limit.
    prefix: &'static str,
    legend: &'static str,
    /// The labels of the number and the period.
    labels: [&'static str; 2],
    hint: &'static str,
    max: usize,
}

/// The limits of a key.
pub(super) const OF_KEY: LimitFields = LimitFields {
    name: "limits",
    prefix: "limit",
    legend: "Rate limits",
    labels: ["Rate limit", "Period"],
    hint: "Leave empty for the limits of the plan, or else the service defaults.",
    max: RateLimit::MAX_PER_KEY,
};

/// The limits that the keys of an owner share.
pub(super) const OF_OWNER: LimitFields = LimitFields {
    name: "limits",
    prefix: "limit",
    legend: "Rate limits of all keys together",
    labels: ["Rate limit", "Period"],
    hint: "Leave empty for the limits of the plan.",
    max: RateLimit::MAX_PER_OWNER,
};

/// The limits of each key with a plan.
pub(super) const OF_PLAN_KEYS: LimitFields = LimitFields {
    name: "key-limits",
    prefix: "key-limit",
    legend: "Rate limits of each key",
    labels: ["Rate limit", "Period"],
    hint: "For keys without limits of their own. Leave empty for the limits of the owner's plan, or else the service defaults.",
    max: RateLimit::MAX_PER_KEY,
};

/// The limits that the keys of an owner with a plan share.
pub(super) const OF_PLAN_OWNERS: LimitFields = LimitFields {
    name: "owner-limits",
    prefix: "owner-limit",
    legend: "Rate limits of all keys of an owner together",
    labels: ["Shared rate limit", "Shared period"],
    hint: "For owners without limits of their own.",
    max: RateLimit::MAX_PER_OWNER,
};

/// The fields of a limit.
#[derive(Default)]
struct Row {
    requests: String,
    period: String,
    burst: String,
    name: String,
    is_wrong: bool,
}

impl Row {
    fn submitted(of: &LimitFields, fields: &FormFields, n: usize) -> Self {
        let field = |name: &str| {
            let value = fields.get(&format!("{}{name}-{n}", of.prefix));
            value.unwrap_or_default().to_owned()
        };
        Self {
            requests: field(""),
            period: field("-period"),
            burst: field("-burst"),
            name: field("-name"),
            is_wrong: false,
        }
    }

    /// A row with text that is not a limit.
    fn wrong(text: &str) -> Self {
        Self {
            requests: text.into(),
            period: PERIODS[1].0.into(),
            is_wrong: true,
            ..Self::default()
        }
    }

    fn of(limit: &RateLimit) -> Self {
        let unnamed = format!("{}/{}", limit.requests(), limit_text::period(limit));
        let unnamed = limit_text::parse(&unnamed);
        let is_usual = unnamed.is_ok_and(|usual| usual.name() == limit.name());
        let burst = match limit.burst() {
            burst if burst == limit.requests() => String::new(),
            burst => burst.to_string(),
        };
        Self {
            requests: limit.requests().to_string(),
            period: limit_text::period(limit),
            burst,
            name: if is_usual { "" } else { limit.name() }.into(),
            is_wrong: false,
        }
    }

    fn text(&self) -> Option<String> {
        if self.requests.is_empty() {
            return None;
        }
        let mut text = match plain_number(&self.requests) {
            Some(number) => format!("{number}/{}", self.period),
            None => self.requests.clone(),
        };
        if !self.name.is_empty() && !text.contains('=') {
            text = format!("{}={text}", self.name);
        }
        if !self.burst.is_empty() && !text.contains(':') {
            let burst = plain_number(&self.burst);
            text = format!("{text}:{}", burst.as_deref().unwrap_or(&self.burst));
        }
        Some(text)
    }
}

/// Digits, with thousands separators removed.
fn plain_number(text: &str) -> Option<String> {
    let groups: Vec<_> = text.split([',', '_', ' ']).collect();
    let is_number = |(n, group): (usize, &&str)| {
        let fits = n == 0 && groups.len() == 1 || group.len() == 3 || n == 0 && group.len() < 3;
        !group.is_empty() && fits && group.bytes().all(|byte| byte.is_ascii_digit())
    };
    groups
        .iter()
        .enumerate()
        .all(is_number)
        .then(|| groups.concat())
}

impl LimitFields {
    /// The submitted limits as text.
    pub(super) fn text_of(&self, fields: &FormFields) -> String {
        let rows = (1..=self.max).filter_map(|n| Row::submitted(self, fields, n).text());
        let whole = fields.get(self.name).map(String::from);
        rows.chain(whole).collect::<Vec<_>>().join(", ")
    }

    /// The submitted limits.
    ///
    /// # Errors
    ///
    /// A message for the form.
    pub(super) fn read(&self, fields: &FormFields) -> Result<Vec<RateLimit>, String> {
        parse(&self.text_of(fields))
    }

    /// The field with these limits.
    pub(super) fn of(&self, limits: &[RateLimit]) -> (&'static str, String) {
        let limits: Vec<_> = limits.iter().map(limit_text::format).collect();
        (self.name, limits.join(", "))
    }

    /// The rows as submitted, or of the limits in the field with all of them.
    fn rows(&self, fields: &FormFields) -> Vec<Row> {
        let mut rows = Vec::new();
        for n in 1..=self.max {
            let mut row = Row::submitted(self, fields, n);
            if let Some(text) = row.text() {
                row.is_wrong = parse(&text).is_err();
                rows.push(row);
            }
        }
        let whole = fields.get(self.name).unwrap_or_default();
        match parse(whole) {
            Ok(limits) => rows.extend(limits.iter().map(Row::of)),
            Err(_) => rows.push(Row::wrong(whole)),
        }
        rows.truncate(self.max);
        if rows.is_empty() {
            rows.push(empty());
        }
        rows
    }

    /// The inputs for the limits in these fields, and a folded one for another.
    pub(super) fn inputs(&self, fields: &FormFields, wrong: &FieldErrors) -> Markup {
        let mut rows = self.rows(fields);
        let error = wrong.get(self.name);
        if error.is_some() && !rows.iter().any(|row| row.is_wrong) {
            rows[0].is_wrong = true;
        }
        let mut focused = wrong.first().is_some_and(|(name, _)| name == self.name);
        let next = rows.len() + 1;
        let hint = format!("{}-hint", self.name);
        html! {
            fieldset .limits aria-describedby=(hint) {
                legend { (self.legend) }
                small id=(hint) { (self.hint) }
                @for (n, row) in (1..).zip(&rows) {
                    @let focus = row.is_wrong && std::mem::take(&mut focused);
                    (self.inputs_of(n, row, focus))
                }
                @if let Some(error) = error { small .wrong id={ (self.name) "-wrong" } { (error) } }
                @if next <= self.max {
                    details { summary { "Add a rate limit" } (self.inputs_of(next, &empty(), false)) }
                }
            }
        }
    }

    fn inputs_of(&self, n: usize, row: &Row, focused: bool) -> Markup {
        let id = |name: &str| format!("{}{name}-{n}", self.prefix);
        let and = if n == 1 {
            String::new()
        } else {
            format!(" {n}")
        };
        let is_known = PERIODS.iter().any(|(value, _)| *value == row.period);
        let other = format!("per {}", row.period);
        let other = (!is_known).then_some((&*row.period, &*other));
        let is_open = !row.burst.is_empty() || !row.name.is_empty();
        html! {
            .limit {
                p .field {
                    label for=(id("")) { (self.labels[0]) (and) }
                    input type="text" inputmode="numeric" id=(id("")) name=(id("")) value=(row.requests)
                        placeholder="100" autofocus[focused] autocomplete="off"
                        aria-invalid=[row.is_wrong.then_some("true")]
                        aria-describedby=[row.is_wrong.then(|| format!("{}-wrong", self.name))];
                }
                p .field {
                    label for=(id("-period")) { (self.labels[1]) (and) }
                    select id=(id("-period")) name=(id("-period")) {
                        @for (value, label) in PERIODS.into_iter().chain(other) {
                            option value=(value) selected[value == row.period] { (label) }
                        }
                    }
                }
                details open[is_open] {
                    summary { "Burst and name" }
                    p .field {
                        label for=(id("-burst")) { "Burst" (and) }
                        input type="text" inputmode="numeric" id=(id("-burst")) name=(id("-burst"))
                            value=(row.burst) autocomplete="off" aria-describedby=(id("-burst-hint"));
                        small id=(id("-burst-hint")) { "Requests accepted at once. The rate limit by default." }
                    }
                    p .field {
                        label for=(id("-name")) { "Limit name" (and) }
                        input type="text" id=(id("-name")) name=(id("-name")) value=(row.name)
                            autocomplete="off" aria-describedby=(id("-name-hint"));
                        small id=(id("-name-hint")) {
                            "Shown to clients in the RateLimit headers. The unit by default."
                        }
                    }
                }
            }
        }
    }
}

/// Parses a list of limits.
///
/// # Errors
///
/// A message for the form.
pub(super) fn parse(text: &str) -> Result<Vec<RateLimit>, String> {
    limit_text::split(text)
        .into_iter()
        .map(limit_text::parse)
        .collect()
}

fn empty() -> Row {
    Row {
        period: PERIODS[1].0.into(),
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fields: &[(&str, &str)]) -> String {
        let fields = fields
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        OF_KEY.text_of(&fields.collect())
    }

    #[test]
    fn rows_are_a_list_of_limits() {
        for (fields, expected) in [
            (
                &[("limit-1", "600"), ("limit-period-1", "min")][..],
                "600/min",
            ),
            (&[("limit-1", "1,000"), ("limit-period-1", "h")], "1000/h"),
            (
                &[("limit-1", "100 per minute"), ("limit-period-1", "d")],
                "100 per minute",
            ),
            (&[("limit-period-1", "min")], ""),
            (
                &[
                    ("limit-1", "5"),
                    ("limit-period-1", "90s"),
                    ("limit-burst-1", "2"),
                    ("limit-name-1", "slow"),
                    ("limit-3", "20/s"),
                ],
                "slow=5/90s:2, 20/s",
            ),
            (&[("limit-1", "10, 20"), ("limit-period-1", "s")], "10, 20"),
            (&[("limits", "600/min 20/s")], "600/min 20/s"),
        ] {
            assert_eq!(text(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn limits_fill_the_rows_that_they_came_from() {
        for limit in ["600/min", "slow=5/90s:2", "9/h:3", "odd=7/d", "7/1500ms"] {
            let row = Row::of(&limit_text::parse(limit).unwrap());
            assert_eq!(row.text().as_deref(), Some(limit));
        }
    }

    #[test]
    fn wrong_rows_stay_as_submitted() {
        let fields = [
            ("limit-1", "5/s"),
            ("limit-2", "a, b"),
            ("limit-name-2", "c"),
            ("limits", "plenty, 1/s"),
        ];
        let fields = fields
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let rows = OF_KEY.rows(&fields.collect());
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (&*row.requests, &*row.name, row.is_wrong))
            .collect();
        let expected = [
            ("5/s", "", false),
            ("a, b", "c", true),
            ("plenty, 1/s", "", true),
        ];
        assert_eq!(rows, expected);
    }
}
