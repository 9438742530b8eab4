//! The style sheet, the script and the icon.

use axum::body::Body;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{Request, StatusCode};

use crate::pages::Pages;

#[tokio::test]
async fn versioned_assets_are_immutable_and_others_are_revalidated() {
    let pages = Pages::new();
    let page = pages.get("/admin").await.text;
    for name in ["style.css", "script.js", "icon.svg"] {
        let start = page.find(&format!("/admin/assets/{name}?v=")).unwrap();
        let address = page[start..].split('"').next().unwrap();
        let ask = |address: &str, known: Option<&str>| {
            let mut request = Request::get(address);
            if let Some(known) = known {
                request = request.header(IF_NONE_MATCH, known);
            }
            pages.ask(request.body(Body::empty()).unwrap())
        };
        // Without credentials.
        let asset = ask(address, None).await;
        assert_eq!(asset.status, StatusCode::OK);
        assert_eq!(
            asset.headers[CACHE_CONTROL],
            "public, max-age=31536000, immutable"
        );
        let tag = asset.headers[ETAG].to_str().unwrap();
        for known in [tag, &format!("\"other\", W/{tag}")] {
            let again = ask(address, Some(known)).await;
            assert_eq!((again.status, &*again.text), (StatusCode::NOT_MODIFIED, ""));
            assert_eq!(again.headers[ETAG], tag);
        }
        assert_eq!(ask(address, Some("\"other\"")).await.status, StatusCode::OK);
        // Other versions return the current content, to be revalidated.
        for other in [
            format!("/admin/assets/{name}"),
            format!("/admin/assets/{name}?v=0"),
        ] {
            let asset = ask(&other, None).await;
            assert_eq!(asset.headers[CACHE_CONTROL], "no-cache");
        }
    }
}
