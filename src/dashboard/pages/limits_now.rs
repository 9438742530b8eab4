//! The current status of rate limits.

use maud::{Markup, html};

use super::limit_text;
use crate::dashboard::charts;
use crate::dashboard::state::Shared;
use crate::key::Key;
use crate::limit::{LimitError, LimitStatus, RateLimit, Subject, SubjectLimits};
use crate::telemetry;

/// The limits of a key and its owner, if the dashboard has a layer.
pub(super) async fn of_key(shared: &Shared, key: &Key) -> Markup {
    match &shared.layer {
        Some(layer) => section(layer.limit_statuses(key).await),
        None => html! {},
    }
}

/// The limits of an owner, if the dashboard has a layer.
pub(super) async fn of_owner(shared: &Shared, owner: &str, limits: &[RateLimit]) -> Markup {
    let limits = SubjectLimits::new(Subject::Owner(owner), limits);
    match &shared.layer {
        Some(layer) => section(layer.subject_statuses(&[limits]).await),
        None => html! {},
    }
}

fn section(statuses: Result<Vec<(RateLimit, LimitStatus)>, LimitError>) -> Markup {
    let statuses = match statuses {
        Ok(statuses) if statuses.is_empty() => return html! {},
        Ok(statuses) => Some(statuses),
        Err(error) => {
            telemetry::warn!(
                error = &error as &dyn std::error::Error,
                "failed to read the status of rate limits"
            );
            None
        }
    };
    html! {
        section .panel aria-labelledby="limits" {
            h2 #limits { "Rate limits" }
            div data-live="limits" {
                @match &statuses {
                    Some(statuses) => (table(statuses)),
                    None => p .empty { "The rate limiter is unavailable. Reload the page to try again." },
                }
            }
        }
    }
}

fn table(statuses: &[(RateLimit, LimitStatus)]) -> Markup {
    html! {
        table .stacked .amounts aria-labelledby="limits" {
            thead { tr {
                th scope="col" { "Name" }
                th scope="col" { "Limit" }
                th scope="col" .number { "Remaining" }
                th scope="col" .number { "Resets in" }
            } }
            tbody {
                @for (limit, status) in statuses {
                    tr {
                        th scope="row" { (limit.name()) }
                        td data-label="Limit" { (limit_text::describe(limit)) }
                        td .number data-label="Remaining" { (charts::count(status.remaining)) " of " (charts::count(limit.burst())) }
                        td .number data-label="Resets in" { (reset(status.reset_secs)) }
                    }
                }
            }
        }
    }
}

/// The time until a limit is restored.
fn reset(secs: u32) -> String {
    match secs {
        0 => "–".into(),
        1..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs.div_ceil(60)),
        _ => format!("{} h", secs.div_ceil(3_600)),
    }
}
