//! The columns of the request log.

use axum::body::Body;
use http::header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use http::{Request, StatusCode};
use jiff::SignedDuration;

use crate::pages::{Answer, Pages, TOKEN};

async fn with_cookie(pages: &Pages, path: &str, cookie: &str) -> Answer {
    let request = Request::get(path)
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(COOKIE, cookie);
    pages.ask(request.body(Body::empty()).unwrap()).await
}

/// The headings of the shown columns, and the number of shown cells in the first row.
fn shown(page: &Answer) -> (Vec<&str>, usize) {
    let (_, table) = page
        .text
        .split_once("<table class=\"log\">")
        .expect("a log");
    let (heads, rows) = table.split_once("<tbody>").unwrap();
    let heads = heads.split("<th scope=\"col\">").skip(1);
    let heads = heads.map(|head| head.split('<').next().unwrap()).collect();
    let (row, _) = rows.split_once("</tr>").unwrap();
    let cells = row.split("<td ").skip(1);
    let is_hidden = |cell: &&str| cell.split('>').next().unwrap().ends_with(" hidden");
    (heads, cells.filter(|cell| !is_hidden(cell)).count())
}

const USUAL: [&str; 8] = [
    "Request ID",
    "Time",
    "Key",
    "Method",
    "Endpoint",
    "Status",
    "Code",
    "Cause",
];

#[tokio::test]
async fn chosen_columns_are_shown_and_remembered() {
    let pages = Pages::new();
    let key = pages.key("Watched").await;
    let minute = SignedDuration::from_mins(1);
    pages.requests(&key, 3, minute, |_, _| ()).await;
    let log = pages.get("/admin/log?method=GET").await;
    assert_eq!(shown(&log), (USUAL.to_vec(), 8));
    assert!(
        log.text
            .contains("name=\"next\" value=\"/log?method=GET#log\"")
    );

    let fields = [
        ("kind", "all"),
        ("next", "/log?method=GET#log"),
        ("column", "path"),
        ("column", "when"),
        ("column", "nonsense"),
        ("column", "path"),
    ];
    let token = pages.token("/admin/log").await;
    let posted = [&[("token", &*token)], &fields[..]].concat();
    let chosen = pages.post("/admin/log/columns", &posted, &[]).await;
    assert_eq!(chosen.status, StatusCode::SEE_OTHER);
    assert_eq!(chosen.headers[LOCATION], "/admin/log?method=GET#log");
    let cookie = chosen.headers[SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(cookie, "keytally_columns_all=when.path");
    let log = with_cookie(&pages, "/admin/log", cookie).await;
    assert_eq!(shown(&log), (vec!["Time", "Path"], 2));
    assert_eq!(log.count("name=\"column\" value=\"path\" checked"), 1);
    assert_eq!(log.count("name=\"column\" value=\"method\" checked"), 0);
    // The log of a key has its own columns, without the key.
    let at = format!("/admin/keys/{}", key.id);
    let page = with_cookie(&pages, &at, cookie).await;
    let usual: Vec<_> = USUAL.into_iter().filter(|name| *name != "Key").collect();
    assert_eq!(shown(&page), (usual.clone(), 7));
    let page = with_cookie(&pages, &at, "keytally_columns_key=cause.key.latency").await;
    assert_eq!(shown(&page), (vec!["Cause", "Latency"], 2));
    // Without a known column, the usual ones are shown.
    for value in ["", ".", "key", "nonsense", "%00"] {
        let page = with_cookie(&pages, &at, &format!("keytally_columns_key={value}")).await;
        assert_eq!(shown(&page), (usual.clone(), 7), "{value}");
    }

    // Neither another place nor another cookie.
    for (kind, next) in [
        ("all; Domain=evil.example", "//evil.example"),
        ("", "/../other"),
    ] {
        let fields = [
            ("token", &*token),
            ("kind", kind),
            ("next", next),
            ("column", "path"),
        ];
        let answer = pages.post("/admin/log/columns", &fields, &[]).await;
        assert_eq!(answer.headers[LOCATION], "/admin");
        assert!(!answer.headers.contains_key(SET_COOKIE), "{kind}");
    }
    let answer = pages.post("/admin/log/columns", &fields, &[]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(
        pages.get("/admin/log/columns").await.headers[LOCATION],
        "/admin/log"
    );
}
