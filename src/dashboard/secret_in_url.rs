//! Removes secrets from URLs, which end up in the browser's history and in access logs.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};

use super::base_path::BasePath;
use super::form::FormFields;
use super::{api, next, pages};
use crate::drain::Drain;
use crate::key::{has_secret, ids_of_secrets};
use crate::web::Problem;

/// Redirects to the same page with the key id in place of a secret in the path or query, and rejects such API requests.
pub(super) async fn remove(base: BasePath, request: Request, next: Next) -> Response {
    let uri = request.uri();
    let url = uri.path_and_query().map_or("", |url| url.as_str());
    if !has_secret(url) {
        next.run(request).await
    } else if api::is_at(uri.path()) {
        let problem = problem(uri).into_response();
        Drain::before(request, problem).await
    } else if request.method().is_safe() {
        pages::redirect(next::url(&base.0, Some(&without_secrets(uri))))
    } else {
        // No page shows the URL that a form was sent to.
        next.run(request).await
    }
}

/// The path and query with the key id in place of each secret. Those that cannot be read are removed.
fn without_secrets(uri: &Uri) -> String {
    let mut parts = uri.path().split('/').map(|part| match has_secret(part) {
        true => id_in(part),
        false => Some(part.into()),
    });
    let path: Option<Vec<String>> = parts.by_ref().collect();
    let fields = FormFields::of_query(uri.query().unwrap_or_default());
    let fields = fields.iter().filter(|(name, _)| !has_secret(name));
    let fields = fields.filter_map(|(name, value)| match has_secret(value) {
        true => id_in(value).map(|id| (name, id)),
        false => Some((name, value.to_owned())),
    });
    let query = fields.collect::<FormFields>().query();
    let mark = if query.is_empty() { "" } else { "?" };
    let url = path.map(|path| format!("{}{mark}{query}", path.join("/")));
    url.filter(|url| !has_secret(url))
        .unwrap_or_else(|| "/keys".into())
}

fn id_in(text: &str) -> Option<String> {
    ids_of_secrets(text).next().map(|id| id.to_string())
}

fn problem(uri: &Uri) -> Problem {
    let detail = "Must not contain a secret, which URLs reveal to logs. Use the key ID, which `POST /keys/find` returns.";
    let fields = FormFields::of_query(uri.query().unwrap_or_default());
    let mut wrong = fields.iter().filter(|(_, value)| has_secret(value));
    match wrong.next().filter(|(name, _)| !has_secret(name)) {
        Some((name, _)) => Problem::parameter(name, detail),
        None => Problem::new(
            StatusCode::BAD_REQUEST,
            format!("The URL is invalid. {detail}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Prefix, Secret};

    #[test]
    fn secrets_are_replaced_by_ids_or_removed() {
        let secret = Secret::generate(&Prefix::new("acme_live").unwrap()).unwrap();
        let (text, id) = (secret.expose(), secret.id());
        // The underscores, percent-encoded once to four times.
        let encoded = ["%5F", "%255F", "%25255F", "%2525255F"];
        let encoded = encoded.map(|encoded| text.replace('_', encoded));
        let short = &text[..63];
        for (url, expected) in [
            (format!("/keys?name={text}"), format!("/keys?name={id}")),
            (
                format!("/keys?name=Bearer+{text}%0A"),
                format!("/keys?name={id}"),
            ),
            (
                format!("/log?method=GET&key={text}&code=4xx"),
                format!("/log?method=GET&key={id}&code=4xx"),
            ),
            (
                format!("/log?a={text}&b={text}#"),
                format!("/log?a={id}&b={id}"),
            ),
            (
                format!("/log?{text}=1&method=GET"),
                "/log?method=GET".into(),
            ),
            (format!("/?{text}"), "/".into()),
            (format!("/keys/{text}"), format!("/keys/{id}")),
            (
                format!("/keys/{text}/edit?back=a"),
                format!("/keys/{id}/edit?back=a"),
            ),
            (
                format!("/sign-in?next=%2Fkeys%3Fname%3D{text}"),
                format!("/sign-in?next={id}"),
            ),
            (format!("/keys/{short}0"), format!("/keys/{id}")),
            (format!("/keys/{}", encoded[0]), "/keys".into()),
            (format!("/log?key={}", encoded[0]), format!("/log?key={id}")),
            (
                format!("/log?key={}&code=200", encoded[1]),
                "/log?code=200".into(),
            ),
            (
                format!("/log?key={}&code=200", encoded[2]),
                "/log?code=200".into(),
            ),
        ] {
            let uri: Uri = url.parse().unwrap();
            let path = uri.path_and_query().unwrap().as_str();
            assert!(has_secret(path), "{url}");
            let cleaned = without_secrets(&uri);
            assert_eq!(cleaned, expected, "{url}");
            assert!(!has_secret(&cleaned), "{url}");
        }
        assert!(!has_secret(&encoded[3]), "more levels are not decoded");
    }
}
