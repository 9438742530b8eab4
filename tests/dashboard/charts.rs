//! The charts on the pages: response statuses, and requests over time.

use jiff::SignedDuration;
use keytally::usage::{Outcome, Status, UsageEvent};

use crate::pages::{Answer, Pages};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// Statuses from the most to the least frequent.
const STATUSES: [Status; 9] = [
    Status::Http(200),
    Status::Http(429),
    Status::Http(404),
    Status::Http(500),
    Status::Grpc(5),
    Status::None,
    Status::Http(401),
    Status::Http(503),
    Status::Http(422),
];

async fn filled() -> (Pages, String) {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    for (n, status) in (0..).zip(STATUSES) {
        let set = |_, event: &mut UsageEvent| {
            event.status = status;
            (event.outcome, event.cause) = Outcome::of(status);
        };
        pages.requests(&key, 20 - n, MINUTE * 5, set).await;
    }
    (pages, format!("/admin/keys/{}", key.id))
}

/// The donut of response statuses.
fn donut(page: &Answer) -> &str {
    let (_, chart) = page
        .text
        .split_once("<figcaption id=\"statuses-title\">")
        .unwrap();
    chart.split_once("</figure>").unwrap().0
}

/// The labels and links of the legend.
fn legend(page: &Answer) -> Vec<(String, Option<String>)> {
    let (_, legend) = donut(page).split_once("<ul class=\"legend\">").unwrap();
    let (legend, _) = legend.split_once("</ul>").unwrap();
    let between = |text: &str, start: &str, end: &str| {
        let (_, text) = text.split_once(start)?;
        Some(text.split(end).next()?.replace("&amp;", "&"))
    };
    let items = legend.split("<li>").skip(1);
    items
        .map(|item| {
            (
                between(item, "<bdi>", "<").unwrap(),
                between(item, "href=\"", "#"),
            )
        })
        .collect()
}

#[tokio::test]
async fn statuses_are_shown_by_code() {
    let (pages, of_key) = filled().await;
    for path in ["/admin", &of_key] {
        let page = pages.get(path).await;
        let legend = legend(&page);
        let labels: Vec<_> = legend.iter().map(|(label, _)| &**label).collect();
        let expected = [
            "No response",
            "200 OK",
            "404 Not found",
            "429 Too many requests",
            "500 Internal server error",
            "gRPC 5 Not found",
            "Other (3)",
        ];
        assert_eq!(labels, expected, "{path}");
        for class in [
            "completed",
            "limited",
            "client1",
            "client2",
            "failed",
            "c6",
            "other",
        ] {
            let slice = format!("<path class=\"{class}\"");
            assert_eq!(donut(&page).matches(&slice).count(), 1, "{class}");
        }
        for ((label, href), many) in legend.iter().zip([15, 20, 18, 19, 17, 16]) {
            let log = pages.get(href.as_ref().unwrap()).await;
            assert!(
                log.text.contains(&format!("<p>{many} requests</p>")),
                "{label}"
            );
        }
        assert_eq!(legend[6].1, None);
        // The table has all codes.
        let (_, table) = donut(&page).split_once("<tbody>").unwrap();
        for code in [
            "401 Unauthorized",
            "503 Service unavailable",
            "422 Unprocessable",
        ] {
            assert!(table.contains(code), "{code} in {table}");
        }
    }
}

#[tokio::test]
async fn a_link_switches_to_classes_and_keeps_all_other_fields() {
    let (pages, of_key) = filled().await;
    for (path, kept) in [
        ("/admin", "range=1h"),
        (&*of_key, "range=1h&method=GET&zone=Europe%2FBerlin"),
    ] {
        let codes = pages.get(&format!("{path}?{kept}&junk=1")).await;
        assert_eq!(codes.link("Codes"), format!("{path}?{kept}"));
        let switch = codes.link("Classes");
        assert_eq!(switch, format!("{path}?{kept}&statuses=classes"));
        let classes = pages.get(&switch).await;
        let legend = legend(&classes);
        let labels: Vec<_> = legend.iter().map(|(label, _)| &**label).collect();
        assert_eq!(labels, ["none", "2xx", "4xx", "5xx"], "{path}");
        for ((label, href), many) in legend.iter().zip([15, 20, 79, 30]) {
            let log = pages.get(href.as_ref().unwrap()).await;
            let count = format!("<p>{many} requests</p>");
            assert!(log.text.contains(&count), "{path}: {label}");
        }
        assert_eq!(classes.link("Codes"), format!("{path}?{kept}"));
        assert!(classes.text.contains("aria-current=\"true\">Classes</a>"));
        // Links and forms of the page keep the choice.
        assert!(classes.link("7 days").contains("statuses=classes"));
        let hidden = "<input type=\"hidden\" name=\"statuses\" value=\"classes\">";
        let forms = classes.count("<form class=\"filters");
        assert_eq!(classes.count(hidden), forms, "{path}");
    }
    // Also links to the log of the same page.
    let page = pages.get(&format!("{of_key}?statuses=classes")).await;
    for link in ["4xx", "GET"] {
        let link = page.link(&format!("<bdi>{link}</bdi>"));
        assert!(link.contains("statuses=classes"), "{link}");
    }
    assert!(page.link("Clear filters").contains("statuses=classes"));
}

#[tokio::test]
async fn tables_list_every_time_with_requests_in_all_ranges() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    for (range, every, many) in [
        ("15m", MINUTE, 14),
        ("1h", MINUTE * 5, 11),
        ("6h", MINUTE * 15, 23),
        ("24h", MINUTE * 60, 23),
        ("7d", MINUTE * 60, 167),
        ("30d", MINUTE * 60 * 24, 29),
    ] {
        let ago = |n: u64, event: &mut UsageEvent| {
            event.time -= every * i32::try_from(n).unwrap();
            event.owner = Some(range.into());
        };
        pages.requests(&key, many, MINUTE, ago).await;
        let page = pages.get(&format!("/admin?range={range}")).await;
        let (_, chart) = page
            .text
            .split_once("<figure class=\"chart over-time\">")
            .unwrap();
        let (chart, _) = chart.split_once("</figure>").unwrap();
        let (_, table) = chart.split_once("<tbody>").unwrap();
        let in_table: Vec<_> = links(table).collect();
        let (_, strips) = chart.split_once("class=\"hits\"").unwrap();
        let (strips, _) = strips.split_once("</svg>").unwrap();
        assert_eq!(in_table, links(strips).collect::<Vec<_>>(), "{range}");
        assert!(in_table.len() as u64 >= many, "{range}: {}", in_table.len());
        // Keyboards reach them.
        assert!(!table.contains("tabindex"), "{range}");
    }
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("href=\"").skip(1);
    links.map(|link| link.split('"').next().unwrap())
}
