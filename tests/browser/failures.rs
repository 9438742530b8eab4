//! Why requests fail, and charts without a mouse, a script or good eyes.

use fantoccini::key::Key;
use http::StatusCode;
use serde_json::{Value, json};

use crate::browser::Scripts;
use crate::demo::USED;
use crate::journey::{signed_in, visitor};
use crate::pages::Pages;
use crate::until::until;

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn two_clicks_show_why_the_calls_of_an_owner_fail() {
    signed_in(async |pages: &Pages| {
        let networks = [("Owner", "customer-5"), ("Allowed IPs", "203.0.113.0/24")];
        let secret = pages.generate("Courier", &networks).await;
        for _ in 0..3 {
            let status = pages.demo.get("/v1/postings", &secret).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
        }
        let working = pages.generate("Carrier", &[("Owner", "customer-5")]).await;
        for path in ["/v1/postings", "/v1/postings/none"] {
            pages.demo.get(path, &working).await;
        }
        pages.open_usage("Courier", 3).await;
        pages.open_usage("Carrier", 2).await;
        pages.open("").await;
        let mut clicks = 0;
        let mut click = |chart: &'static str, part: &'static str| {
            clicks += 1;
            assert!(clicks <= 2);
            pages.pick(chart, part)
        };
        click("Failed requests by owner", "customer-5").await;
        assert_eq!(
            pages.causes().await,
            ["Address not allowed 3", "Not found (404) 1"]
        );
        assert_eq!(pages.logged().await, 4);
        // The second click shows the requests of a cause.
        click("Why requests failed", "Address not allowed 3").await;
        let rows = pages.log().await;
        assert_eq!(rows.len(), 3);
        for row in &rows {
            assert_eq!(
                (&*row["Key"], &*row["Cause"]),
                ("Courier", "Address not allowed")
            );
        }
        assert_eq!(pages.filtered_by("Cause").await, "client_ip");
        assert_eq!(pages.causes().await.len(), 2);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn keyboards_reach_the_requests_of_every_column() {
    signed_in(async |pages: &Pages| {
        for range in ["15 minutes", "24 hours", "7 days"] {
            pages.open_key("Usage of", USED).await;
            pages.follow(range).await;
            let strips = pages.ask(STRIPS, vec![]).await;
            let strips = strips.as_array().unwrap();
            assert!(!strips.is_empty(), "{range}");
            let summary = "document.querySelector('.over-time summary').focus()";
            pages.ask(summary, vec![]).await;
            pages.press(Key::Enter).await;
            for strip in strips {
                pages.press(Key::Tab).await;
                let focused = "return document.activeElement.getAttribute('href')";
                assert_eq!(pages.ask(focused, vec![]).await, *strip, "{range}");
            }
        }
        let total = pages.logged().await;
        let link = "return document.activeElement.closest('tr').cells[1].textContent";
        let count = pages.ask(link, vec![]).await;
        let count: u64 = count.as_str().unwrap().replace(',', "").parse().unwrap();
        assert!((1..=total).contains(&count), "{count}");
        pages.press(Key::Enter).await;
        until(async || {
            pages
                .url()
                .await
                .query()
                .is_some_and(|it| it.contains("since="))
        })
        .await;
        assert_eq!(pages.logged().await, count);
    })
    .await;
}

/// The links of the columns of the chart over time.
const STRIPS: &str = "
    return [...document.querySelectorAll('.over-time .hits a')].map((it) => it.getAttribute('href'));";

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn statuses_switch_to_classes_without_scripts() {
    visitor(Scripts::Off, async |pages: &Pages| {
        pages.sign_in().await;
        pages.open("?range=7d").await;
        assert!(
            pages
                .numbers("By response status")
                .await
                .contains_key("404 Not found")
        );
        pages.follow("Classes").await;
        let classes = pages.numbers("By response status").await;
        assert!(classes.contains_key("4xx") && !classes.contains_key("404 Not found"));
        assert_eq!(pages.url().await.query(), Some("range=7d&statuses=classes"));
        pages.follow("24 hours").await;
        assert_eq!(
            pages.url().await.query(),
            Some("statuses=classes&range=24h")
        );
        assert!(
            pages
                .numbers("By response status")
                .await
                .contains_key("4xx")
        );
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: see scripts/test"]
async fn charts_have_contrast_and_large_targets() {
    signed_in(async |pages: &Pages| {
        for scheme in ["light", "dark"] {
            let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
            let media = json!({ "features": features });
            pages
                .browser
                .devtools("Emulation.setEmulatedMedia", media)
                .await;
            pages.open("").await;
            let faint = pages.ask(FAINT, vec![]).await;
            assert_eq!(faint, json!([]), "{scheme}");
        }
        for (width, height) in [(1280, 800), (390, 844)] {
            let size = json!({
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
            });
            pages
                .browser
                .devtools("Emulation.setDeviceMetricsOverride", size)
                .await;
            for path in ["", "/log?owner=customer-17"] {
                pages.open(path).await;
                let targets = pages.ask(TARGETS, vec![]).await;
                let targets = targets.as_array().unwrap();
                assert!(!targets.is_empty(), "{path}");
                let small = |it: &&Value| it[1].as_f64().unwrap() < 24.0;
                let small: Vec<_> = targets.iter().filter(small).collect();
                assert!(small.is_empty(), "{width}: {small:?}");
            }
        }
        pages
            .browser
            .devtools("Emulation.clearDeviceMetricsOverride", json!({}))
            .await;
    })
    .await;
}

/// The colours of charts with a contrast below 3:1 against the panel, and pairs of statuses with similar colours.
const FAINT: &str = "
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    document.querySelector('figure.chart').append(svg);
    const parsed = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const luminance = (colour) => {
        const [r, g, b] = parsed(colour).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [dark, light] = [one, other].map(luminance).sort((a, b) => a - b);
        return (light + 0.05) / (dark + 0.05);
    };
    const panel = getComputedStyle(document.querySelector('.panel')).backgroundColor;
    const drawn = (name, property, parent) => {
        const path = document.createElementNS(svg.namespaceURI, 'path');
        path.setAttribute('class', name);
        parent.append(path);
        return getComputedStyle(path)[property];
    };
    const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
    const names = rules.filter((rule) => rule.style && rule.style.fill)
        .map((rule) => /^\\.chart \\.(\\w+)$/.exec(rule.selectorText)).filter(Boolean).map((it) => it[1]);
    if (names.length < 20) return ['only ' + names];
    const fills = Object.fromEntries(names.map((name) => [name, drawn(name, 'fill', svg)]));
    const unfinished = document.createElementNS(svg.namespaceURI, 'g');
    unfinished.setAttribute('class', 'unfinished');
    svg.append(unfinished);
    const outlines = ['completed', 'limited', 'failed'].map((name) => ['outline of ' + name, drawn(name, 'stroke', unfinished)]);
    const bars = [['bar', getComputedStyle(document.querySelector('.bar rect')).fill]];
    const faint = [...Object.entries(fills), ...outlines, ...bars]
        .map(([name, colour]) => [name, colour, contrast(colour, panel)]).filter(([, , ratio]) => !(ratio >= 3));
    const statuses = ['completed', 'success2', 'success3', 'c2', 'redirect2', 'redirect3', 'limited', 'client1', 'client2',
        'client3', 'client4', 'client5', 'client6', 'failed', 'server2', 'server3', 'server4', 'c6'];
    for (const [n, one] of statuses.entries()) {
        for (const other of statuses.slice(n + 1)) {
            const apart = Math.hypot(...parsed(fills[one]).map((c, n) => c - parsed(fills[other])[n]));
            if (apart < 35) faint.push([one, other, apart]);
        }
    }
    return faint;";

/// The links of legends, bars, causes and switches, with their heights.
const TARGETS: &str = "
    return [...document.querySelectorAll('.legend a, .bars a, .causes a, .ranges a')]
        .map((it) => [it.textContent.trim(), it.getBoundingClientRect().height]);";
