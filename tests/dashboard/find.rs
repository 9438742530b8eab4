//! Finding keys by name, id, hint or secret, and keeping secrets out of URLs.

use axum::Router;
use axum::body::Body;
use http::header::{ACCEPT, LOCATION, SET_COOKIE};
use http::{Request, StatusCode};
use keytally::KeyId;
use keytally::backend::MemoryBackend;
use keytally::dashboard::{BearerToken, Dashboard};
use keytally::key::{
    Actor, Digest, ImportedKey, Issued, Issuer, KeyAdmin, NewKey, Peppers, Prefix, Secret,
};
use serde_json::json;

use crate::pages::{Answer, Pages, TOKEN};

const FIND: &str = "/admin/keys/find";
const PASTED: &str = "This secret was pasted here.";

fn issuer() -> Issuer {
    let peppers = Peppers::new([("main", &[7; 16][..])]).unwrap();
    Issuer::new("acme_live").unwrap().peppers(peppers)
}

/// A dashboard with the peppers of its keys.
fn peppered() -> Pages {
    let pages = MemoryBackend::new();
    Pages::with(pages, |dashboard| dashboard.issuer(issuer()))
}

async fn issue(pages: &Pages, name: &str) -> Issued {
    let (issuer, new) = (issuer(), NewKey::new(name));
    let issued = issuer.issue(&pages.backend, new, Actor::SYSTEM).await;
    issued.unwrap()
}

/// Submits the form at the top of a page.
async fn find(pages: &Pages, text: &str) -> Answer {
    let token = pages.token("/admin").await;
    let fields = [("token", &*token), ("find", text), ("secret-found", "")];
    pages.post(FIND, &fields, &[]).await
}

#[track_caller]
fn leads_to(answer: &Answer, path: &str) {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    assert_eq!(answer.headers[LOCATION], *path);
}

/// The page that a redirect leads to, with the cookie that it sets.
async fn followed(pages: &Pages, answer: &Answer) -> Answer {
    let cookie = answer.headers.get(SET_COOKIE);
    let cookie = cookie.map(|it| it.to_str().unwrap().split(';').next().unwrap());
    let request = Request::get(answer.headers[LOCATION].to_str().unwrap())
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("cookie", cookie.unwrap_or_default());
    pages.ask(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_pasted_secret_leads_to_its_key_with_a_warning() {
    let pages = peppered();
    issue(&pages, "Another").await;
    let issued = issue(&pages, "Leaked").await;
    let (secret, id) = (issued.secret.expose(), issued.key.id);
    let page = format!("/admin/keys/{id}");
    for text in [
        secret,
        &format!(" {secret}\r\n"),
        &format!("Authorization: Bearer {secret}"),
        &secret[..40],
        &format!("{}…", &secret[..40]),
        &format!("{}x", &secret[..63]),
    ] {
        let found = find(&pages, text).await;
        leads_to(&found, &page);
        assert!(!format!("{:?}", found.headers).contains(&secret[27..]));
        let cookie = found.headers[SET_COOKIE].to_str().unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/admin"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let shown = followed(&pages, &found).await;
        assert_eq!(shown.count(PASTED), 1, "{text}");
        assert_eq!(shown.link("Disable"), format!("{page}/disable"));
        assert_eq!(shown.link("Rotate"), format!("{page}/rotate"));
        assert!(!shown.text.contains(&secret[27..]));
    }
    // The script sends the id in place of the secret.
    let token = pages.token("/admin").await;
    let fields = [
        ("token", &*token),
        ("find", id.as_str()),
        ("secret-found", "yes"),
    ];
    let found = pages.post(FIND, &fields, &[]).await;
    leads_to(&found, &page);
    assert_eq!(followed(&pages, &found).await.count(PASTED), 1);
    // Only on the page of that key, and by no link.
    assert_eq!(
        pages
            .get(&format!("{page}?secret-found=yes"))
            .await
            .count(PASTED),
        0
    );
    let other = Answer {
        headers: found.headers.clone(),
        ..found
    };
    let mut headers = other.headers.clone();
    headers.insert(LOCATION, "/admin/keys".parse().unwrap());
    assert_eq!(
        followed(&pages, &Answer { headers, ..other })
            .await
            .count(PASTED),
        0
    );

    pages.backend.revoke(id, Actor::SYSTEM).await.unwrap();
    let shown = followed(&pages, &find(&pages, secret).await).await;
    assert!(
        shown
            .text
            .contains("The key is revoked: requests with it are rejected.")
    );
}

#[tokio::test]
async fn names_ids_and_hints_lead_to_keys_without_a_warning() {
    let pages = Pages::new();
    let zapier = pages.key("Zapier Integration").await;
    let first = pages.key("Export 1").await;
    pages.key("Export 2").await;
    let page = format!("/admin/keys/{}", zapier.id);
    let (id, hint) = (zapier.id.as_str(), &*zapier.hint);
    for text in [
        id,
        &format!("acme_live_{id}"),
        hint,
        &hint.replace('…', "..."),
        hint.trim_end_matches('…'),
        &format!("acme_live_{}", &id[..9]),
        &format!("acme_live_{}…", &id[..15]),
        "Zapier Integration",
        "zapier",
    ] {
        let found = find(&pages, text).await;
        leads_to(&found, &page);
        assert!(!found.headers.contains_key(SET_COOKIE), "{text}");
        assert_eq!(followed(&pages, &found).await.count(PASTED), 0, "{text}");
    }
    for (text, list) in [
        ("export", "/admin/keys?name=export"),
        ("acme_live_", "/admin/keys?name=acme_live_"),
    ] {
        let found = find(&pages, text).await;
        leads_to(&found, list);
        let list = followed(&pages, &found).await;
        assert!(list.text.contains("Export 1") && list.text.contains("Export 2"));
        assert_eq!(list.text.contains("Zapier"), text == "acme_live_");
    }
    // The list has the same filter.
    let list = pages.get(&format!("/admin/keys?name={}", first.id)).await;
    assert!(list.text.contains("Export 1") && !list.text.contains("Export 2"));
    for text in ["", " "] {
        leads_to(&find(&pages, text).await, "/admin/keys");
    }
    leads_to(&pages.get(FIND).await, "/admin/keys");
}

#[tokio::test]
async fn imported_secrets_lead_to_their_keys() {
    let pages = peppered();
    let secrets = [
        "sk-9fQ2hX7bLmT4vWc8",
        "17|Kp3xV9qLrT2mWbZ8",
        "Ym9vIGZhciBib28h+/==",
    ];
    let hmac = |secret: &str| {
        use hmac::{Hmac, KeyInit, Mac};
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&[7; 16]).unwrap();
        mac.update(secret.as_bytes());
        let bytes = mac.finalize().into_bytes();
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let (_, hashed) = secrets[1].split_once('|').unwrap();
    for (secret, key) in [
        (
            secrets[0],
            ImportedKey::from_secret(NewKey::new("plain"), secrets[0]),
        ),
        (
            secrets[1],
            ImportedKey::from_digest(
                NewKey::new("after a separator"),
                Digest::from_hmac_sha256("main", hmac(hashed)),
            ),
        ),
        (
            secrets[2],
            ImportedKey::from_digest(
                NewKey::new("peppered"),
                Digest::from_hmac_sha256("main", hmac(secrets[2])),
            ),
        ),
    ] {
        let key = issuer()
            .import(&pages.backend, key, Actor::SYSTEM)
            .await
            .unwrap();
        let found = find(&pages, secret).await;
        leads_to(&found, &format!("/admin/keys/{}", key.id));
        assert_eq!(followed(&pages, &found).await.count(PASTED), 1);
    }
}

#[tokio::test]
async fn a_text_without_a_key_is_not_found_and_not_shown() {
    let pages = Pages::new();
    let deleted = issue(&pages, "Deleted").await;
    pages
        .backend
        .delete(deleted.key.id, Actor::SYSTEM)
        .await
        .unwrap();
    let long = "x".repeat(60_000);
    for (text, id) in [
        (deleted.secret.expose(), Some(deleted.key.id)),
        (deleted.key.id.as_str(), Some(deleted.key.id)),
        ("nobody", None),
        ("sk-from-another-system-4711", None),
        ("acme_live_Alkk…", None),
        ("<script>alert(1)</script>", None),
        ("\0", None),
        (&long, None),
        ("…", None),
    ] {
        let answer = find(&pages, text).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{text}");
        assert!(answer.text.contains("<h1>No API key found</h1>"), "{text}");
        match id {
            Some(id) => assert_eq!(answer.count(&format!("/admin/log?key={id}\"")), 1),
            None => assert!(!answer.text.contains(text), "{text}"),
        }
        assert!(!answer.text.contains(&deleted.secret.expose()[27..]));
    }
    // As all forms, it needs a form token.
    let answer = pages.post(FIND, &[("find", "nobody")], &[]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn urls_with_a_secret_lead_to_the_same_page_without_it() {
    let pages = peppered();
    let issued = issue(&pages, "Leaked").await;
    let (secret, id) = (issued.secret.expose(), issued.key.id);
    let other = Secret::generate(&Prefix::new("acme_test").unwrap()).unwrap();
    let (unknown, other) = (other.expose(), other.id());
    let encoded = secret.replace('_', "%5F");
    for (path, expected) in [
        (
            format!("/keys?name={secret}&status=active"),
            format!("/keys?name={id}&status=active"),
        ),
        (
            format!("/keys?owner={unknown}"),
            format!("/keys?owner={other}"),
        ),
        (
            format!("/log?key={encoded}&method=GET"),
            format!("/log?key={id}&method=GET"),
        ),
        (
            format!("/log/csv?resource={secret}"),
            format!("/log/csv?resource={id}"),
        ),
        (format!("/audit?key={secret}"), format!("/audit?key={id}")),
        (
            format!("/keys/{secret}?range=7d"),
            format!("/keys/{id}?range=7d"),
        ),
        (
            format!("/keys/{id}?code={secret}x%20"),
            format!("/keys/{id}?code={id}"),
        ),
        (
            format!("/sign-in?next={secret}"),
            format!("/sign-in?next={id}"),
        ),
        (
            format!("/assets/style.css?v={secret}"),
            format!("/assets/style.css?v={id}"),
        ),
        (format!("?{secret}=1&range=7d"), "?range=7d".into()),
        (format!("/nowhere/{encoded}"), "/keys".into()),
    ] {
        for token in [Some(TOKEN), None] {
            let mut request = Request::get(format!("/admin{path}")).header(ACCEPT, "text/html");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let answer = pages.ask(request.body(Body::empty()).unwrap()).await;
            leads_to(&answer, &format!("/admin{expected}"));
            assert_eq!(answer.text, "");
        }
    }
    // The key is in the list, and its page is shown.
    let list = pages.get(&format!("/admin/keys?name={id}")).await;
    assert!(list.text.contains("Leaked"));
    // Words that are no secrets are left alone.
    let long = format!("/admin/log?resource=res_{}", "0".repeat(60));
    assert_eq!(pages.get(&long).await.status, StatusCode::OK);
}

/// The path and query of a request are not always those of a browser.
#[tokio::test]
async fn urls_with_a_secret_lead_to_no_other_host() {
    let backend = MemoryBackend::new();
    let guard = BearerToken::new(TOKEN).unwrap();
    let secret = Secret::generate(&Prefix::new("acme_live").unwrap()).unwrap();
    let pages = Pages {
        router: Router::new()
            .fallback_service(Dashboard::new(backend.clone(), guard).into_router()),
        backend,
    };
    for path in [
        "//evil.example/",
        "/%2Fevil.example/",
        "/\\evil.example/",
        "/../evil.example/",
    ] {
        let request = Request::get(format!("{path}{}", secret.expose()));
        let Ok(request) = request.body(Body::empty()) else {
            continue;
        };
        leads_to(&pages.ask(request).await, "/");
    }
}

#[tokio::test]
async fn filters_that_become_a_part_of_the_url_reject_secrets() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    for path in [
        "/keys".into(),
        "/log".into(),
        "/audit".into(),
        format!("/keys/{}", key.id),
    ] {
        let page = pages.get(&format!("/admin{path}")).await;
        let forms = page.text.split("<form ").skip(1);
        let filters = forms.filter(|form| form.contains("method=\"get\""));
        let inputs: Vec<_> = filters
            .flat_map(|form| {
                form.split_once("</form>")
                    .unwrap()
                    .0
                    .split("<input ")
                    .skip(1)
            })
            .filter(|input| input.contains("type=\"text\""))
            .collect();
        assert!(!inputs.is_empty(), "{path}");
        for input in inputs {
            let pattern = "pattern=\"(?!.*[a-z0-9]_[0-9A-Za-z]{54}(?![0-9A-Za-z_])).*\"";
            assert!(input.contains(pattern), "{path}: {input}");
        }
    }
}

#[tokio::test]
async fn the_api_finds_keys_and_rejects_urls_with_secrets() {
    let pages = peppered();
    let issued = issue(&pages, "Leaked").await;
    let another = issue(&pages, "Leaked too").await;
    let (secret, id) = (issued.secret.expose(), issued.key.id);
    let ask = async |text: &str| {
        let request = Request::post("/admin/api/keys/find")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json");
        let body = Body::from(json!({ "text": text }).to_string());
        let answer = pages.ask(request.body(body).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let found: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        let ids = found["keys"].as_array().unwrap().iter();
        let ids = ids.map(|key| key["id"].as_str().unwrap().parse().unwrap());
        (
            ids.collect::<Vec<KeyId>>(),
            found["by_secret"].as_bool().unwrap(),
        )
    };
    assert_eq!(ask(secret).await, (vec![id], true));
    assert_eq!(ask(id.as_str()).await, (vec![id], false));
    assert_eq!(ask("leaked t").await, (vec![another.key.id], false));
    let (mut both, by_secret) = ask("leaked").await;
    both.sort_unstable();
    let mut expected = vec![id, another.key.id];
    expected.sort_unstable();
    assert_eq!((both, by_secret), (expected, false));
    assert_eq!(ask("nobody").await, (vec![], false));

    let listed = pages.get(&format!("/admin/api/keys?search={id}")).await;
    assert!(listed.text.contains("Leaked") && !listed.text.contains("Leaked too"));
    for (path, name) in [
        (format!("keys?name={secret}"), Some("name")),
        (
            format!("keys?search={}", secret.replace('_', "%5F")),
            Some("search"),
        ),
        (format!("log?key={secret}"), Some("key")),
        (format!("audit?limit=7&actor={secret}"), Some("actor")),
        (format!("keys?{secret}=1"), None),
        (format!("keys/{secret}"), None),
        (format!("nowhere/{secret}"), None),
    ] {
        let answer = pages.get(&format!("/admin/api/{path}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(!answer.text.contains(&secret[27..]), "{}", answer.text);
        assert!(answer.text.contains("Must not contain a secret") || name.is_none());
        let problem: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(problem["errors"][0]["parameter"].as_str(), name, "{path}");
    }
}
