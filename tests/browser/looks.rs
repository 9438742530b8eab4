//! Screenshots of every page, and accessibility checks with axe-core.

use std::collections::{BTreeMap, BTreeSet};

use keytally::KeyId;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use crate::browser::Scripts;
use crate::demo::{UNUSED, USED, target};
use crate::journey::{pictures, visitor};
use crate::pages::Pages;

/// Window sizes of desktops and phones.
const WIDTHS: [(u32, u32); 4] = [(1440, 900), (1280, 800), (390, 844), (320, 640)];

#[tokio::test]
#[ignore = "needs Chromium and axe-core: see scripts/test"]
async fn every_page_is_accessible_in_the_light_scheme() {
    check_every_page("light").await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core: see scripts/test"]
async fn every_page_is_accessible_in_the_dark_scheme() {
    check_every_page("dark").await;
}

async fn check_every_page(scheme: &'static str) {
    visitor(Scripts::On, async move |pages: &Pages| {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let media = json!({ "features": features });
        pages
            .browser
            .devtools("Emulation.setEmulatedMedia", media)
            .await;
        let mut look = Look {
            pages,
            scheme,
            bad: Vec::new(),
            seen: BTreeSet::new(),
            linked: BTreeMap::new(),
        };
        all_pages(&mut look).await;
        assert!(look.bad.is_empty(), "\n{}", look.bad.join("\n"));
    })
    .await;
}

/// Visits and checks every page.
async fn all_pages(look: &mut Look<'_>) {
    let pages = look.pages;
    pages.open("/sign-in").await;
    look.at("sign-in").await;
    pages.fill("Admin token", "another").await;
    pages.send("Sign in").await;
    look.at("sign-in-rejected").await;
    pages.sign_in().await;

    pages.open("/keys/new").await;
    look.at("generate").await;
    for folded in ["Options", "Burst and name", "Add a rate limit"] {
        pages.unfold(folded).await;
    }
    pages.choose("Expires", "On a date").await;
    look.at("generate-unfolded").await;
    pages.open("/keys/new").await;
    pages.fill("Name", "Courier").await;
    pages.unfold("Options").await;
    pages.fill("Rate limit", "plenty").await;
    pages.send("Generate").await;
    look.at("generate-rejected").await;
    let long = format!(
        "An integration whose name is as long as {} ",
        "names become ".repeat(6)
    );
    let long = &long[..100];
    let limits = [
        ("Owner", "customer-5"),
        ("Rate limit", "9/d"),
        ("Scopes", "read orders:write"),
    ];
    let secret = pages.generate(long, &limits).await;
    look.at("generated").await;
    for _ in 0..12 {
        pages
            .demo
            .get("/v1/postings/a-long-and-winding-posting", &secret)
            .await;
    }

    for (name, path) in [
        ("overview", ""),
        ("overview-by-class", "?statuses=classes"),
        ("log-of-an-owner", "/log?owner=customer-17&outcome=failed"),
        ("keys", "/keys"),
        ("keys-sorted", "/keys?sort=last-accepted"),
        ("keys-none-found", "/keys?name=nobody"),
        ("plans-none", "/plans"),
        ("audit", "/audit"),
        ("audit-none-found", "/audit?actor=nobody"),
        ("sign-out", "/sign-out"),
        ("no-such-page", "/nowhere"),
        ("no-such-key", "/keys/0000000000000000"),
    ] {
        pages.open(path).await;
        look.at(name).await;
    }

    pages.open("/plans/new").await;
    look.at("plan-new").await;
    pages.fill("Name", "A plan whose name is rather long").await;
    pages.fill("Rate limit", "20/s").await;
    pages.send("Create").await;
    look.at("plans").await;
    pages.follow("A plan whose name is rather long").await;
    look.at("plan").await;
    pages.open("/owners/customer-17/edit").await;
    pages
        .choose("Plan", "A plan whose name is rather long")
        .await;
    look.at("owner-edit").await;
    pages.send("Save").await;
    look.at("owner-with-plan").await;
    pages.follow("Suspend").await;
    look.at("owner-suspend").await;
    pages.send("Suspend").await;
    look.at("owner-suspended").await;
    pages.open("/owners").await;
    look.at("owners-suspended").await;
    pages.open("/owners/customer-17/resume").await;
    pages.send("Resume").await;
    look.at("owner-resumed").await;

    pages.open_usage(long, 12).await;
    look.at("usage-of-a-long-name").await;
    pages.open_key("Usage of", USED).await;
    look.at("usage").await;
    // Expand all details, and show all columns.
    let open = "document.querySelectorAll('details').forEach((it) => { it.open = true; });
        document.querySelectorAll('details input[type=checkbox]:not(:checked)')
            .forEach((it) => it.click());";
    pages.ask(open, vec![]).await;
    look.at("usage-unfolded").await;
    pages.filter("Response status", "never").await;
    look.at("usage-rejected-filter").await;
    pages.filter("Response status", "5xx").await;
    pages.filter("HTTP method", "DELETE").await;
    look.at("usage-none-found").await;
    pages.open_key("Usage of", UNUSED).await;
    look.at("usage-of-nothing").await;
    pages.open_key("Usage of", USED).await;
    pages.follow("Reveal secret").await;
    look.at("reveal").await;
    pages.send("Reveal").await;
    look.at("revealed").await;
    for action in ["Rotate", "Disable", "Delete"] {
        pages.open_key(action, UNUSED).await;
        look.at(&action.to_lowercase()).await;
    }
    pages.open_key("Disable", UNUSED).await;
    pages.send("Disable").await;
    look.at("disabled").await;
    pages.check("Select all").await;
    look.at("keys-selected").await;
    pages.send("Disable selected (3)").await;
    look.at("disable-several").await;
    pages.open_key("Enable", UNUSED).await;
    look.at("enable").await;
    pages.send("Enable").await;
    pages.rotate(UNUSED, "1 hour").await;
    look.at("rotated").await;
    pages.follow("View old key").await;
    look.at("replaced").await;
    let old = pages.url().await;
    pages.go(&format!("{old}/rotate")).await;
    look.at("already-rotated").await;
    pages.open("/keys").await;
    look.at("keys-rotated").await;

    // The remaining linked pages.
    while let Some((path, link)) = look.unseen() {
        pages.go(&link).await;
        look.at(&path.trim_start_matches("/admin/").replace('/', "-"))
            .await;
        look.seen.insert(path);
    }
}

/// Checks pages in a colour scheme.
struct Look<'a> {
    pages: &'a Pages,
    scheme: &'static str,
    bad: Vec<String>,
    /// The paths of checked pages.
    seen: BTreeSet<String>,
    /// The paths of linked pages, with a link to each.
    linked: BTreeMap<String, String>,
}

impl Look<'_> {
    /// Takes screenshots of the page and collects violations.
    async fn at(&mut self, name: &str) {
        let links = "return [...document.links].map((it) => it.href)";
        let links = self.pages.ask(links, vec![]).await;
        for link in links.as_array().unwrap() {
            let link = link.as_str().unwrap();
            self.linked.insert(path(link), link.into());
        }
        self.seen.insert(path(self.pages.url().await.as_str()));
        for (width, height) in WIDTHS {
            let picture = format!("{name}-{}-{width}", self.scheme);
            self.resize(width, height).await;
            self.bad.extend(self.violations(&picture).await);
            // Wide content must scroll inside of its container.
            let across = "return document.documentElement.scrollWidth";
            let across = self.pages.ask(across, vec![]).await;
            if across.as_u64() > Some(width.into()) {
                self.bad.push(format!("{picture}: {across} pixels wide"));
            }
            // Tables fit, except for one with all columns on desktops.
            let cut = "return [...document.querySelectorAll('.scroll')]
                .filter((it) => it.scrollWidth > it.clientWidth).length";
            let cut = self.pages.ask(cut, vec![]).await;
            if cut != 0 && !(name == "usage-unfolded" && width >= 1280) {
                self.bad.push(format!("{picture}: a table overflows"));
            }
            let whole = "return document.documentElement.scrollHeight";
            let whole = self.pages.ask(whole, vec![]).await.as_u64().unwrap();
            self.resize(width, whole.try_into().unwrap()).await;
            let png = self.pages.browser.client.screenshot().await.unwrap();
            let file = pictures().join(format!("{picture}.png"));
            std::fs::write(file, png).unwrap();
        }
        let usual = json!({});
        let clear = "Emulation.clearDeviceMetricsOverride";
        self.pages.browser.devtools(clear, usual).await;
    }

    /// A page that was not checked yet, and a link to it.
    fn unseen(&self) -> Option<(String, String)> {
        let linked = self.linked.iter();
        let mut unseen = linked.filter(|(path, _)| {
            !self.seen.contains(*path) && !path.ends_with("/csv") && !path.ends_with("/jsonl")
        });
        unseen
            .next()
            .map(|(path, link)| (path.clone(), link.clone()))
    }

    async fn resize(&self, width: u32, height: u32) {
        let size = json!({
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < 600,
        });
        let resize = "Emulation.setDeviceMetricsOverride";
        self.pages.browser.devtools(resize, size).await;
    }

    /// Violations found by axe-core, one per line.
    async fn violations(&self, picture: &str) -> Vec<String> {
        const RUN: &str = "
            const options = { resultTypes: ['violations'], rules: { 'target-size': { enabled: true } } };
            return axe.run(document, options).then((found) => found.violations
                .map((it) => [it.id, it.help, it.nodes.map((node) => node.html).slice(0, 3)]));";
        let script = format!("{}\n{RUN}", axe());
        let found = self.pages.ask(&script, vec![]).await;
        let Value::Array(found) = found else {
            panic!("axe-core returned {found}");
        };
        found.iter().map(|it| format!("{picture}: {it}")).collect()
    }
}

/// The path of a URL, with ids of keys and requests replaced.
fn path(url: &str) -> String {
    let url: Url = url.parse().unwrap();
    let parts =
        url.path()
            .split('/')
            .map(|part| match (part.parse::<KeyId>(), part.parse::<Uuid>()) {
                (Ok(_), _) => "key",
                (_, Ok(_)) => "request",
                _ => part,
            });
    parts.collect::<Vec<_>>().join("/")
}

/// The source of axe-core.
fn axe() -> String {
    let file = target().join("npm/node_modules/axe-core/axe.min.js");
    let text = std::fs::read_to_string(&file);
    text.unwrap_or_else(|error| panic!("{} ({error}): scripts/test installs it", file.display()))
}
