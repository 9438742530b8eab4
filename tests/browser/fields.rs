//! Fields of forms at every width of the window.

use serde_json::{Value, json};

use crate::demo::USED;
use crate::journey::signed_in;
use crate::pages::Pages;

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn date_fields_are_wide_enough_at_every_width() {
    /// The visible date fields that are narrower than their content, and their number.
    const CUT: &str = "
        const fields = [...document.querySelectorAll('input[type=datetime-local]')].filter((it) => it.checkVisibility());
        const cut = fields.filter((field) => {
            const copy = field.cloneNode();
            copy.removeAttribute('id');
            copy.style.cssText = 'width: max-content; max-width: none; flex: none; position: absolute';
            field.after(copy);
            const needed = copy.offsetWidth;
            copy.remove();
            return needed > field.offsetWidth;
        });
        return [cut.map((it) => it.name), fields.length];";
    signed_in(async |pages: &Pages| {
        pages.open_key("Usage of", USED).await;
        let key = pages.url().await.path().strip_prefix("/admin").unwrap().to_owned();
        let times = "since=2026-11-01T10:00:05&until=2026-12-31T23:59:59";
        for (path, count) in [
            (format!("/log?{times}"), 2),
            (format!("{key}?range=custom&from=2026-11-01T10:00:05&to=2026-12-31T23:59:59&{times}"), 4),
            ("/keys/new".into(), 1),
        ] {
            pages.open(&path).await;
            if path == "/keys/new" {
                pages.unfold("Options").await;
                pages.choose("Expires", "On a date").await;
            }
            for width in [1440, 1280, 1024, 900, 768, 640, 639, 390, 320] {
                let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
                let resize = "Emulation.setDeviceMetricsOverride";
                pages.browser.devtools(resize, size).await;
                // Narrow windows fold the filters.
                let unfold = "for (const it of document.querySelectorAll('details.fold')) it.open = true";
                pages.ask(unfold, vec![]).await;
                let cut: (Vec<String>, Value) =
                    serde_json::from_value(pages.ask(CUT, vec![]).await).unwrap();
                assert_eq!(cut, (vec![], json!(count)), "{path} at {width} pixels");
            }
        }
    })
    .await;
}
