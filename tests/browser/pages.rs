//! Page objects: all selectors are here, by text, label or role.

use std::collections::BTreeMap;
use std::rc::Rc;

use fantoccini::Locator;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::key::Key;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::demo::Demo;
pub(crate) use crate::until::until;

pub(crate) struct Pages {
    pub(crate) browser: Browser,
    pub(crate) demo: Rc<Demo>,
}

/// A row of a table: visible text by column.
pub(crate) type Row = BTreeMap<String, String>;

impl Pages {
    pub(crate) fn new(browser: Browser, demo: Rc<Demo>) -> Self {
        Self { browser, demo }
    }

    // --- Navigation ---

    pub(crate) async fn open(&self, path: &str) {
        self.go(&self.demo.page(path)).await;
    }

    pub(crate) async fn go(&self, url: &str) {
        self.browser.client.goto(url).await.unwrap();
    }

    /// Presses a key.
    pub(crate) async fn press(&self, key: Key) {
        let key = char::from(key);
        let keys = KeyActions::new("keyboard".into())
            .then(KeyAction::Down { value: key })
            .then(KeyAction::Up { value: key });
        self.browser.client.perform_actions(keys).await.unwrap();
    }

    pub(crate) async fn reload(&self) {
        self.browser.client.refresh().await.unwrap();
    }

    pub(crate) async fn url(&self) -> url::Url {
        self.browser.client.current_url().await.unwrap()
    }

    /// Clicks a link, by its text or label, and waits for the next page.
    pub(crate) async fn follow(&self, link: &str) {
        self.leave_by(self.link(link).await).await;
    }

    /// Clicks a submit button, and waits for the next page.
    pub(crate) async fn send(&self, button: &str) {
        self.leave_by(self.button(button).await).await;
    }

    async fn leave_by(&self, element: Element) {
        self.leaving(async || element.click().await.unwrap()).await;
    }

    /// Does something that leads to another page, and waits for it.
    pub(crate) async fn leaving(&self, act: impl AsyncFnOnce()) {
        let old_page = self.find("//html").await;
        act().await;
        until(async || old_page.tag_name().await.is_err()).await;
        let ready = async || self.ask("return document.readyState", vec![]).await == "complete";
        until(ready).await;
    }

    // --- Elements ---

    pub(crate) async fn link(&self, text: &str) -> Element {
        let text = quoted(text);
        self.find(&format!(
            "//a[normalize-space()={text} or @aria-label={text}]"
        ))
        .await
    }

    pub(crate) async fn has_link(&self, text: &str) -> bool {
        let text = quoted(text);
        let path = format!("//a[normalize-space()={text} or @aria-label={text}]");
        !self.seen(&path).await.is_empty()
    }

    pub(crate) async fn button(&self, text: &str) -> Element {
        let text = quoted(text);
        self.find(&format!(
            "//button[normalize-space()={text} or @aria-label={text}]"
        ))
        .await
    }

    pub(crate) async fn buttons(&self, text: &str) -> usize {
        let text = quoted(text);
        self.seen(&format!("//button[normalize-space()={text}]"))
            .await
            .len()
    }

    /// The input of a label, by id or inside of it, or with this label of its own.
    pub(crate) async fn field(&self, label: &str) -> Element {
        let own = format!("//input[@aria-label={}]", quoted(label));
        let label = format!("//label[normalize-space()={}]", quoted(label));
        self.find(&format!("//*[@id={label}/@for] | {label}//input | {own}"))
            .await
    }

    pub(crate) async fn fill(&self, label: &str, text: &str) {
        let field = self.field(label).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Clicks a checkbox.
    pub(crate) async fn check(&self, label: &str) {
        self.field(label).await.click().await.unwrap();
    }

    pub(crate) async fn choose(&self, label: &str, option: &str) {
        let field = self.field(label).await;
        field.select_by_label(option).await.unwrap();
    }

    /// Opens folded details.
    pub(crate) async fn unfold(&self, summary: &str) {
        let summary = format!("//summary[normalize-space()={}]", quoted(summary));
        self.find(&summary).await.click().await.unwrap();
    }

    pub(crate) async fn heading(&self) -> String {
        self.find("//h1").await.text().await.unwrap()
    }

    /// The text of the alert.
    pub(crate) async fn alert(&self) -> String {
        self.find("//*[@role='alert']").await.text().await.unwrap()
    }

    /// The visible text.
    pub(crate) async fn text(&self) -> String {
        self.find("//body").await.text().await.unwrap()
    }

    /// The rows of the first table with this column.
    pub(crate) async fn rows(&self, head: &str) -> Vec<Row> {
        const ROWS: &str = "
            for (const table of document.querySelectorAll('table')) {
                if (!table.tHead) continue;
                const heads = [...table.tHead.rows[0].cells].map((it) => it.textContent.trim());
                if (!heads.includes(arguments[0])) continue;
                return [...table.tBodies[0].rows].map((row) => Object.fromEntries(
                    [...row.cells].map((cell, n) => [heads[n], cell])
                        .filter(([, cell]) => cell.checkVisibility())
                        .map(([head, cell]) => [head, cell.innerText.trim()])));
            }
            return [];";
        serde_json::from_value(self.ask(ROWS, vec![json!(head)]).await).unwrap()
    }

    pub(crate) async fn ask(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.browser.ask(script, arguments).await
    }

    async fn seen(&self, path: &str) -> Vec<Element> {
        let found = self.browser.client.find_all(Locator::XPath(path)).await;
        let mut seen = Vec::new();
        for element in found.unwrap() {
            if element.is_displayed().await.unwrap_or(false) {
                seen.push(element);
            }
        }
        seen
    }

    /// The only visible element.
    async fn find(&self, path: &str) -> Element {
        let mut seen = self.seen(path).await;
        assert_eq!(seen.len(), 1, "{path} at {}", self.url().await);
        seen.remove(0)
    }

    // --- Actions ---

    pub(crate) async fn sign_in(&self) {
        self.open("/sign-in").await;
        self.fill("Admin token", &self.demo.token).await;
        self.send("Sign in").await;
    }

    /// Generates a key with these fields, and returns its secret.
    pub(crate) async fn generate(&self, name: &str, others: &[(&str, &str)]) -> String {
        self.open("/keys").await;
        self.follow("Generate API key").await;
        self.fill("Name", name).await;
        if !others.is_empty() {
            self.unfold("Options").await;
        }
        for (label, text) in others {
            self.fill(label, text).await;
        }
        self.send("Generate").await;
        assert_eq!(self.heading().await, "API key generated");
        self.secret().await
    }

    /// The secret on the page.
    pub(crate) async fn secret(&self) -> String {
        self.find("//*[@id='secret']").await.text().await.unwrap()
    }

    /// Opens a page of a key: `Usage of`, `Rotate`, `Delete` and so on.
    pub(crate) async fn open_key(&self, action: &str, name: &str) {
        self.open("/keys").await;
        self.follow(&format!("{action} {name}")).await;
    }

    /// Rotates a key, and returns the new secret.
    pub(crate) async fn rotate(&self, name: &str, grace: &str) -> String {
        self.open_key("Rotate", name).await;
        self.choose("Grace period", grace).await;
        self.send("Rotate").await;
        assert_eq!(self.heading().await, "API key rotated");
        self.secret().await
    }

    /// Opens the page of a key, and waits until it shows this number of requests.
    pub(crate) async fn open_usage(&self, name: &str, count: u64) {
        self.open_key("Usage of", name).await;
        self.until_counted(count).await;
    }

    /// Reloads the page until it shows this number of requests.
    pub(crate) async fn until_counted(&self, count: u64) {
        until(async || {
            self.reload().await;
            self.card("Total requests").await >= count
        })
        .await;
        assert_eq!(self.card("Total requests").await, count);
    }

    /// The number on a card.
    pub(crate) async fn card(&self, title: &str) -> u64 {
        const CARD: &str = "
            const heads = [...document.querySelectorAll('h2, h3, h4, dt')];
            const head = heads.find((it) => it.textContent.trim() === arguments[0]);
            return head.parentElement.innerText;";
        let text = self.ask(CARD, vec![json!(title)]).await;
        let text = text.as_str().unwrap();
        let number = text.lines().map(|line| line.replace(',', ""));
        let number = number.filter_map(|line| line.trim().parse().ok()).next();
        number.unwrap_or_else(|| panic!("no number in {text:?}"))
    }

    // --- The request log ---

    /// The rows of the log, with whole request ids.
    pub(crate) async fn log(&self) -> Vec<Row> {
        const IDS: &str =
            "return [...document.querySelectorAll('table.log td.id a')].map((it) => it.title);";
        let ids = self.ask(IDS, vec![]).await;
        let mut rows = self.rows("Request ID").await;
        for (row, id) in rows.iter_mut().zip(ids.as_array().unwrap()) {
            if let Some(shown) = row.get_mut("Request ID") {
                *shown = id.as_str().unwrap().into();
            }
        }
        rows
    }

    /// The number of requests that the log shows.
    pub(crate) async fn logged(&self) -> u64 {
        const LOG: &str = "
            const heads = [...document.querySelectorAll('h1, h2, h3')];
            const head = heads.find((it) => it.textContent.trim() === 'Request log');
            return head.closest('section, main').innerText;";
        let text = self.ask(LOG, vec![]).await;
        let text = text.as_str().unwrap();
        let counts = text.lines().filter_map(|line| {
            let count = line.trim().strip_suffix(" requests");
            let count = count.or(line.trim().strip_suffix(" request"))?;
            count.replace(',', "").parse().ok()
        });
        let counts: Vec<u64> = counts.collect();
        assert_eq!(counts.len(), 1, "{text}");
        counts[0]
    }

    /// Sets a field of the log's filter and applies it.
    pub(crate) async fn filter(&self, label: &str, value: &str) {
        self.unfold_filters().await;
        if let [menu] = &*self.seen(&menu(label)).await {
            menu.click().await.unwrap();
            let button = menu;
            let menu = format!("{}/following-sibling::*", self::menu(label));
            for chosen in self.seen(&format!("{menu}//input")).await {
                if chosen.is_selected().await.unwrap() {
                    chosen.click().await.unwrap();
                }
            }
            for value in value.split(", ") {
                let label = format!("{menu}//label[normalize-space()={}]", quoted(value));
                self.find(&label).await.click().await.unwrap();
            }
            // The menu may cover the button of the form.
            button.click().await.unwrap();
            self.apply().await;
            return;
        }
        let field = self.in_filter(label).await;
        if field.tag_name().await.unwrap() == "select" {
            field.select_by_label(value).await.unwrap();
        } else {
            field.clear().await.unwrap();
            field.send_keys(value).await.unwrap();
        }
        self.apply().await;
    }

    /// Opens the filters of the log, which narrow screens fold.
    async fn unfold_filters(&self) {
        const SUMMARY: &str = "//details[contains(@class, 'fold')][form]/summary";
        if let [summary] = &*self.seen(SUMMARY).await
            && self.seen(FILTER).await.is_empty()
        {
            summary.click().await.unwrap();
        }
    }

    /// Sets a time of the log's filter, such as `2026-11-01T10:00`.
    pub(crate) async fn filter_time(&self, label: &str, value: &str) {
        let field = self.in_filter(label).await;
        self.set(field, value).await;
    }

    /// Applies the log's filter.
    pub(crate) async fn apply(&self) {
        let apply = format!("{FILTER}//button[normalize-space()='Apply']");
        self.leave_by(self.find(&apply).await).await;
    }

    /// The value of a field of the log's filter.
    pub(crate) async fn filtered_by(&self, label: &str) -> String {
        if let [menu] = &*self.seen(&menu(label)).await {
            let menu = serde_json::to_value(menu).unwrap();
            let chosen = "return [...arguments[0].parentElement.querySelectorAll(':checked')]
                .map((it) => it.value).join();";
            let chosen = self.ask(chosen, vec![menu]).await;
            return chosen.as_str().unwrap().into();
        }
        let field = self.in_filter(label).await;
        field.prop("value").await.unwrap().unwrap_or_default()
    }

    async fn in_filter(&self, label: &str) -> Element {
        let label = format!("{FILTER}//label[normalize-space()={}]", quoted(label));
        self.find(&format!("{FILTER}//*[@id={label}/@for]")).await
    }

    pub(crate) async fn clear_filters(&self) {
        self.leave_by(
            self.find(&format!("{FILTER}//a[normalize-space()='Clear filters']"))
                .await,
        )
        .await;
    }

    /// Toggles columns of the log. Without JavaScript, they need to be applied.
    pub(crate) async fn edit_columns(&self, names: &[&str]) {
        self.find(&format!("{EDIT}/summary"))
            .await
            .click()
            .await
            .unwrap();
        for name in names {
            let label = format!("{EDIT}//label[normalize-space()={}]", quoted(name));
            self.find(&label).await.click().await.unwrap();
        }
        self.find(&format!("{EDIT}/summary"))
            .await
            .click()
            .await
            .unwrap();
    }

    /// Applies the chosen columns.
    pub(crate) async fn apply_columns(&self) {
        let summary = self.find(&format!("{EDIT}/summary")).await;
        summary.click().await.unwrap();
        self.send("Apply columns").await;
    }

    /// Downloads a file, and returns its content.
    pub(crate) async fn download(&self, link: &str) -> String {
        self.link(link).await.click().await.unwrap();
        // Incomplete downloads have another extension.
        let complete = || {
            let files = std::fs::read_dir(&self.browser.downloads)
                .into_iter()
                .flatten();
            let mut files = files.map(|file| file.unwrap().path());
            let (file, None) = (files.next()?, files.next()) else {
                return None;
            };
            let is_partial = file.extension().is_some_and(|it| it == "crdownload");
            let text = std::fs::read_to_string(&file).ok()?;
            (!is_partial && !text.is_empty()).then_some((text, file))
        };
        until(async || complete().is_some()).await;
        let (text, file) = complete().unwrap();
        std::fs::remove_file(file).unwrap();
        text
    }

    // --- Charts ---

    /// The numbers in a chart's table, by label.
    pub(crate) async fn numbers(&self, chart: &str) -> BTreeMap<String, u64> {
        const NUMBERS: &str = "
            const heads = [...document.querySelectorAll('figcaption, caption, h2')];
            const head = heads.find((it) => it.textContent.trim() === arguments[0]);
            const chart = head.closest('figure, table, section');
            const table = chart.matches('table') ? chart : chart.querySelector('table');
            return Object.fromEntries([...table.tBodies[0].rows].map((row) => {
                const [label, count] = [...row.cells].map((cell) => cell.textContent.trim());
                return [label, Number(count.replaceAll(',', ''))];
            }));";
        serde_json::from_value(self.ask(NUMBERS, vec![json!(chart)]).await).unwrap()
    }

    /// Clicks a part of a chart by its label.
    pub(crate) async fn pick(&self, chart: &str, part: &str) {
        let path = format!(
            "//*[self::figcaption or self::caption or self::h2 or self::h3][normalize-space()={}]\
             /ancestor::*[self::figure or self::table or self::section][1]\
             //a[normalize-space()={}]",
            quoted(chart),
            quoted(part)
        );
        self.leave_by(self.find(&path).await).await;
    }

    /// The causes of failures above the log.
    pub(crate) async fn causes(&self) -> Vec<String> {
        const CAUSES: &str = "
            return [...document.querySelectorAll('.causes li')].map((it) => it.innerText.trim());";
        serde_json::from_value(self.ask(CAUSES, vec![]).await).unwrap()
    }

    /// The links of a chart's slices, and those of its labels.
    pub(crate) async fn leads(&self, chart: &str) -> [Vec<String>; 2] {
        const LEADS: &str = "
            const heads = [...document.querySelectorAll('figcaption')];
            const head = heads.find((it) => it.textContent.trim() === arguments[0]);
            const links = (within) => [...head.closest('figure').querySelectorAll(within)];
            return ['svg a', '.legend a'].map(
                (within) => links(within).map((link) => link.getAttribute('href')));";
        serde_json::from_value(self.ask(LEADS, vec![json!(chart)]).await).unwrap()
    }

    // --- Times ---

    /// Every time on the page.
    pub(crate) async fn times(&self) -> Vec<Time> {
        const TIMES: &str = "
            return [...document.querySelectorAll('main time')].filter((it) => it.checkVisibility())
                .map((it) => [it.dateTime, it.textContent, it.title]);";
        serde_json::from_value(self.ask(TIMES, vec![]).await).unwrap()
    }

    /// Selects a custom range of local times, such as `2026-11-01T10:00`.
    pub(crate) async fn show_between(&self, from: &str, to: &str) {
        let range = "//summary[normalize-space()='Custom range']";
        if let [range] = &*self.seen(range).await
            && self
                .seen("//label[normalize-space()='From']")
                .await
                .is_empty()
        {
            range.click().await.unwrap();
        }
        for (label, value) in [("From", from), ("To", to)] {
            self.set(self.field(label).await, value).await;
        }
        self.send("Show").await;
    }

    /// Sets a time field with a script, since the keys to type depend on the browser's locale.
    async fn set(&self, field: Element, value: &str) {
        let field = serde_json::to_value(field).unwrap();
        let set = "arguments[0].value = arguments[1]";
        self.ask(set, vec![field, json!(value)]).await;
    }
}

/// A time, its text and its tooltip.
pub(crate) type Time = (Timestamp, String, String);

const EDIT: &str = "//details[summary[normalize-space()='Edit columns']]";

const FILTER: &str = "//form[@aria-label='Filter request log']";

/// The button of a filter with several values.
fn menu(label: &str) -> String {
    let legend = quoted(label);
    format!("{FILTER}//fieldset[legend[normalize-space()={legend}]]/details/summary")
}

/// A string literal in XPath, which has no escapes.
fn quoted(text: &str) -> String {
    assert!(!text.contains('"'), "{text}");
    format!("\"{text}\"")
}
