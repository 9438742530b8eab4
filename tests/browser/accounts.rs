//! Sign-in, content security policy, escaping and keyboard navigation.

use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::browser::Scripts;
use crate::journey::{signed_in, visitor};
use crate::pages::{Pages, until};

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn a_session_lasts_from_sign_in_to_sign_out() {
    visitor(Scripts::On, async |pages: &Pages| {
        pages.open("/audit").await;
        assert_eq!(pages.heading().await, "Sign in");
        pages.fill("Admin token", "another token than that").await;
        pages.send("Sign in").await;
        assert_eq!(pages.alert().await, "Invalid admin token.");
        pages.sign_in().await;
        pages.open("/audit").await;
        assert_eq!(pages.heading().await, "Audit log");
        // The session cookie is not readable by scripts.
        let seen = pages.ask("return document.cookie", vec![]).await;
        assert!(!seen.as_str().unwrap().contains("session"), "{seen}");

        pages.open("/sign-out").await;
        pages.send("Sign out").await;
        assert_eq!(pages.heading().await, "Sign in");
        pages.open("/audit").await;
        assert_eq!(pages.heading().await, "Sign in");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn injected_scripts_and_styles_are_blocked() {
    const INJECT: &str = r#"
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        const within = document.createElement('div');
        within.innerHTML = '<img src="nowhere" onerror="window.ran = true"><b style="color: red">!</b>';
        document.body.append(script, within);
        return getComputedStyle(within.querySelector('b')).color;"#;

    signed_in(async |pages: &Pages| {
        pages.open("/keys").await;
        let colour = pages.ask(INJECT, vec![]).await;
        assert_ne!(colour, json!("rgb(255, 0, 0)"));
        // The script, the style, and the event handler, which runs once the image fails to load.
        let complaints = std::cell::RefCell::new(Vec::new());
        until(async || {
            let more = pages.browser.complaints().await;
            complaints.borrow_mut().extend(more);
            complaints.borrow().len() >= 3
        })
        .await;
        for complaint in complaints.take() {
            assert!(complaint.contains("Content Security Policy"), "{complaint}");
        }
        assert_eq!(pages.ask("return window.ran", vec![]).await, Value::Null);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn hostile_text_is_escaped() {
    const HOSTILE: &str = "<img src=x onerror=alert(1)>'=cmd() \u{202e}gnp";

    signed_in(async |pages: &Pages| {
        let secret = pages.generate(HOSTILE, &[("Owner", HOSTILE)]).await;
        let path = "/v1/postings/%3Cscript%3Ealert(1)%3C%2Fscript%3E";
        assert_eq!(pages.demo.get(path, &secret).await, 404);
        pages.open_usage(HOSTILE, 1).await;
        pages.edit_columns(&["Path", "Resource ID"]).await;
        let log = pages.log().await;
        assert!(log[0]["Path"].contains("alert(1)"), "{:?}", log[0]);
        let usage = pages.url().await;
        let of_key = usage.path().strip_prefix("/admin").unwrap();
        for within in ["", "/rotate", "/disable", "/delete"] {
            pages.open(&format!("{of_key}{within}")).await;
            assert!(pages.heading().await.contains(HOSTILE), "{within}");
            only_texts(pages).await;
        }
        for list in ["/keys", "/audit"] {
            pages.open(list).await;
            assert!(pages.text().await.contains(HOSTILE), "{list}");
            only_texts(pages).await;
        }
    })
    .await;
}

/// Asserts that the hostile text created no elements.
async fn only_texts(pages: &Pages) {
    let injected = "return document.querySelectorAll('img:not(.brand img), main script').length";
    assert_eq!(pages.ask(injected, vec![]).await, json!(0));
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn the_skip_link_moves_focus_to_the_content() {
    signed_in(async |pages: &Pages| {
        pages.open("/keys").await;
        pages.press(Key::Tab).await;
        let focused = "return document.activeElement.textContent";
        assert_eq!(pages.ask(focused, vec![]).await, json!("Skip to content"));
        assert!(
            pages.has_link("Skip to content").await,
            "the link is visible"
        );
        pages.press(Key::Enter).await;
        pages.press(Key::Tab).await;
        let within = "return document.activeElement.closest('main') !== null";
        assert_eq!(pages.ask(within, vec![]).await, json!(true));
    })
    .await;
}
