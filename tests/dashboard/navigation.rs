//! Navigation: the page after signing in, titles, and the current item of the main navigation.

use axum::body::Body;
use http::header::{ACCEPT, LOCATION, SET_COOKIE};
use http::{Request, StatusCode};

use crate::pages::{Answer, Pages, TOKEN, encoded};

/// Requests a page as a browser that is not signed in.
async fn visit(pages: &Pages, path: &str) -> Answer {
    let request = Request::get(path).header(ACCEPT, "text/html");
    pages.ask(request.body(Body::empty()).unwrap()).await
}

async fn sign_in(pages: &Pages, fields: &[(&str, &str)]) -> Answer {
    let request =
        Request::post("/admin/sign-in").header("content-type", "application/x-www-form-urlencoded");
    let request = request.body(Body::from(encoded(fields)));
    pages.ask(request.unwrap()).await
}

/// The value of the form's hidden field.
fn next(page: &Answer) -> Option<String> {
    let (_, rest) = page.text.split_once("name=\"next\" value=\"")?;
    Some(rest.split('"').next()?.replace("&amp;", "&"))
}

#[tokio::test]
async fn signing_in_leads_to_the_requested_page() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    for path in [
        format!(
            "/admin/keys/{}?range=7d&code=4xx&endpoint=%2Fv1%2F%C3%A4",
            key.id
        ),
        "/admin/audit".into(),
        "/admin?range=7d".into(),
        "/admin".into(),
    ] {
        let redirect = visit(&pages, &path).await;
        assert_eq!(redirect.status, StatusCode::SEE_OTHER, "{path}");
        let form = visit(&pages, redirect.headers[LOCATION].to_str().unwrap()).await;
        assert_eq!(form.status, StatusCode::OK, "{path}");
        assert_eq!(next(&form).is_some(), path != "/admin");
        let next = next(&form).unwrap_or_default();
        // A wrong token keeps the page.
        let wrong = sign_in(&pages, &[("secret", "another"), ("next", &next)]).await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(self::next(&wrong).unwrap_or_default(), next, "{path}");
        let signed_in = sign_in(&pages, &[("secret", TOKEN), ("next", &next)]).await;
        assert_eq!(signed_in.status, StatusCode::SEE_OTHER, "{path}");
        assert!(signed_in.headers.contains_key(SET_COOKIE));
        assert_eq!(signed_in.headers[LOCATION], path);
    }
}

#[tokio::test]
async fn signing_in_leads_to_no_other_place() {
    let pages = Pages::new();
    for next in [
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "/%2Fevil.example",
        "/%5Cevil.example",
        "/\t/evil.example",
        "/keys\r\nLocation: https://evil.example",
        "/../other",
        "/%2e%2E/other",
        "/keys/..%2f..%2fother",
        "evil.example",
        ".evil.example",
        "@evil.example",
        "",
    ] {
        let signed_in = sign_in(&pages, &[("secret", TOKEN), ("next", next)]).await;
        assert_eq!(signed_in.status, StatusCode::SEE_OTHER, "{next:?}");
        assert_eq!(signed_in.headers[LOCATION], "/admin", "{next:?}");
        // In the address of the form, it is text at most.
        let form = visit(
            &pages,
            &format!("/admin/sign-in?{}", encoded(&[("next", next)])),
        )
        .await;
        assert_eq!(form.status, StatusCode::OK, "{next:?}");
        assert_eq!(
            form.count("evil.example"),
            usize::from(next.contains("evil")),
            "{next:?}"
        );
    }
    // A path that looks like one below the dashboard is appended to its base path.
    let signed_in = sign_in(&pages, &[("secret", TOKEN), ("next", "/other")]).await;
    assert_eq!(signed_in.headers[LOCATION], "/admin/other");
}

#[tokio::test]
async fn titles_name_the_key_and_a_navigation_item_is_current() {
    let pages = Pages::new();
    let key = pages.key("Zapier <1>").await;
    let at = |within: &str| format!("/keys/{}{within}", key.id);
    for (path, title, item, current) in [
        (String::new(), "Overview", "Overview", "page"),
        ("?range=7d".into(), "Overview", "Overview", "page"),
        ("/keys?status=active".into(), "API keys", "API keys", "page"),
        ("/keys/new".into(), "Generate API key", "API keys", "true"),
        (at("?range=7d"), "Zapier &lt;1&gt;", "API keys", "true"),
        (at("/edit"), "Edit Zapier &lt;1&gt;", "API keys", "true"),
        (at("/rotate"), "Rotate Zapier &lt;1&gt;", "API keys", "true"),
        (
            at("/disable"),
            "Disable Zapier &lt;1&gt;",
            "API keys",
            "true",
        ),
        (at("/revoke"), "Revoke Zapier &lt;1&gt;", "API keys", "true"),
        (at("/delete"), "Delete Zapier &lt;1&gt;", "API keys", "true"),
        (
            "/keys/0000000000000000".into(),
            "API key not found",
            "API keys",
            "true",
        ),
        ("/log".into(), "Request log", "Request log", "page"),
        ("/audit".into(), "Audit log", "Audit log", "page"),
    ] {
        let page = pages.get(&format!("/admin{path}")).await;
        assert_eq!(
            page.count(&format!("<title>{title} · keytally</title>")),
            1,
            "{path}"
        );
        let (_, nav) = page.text.split_once("<nav aria-label=\"Main\">").unwrap();
        let (nav, _) = nav.split_once("</nav>").unwrap();
        assert_eq!(nav.matches("aria-current").count(), 1, "{path}");
        assert!(
            nav.contains(&format!("aria-current=\"{current}\">{item}</a>")),
            "{path}: {nav}"
        );
    }
}
