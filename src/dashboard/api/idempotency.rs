//! What was asked for twice is done once.
//!
//! `Idempotency-Key` is that of [draft-ietf-httpapi-idempotency-key-header-07][draft], which callers may
//! also send without quotes. The id of the key to be made follows from it, so
//! that a repetition after a restart, or to another instance, meets the key that is there. For some
//! minutes the process itself knows the answer, secret and all, and gives it again.
//!
//! [draft]: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::extract::Fingerprint;
use super::problem::Problem;
use crate::dashboard::Shared;
use crate::dashboard::visit::Visit;
use crate::id::KeyId;
use crate::key::{AuditAction, AuditQuery, IssueError, Issued, Issuer, KeyAdmin};

const NAME: &str = "Idempotency-Key";

/// The longest key.
const LONGEST: usize = 255;

/// How long an answer is known.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// How many answers are known at once; then the oldest makes room.
const MOST: usize = 1_024;

/// What a caller says in order to be able to ask again, if they do.
pub(super) struct IdempotencyKey(Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(NAME).into_iter();
        let (first, more) = (values.next(), values.next());
        let Some(first) = first else {
            return Ok(Self(None));
        };
        let text = first.to_str().unwrap_or_default().trim();
        let quoted = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let text = quoted.unwrap_or(text);
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if more.is_some() || !(1..=LONGEST).contains(&text.len()) || !text.bytes().all(plain) {
            let detail =
                "This is one text of 1 to 255 visible ASCII characters, no quote or backslash.";
            return Err(Problem::header(StatusCode::BAD_REQUEST, NAME, detail));
        }
        Ok(Self(Some(text.to_owned())))
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "Makes it safe to ask again: what is asked for with the same text is done \
            once. For ten minutes, or until a thousand others are known, the answer is the same; later \
            it tells which key was made.";
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r#"^[!#-\[\]-~]{1,255}$"#));
        let header = ParameterBuilder::new()
            .name(NAME)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(text));
        vec![header.build()]
    }
}

/// What is asked for: by whom, what, and with which body.
pub(super) struct Operation {
    /// Absent where the caller will not ask again.
    id: Option<KeyId>,
    body: Fingerprint,
}

impl Operation {
    pub(super) fn new(
        visit: &Visit,
        path: &str,
        IdempotencyKey(key): IdempotencyKey,
        body: Fingerprint,
    ) -> Self {
        let id = key.map(|key| {
            let mut hash = Sha256::new();
            for part in ["keytally idempotency", visit.admin.name(), path, &key] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            KeyId::from_sha256(&hash.finalize().into())
        });
        Self { id, body }
    }
}

/// Answers to what was asked for in the last minutes.
#[derive(Clone, Default)]
pub(in crate::dashboard) struct Answers(Arc<Mutex<All>>);

struct Known {
    body: Fingerprint,
    /// Absent until it is there.
    answer: Option<Answer>,
}

struct Answer {
    issued: Arc<Issued>,
    since: Instant,
}

type All = HashMap<KeyId, Known>;

impl Answers {
    /// Does it, unless it was done.
    pub(super) async fn once<F>(
        &self,
        operation: Operation,
        shared: &Shared,
        issue: impl FnOnce(Issuer) -> F,
    ) -> Result<Arc<Issued>, Problem>
    where
        F: Future<Output = Result<Issued, IssueError>> + Send + 'static,
    {
        let issuer = shared.issuer.clone().ok_or_else(Problem::no_issuer)?;
        let Some(id) = operation.id else {
            return Ok(Arc::new(issue(issuer).await?));
        };
        let under_way = match self.begin(id, operation.body)? {
            Begun::Again(answer) => return Ok(answer),
            Begun::First(under_way) => under_way,
        };
        let issuing = issue(issuer.under(id));
        let store = shared.backend.clone();
        // Of its own: a caller that leaves and asks again is to find the answer.
        let task = tokio::spawn(async move {
            if was_there(&*store, id).await? {
                let detail = "It was done before, and the key that was made was deleted since.";
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            match issuing.await {
                Ok(issued) => {
                    let issued = Arc::new(issued);
                    under_way.keep(issued.clone());
                    Ok(issued)
                }
                Err(error) => match store.get(id).await {
                    Ok(Some(key)) => Err(done_before(id, &key.hint)),
                    _ => Err(error.into()),
                },
            }
        });
        task.await.unwrap_or_else(|_| Err(Problem::broken()))
    }

    fn begin(&self, id: KeyId, body: Fingerprint) -> Result<Begun, Problem> {
        let mut known = self.known();
        let conflict = |detail| Problem::new(StatusCode::CONFLICT, detail);
        match known.get(&id) {
            Some(other) if other.body != body => {
                let detail = "It was sent with another body.";
                Err(Problem::header(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    NAME,
                    detail,
                ))
            }
            Some(Known { answer: None, .. }) => {
                Err(conflict("The same is being done; ask again in a moment."))
            }
            Some(Known {
                answer: Some(answer),
                ..
            }) => Ok(Begun::Again(answer.issued.clone())),
            None => {
                make_room(&mut known)?;
                known.insert(id, Known { body, answer: None });
                let answers = self.clone();
                Ok(Begun::First(UnderWay { answers, id }))
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the oldest answer where there is no room for another. What is asked for again after that is
/// not done again: the key is there.
fn make_room(known: &mut All) -> Result<(), Problem> {
    if known.len() < MOST {
        return Ok(());
    }
    let answered = known
        .iter()
        .filter_map(|(id, known)| Some((known.answer.as_ref()?.since, *id)));
    let (_, oldest) = answered.min().ok_or_else(|| {
        let detail = "Too much is being made at once. Try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    known.remove(&oldest);
    Ok(())
}

enum Begun {
    First(UnderWay),
    Again(Arc<Issued>),
}

/// What is being done; forgotten when it failed, or some minutes after it was done.
struct UnderWay {
    answers: Answers,
    id: KeyId,
}

impl UnderWay {
    fn keep(self, issued: Arc<Issued>) {
        if let Some(known) = self.answers.known().get_mut(&self.id) {
            let since = Instant::now();
            known.answer = Some(Answer { issued, since });
        }
        tokio::spawn(async move {
            tokio::time::sleep(KNOWN_FOR).await;
            drop(self);
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answers.known().remove(&self.id);
    }
}

/// Whether the audit knows of a key that is there no more: another one must not take over its usage.
async fn was_there(store: &dyn KeyAdmin, id: KeyId) -> Result<bool, Problem> {
    let deleted = AuditQuery::new().key(id).action(AuditAction::Deleted);
    let entries = store.audit(&deleted.limit(1)).await?;
    Ok(entries.is_some_and(|page| !page.items.is_empty()))
}

fn done_before(id: KeyId, hint: &str) -> Problem {
    let detail = format!(
        "It was done before: key {id} ({hint}) was made. Its secret was in the answer to that; rotate the key if it was lost."
    );
    Problem::new(StatusCode::CONFLICT, detail)
}
