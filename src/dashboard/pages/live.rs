//! Live updates: the script polls the page, and patches the elements with the attribute `data-live`.
//!
//! Polls are requests of the same page, so that they pass the guard, and get 304 while nothing has changed. Each tab has
//! at most one at a time.

use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use maud::{Markup, html};
use sha2::{Digest, Sha256};

use super::{Failure, page};
use crate::dashboard::page_context::PageContext;
use crate::dashboard::state::Shared;
use crate::usage::Granularity;

/// The state of a page with live updates.
pub(super) struct Live {
    /// The validator of the page; `None` if the backend cannot tell whether usage has changed.
    tag: Option<String>,
    is_on: bool,
}

impl Live {
    /// Responds with a page, or with 304 to a poll while nothing has changed. Pages that show an earlier time than now
    /// are not updated by default.
    pub(super) async fn page(
        shared: &Shared,
        context: &PageContext,
        headers: &HeaderMap,
        is_current: bool,
        title: &str,
        content: impl AsyncFnOnce(&Self) -> Result<Markup, Failure>,
    ) -> Response {
        let response = async {
            let live = Self::read(shared, is_current).await?;
            if let Some(response) = live.not_modified(headers) {
                return Ok(response);
            }
            let content = content(&live).await?;
            Ok(live.tagged(page(context, title, &content)))
        };
        response
            .await
            .unwrap_or_else(|failure: Failure| failure.page(context))
    }

    /// Queries the store once.
    async fn read(shared: &Shared, is_current: bool) -> Result<Self, Failure> {
        let revision = shared.usage.revision().await?;
        let tag = revision.map(|revision| {
            // Relative ranges start and end at another minute then.
            let minute = Granularity::Minute.floor(Timestamp::now());
            let stats = shared.recorder.as_ref().map(|it| it.stats());
            let state = format!("{revision} {minute} {stats:?}");
            let digest = Sha256::digest(state);
            let digits = digest[..8].iter().map(|byte| format!("{byte:02x}"));
            format!("W/\"{}\"", digits.collect::<String>())
        });
        Ok(Self {
            tag,
            is_on: is_current,
        })
    }

    /// The response to a poll if nothing has changed.
    fn not_modified(&self, headers: &HeaderMap) -> Option<Response> {
        let tag = self.tag.as_ref()?;
        let is_known = headers.get(IF_NONE_MATCH)? == tag.as_str();
        is_known.then(|| self.tagged(StatusCode::NOT_MODIFIED.into_response()))
    }

    /// Adds the validator to a page.
    fn tagged(&self, mut response: Response) -> Response {
        if let Some(Ok(tag)) = self.tag.as_ref().map(|tag| tag.parse()) {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }

    /// The switch. Hidden without the script.
    pub(super) fn switch(&self) -> Markup {
        html! {
            button type="button" .live role="switch" aria-checked=(self.is_on) data-tag=[self.tag.as_deref()] hidden {
                "Live"
            }
        }
    }
}
