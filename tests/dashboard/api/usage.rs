//! Usage summaries, the request log and recorder statistics.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use http::header::AUTHORIZATION;
use keytally::ApiKeyLayer;
use keytally::backend::MemoryBackend;
use keytally::key::NewKey;
use keytally::usage::{
    Batch, Cause, Method, Outcome, Recorder, RejectionReason, Status, UsageEvent, UsageSink,
};
use serde_json::{Value, json};

use super::{Api, ask};
use crate::children::Process;

const KEY: &str = "3fK9aB0000zzZZ19";

/// Ten requests with one key, one per minute, and one with another.
async fn used() -> Api {
    let events = (0..10).map(|n| {
        let mut event = UsageEvent::new(format!("2026-11-01T10:{n:02}:00Z").parse().unwrap());
        event.key = Some(KEY.parse().unwrap());
        event.owner = Some("customer-17".into());
        event.endpoint = if n < 6 {
            "/v1/orders".into()
        } else {
            "/v1/orders/{id}".into()
        };
        event.path = format!("/v1/orders/{n}").into();
        event.method = if n % 2 == 0 {
            Method::Get
        } else {
            Method::Post
        };
        event.latency_us = 1_000;
        if n == 3 {
            event.status = Status::Http(500);
            (event.outcome, event.cause) = Outcome::of(event.status);
            event.resource_id = Some("order-3".into());
            event.request_id = Some("wire-3".into());
            event.client_ip = Some([203, 0, 113, 7].into());
        }
        event
    });
    let mut other = UsageEvent::new("2026-11-01T10:30:00Z".parse().unwrap());
    other.key = Some("3fK9aB0000zzZZ20".parse().unwrap());
    let backend = MemoryBackend::new();
    backend
        .write(&Batch::new(events.chain([other]).collect()))
        .await
        .unwrap();
    Api::over(backend)
}

#[tokio::test]
async fn a_summary_covers_the_filtered_requests() {
    let api = used().await;
    let all = api.get("/usage?top=1").await.with(200);
    assert_eq!(all["totals"]["total"], 11);
    assert_eq!(all["top_keys"].as_array().unwrap().len(), 1);
    assert_eq!(all["top_keys"][0]["key"], KEY);
    assert_eq!(all["top_owners"][0]["owner"], "customer-17");
    assert_eq!(all["top_owners"][0]["totals"]["total"], 10);
    let one = api.get(&format!("/usage?key={KEY}")).await.with(200);
    let totals = &one["totals"];
    assert_eq!(
        (&totals["completed"], &totals["failed"]),
        (&json!(9), &json!(1))
    );
    assert_eq!(totals["failures"]["server_error"], 1);
    assert_eq!(one["by_method"][0]["method"], "GET");
    assert_eq!(one["by_method"][0]["totals"]["total"], 5);
    assert_eq!(one["by_status"][1]["status"], "500");
    assert_eq!(one["by_status_class"][0]["class"], "2xx");
    assert_eq!(one["top_endpoints"][0]["endpoint"], "/v1/orders");
    assert_eq!(one["top_endpoints"][0]["totals"]["total"], 6);
    assert_eq!(one["top_keys"], json!([]));
    assert_eq!(one["top_owners"], json!([]));
    let p99 = one["latency"]["p99_us"].as_u64().unwrap();
    assert!((940..=1_060).contains(&p99), "{p99}");
    let none = api.get("/usage?owner=nobody").await.with(200);
    assert_eq!(none["totals"]["total"], 0);
    assert_eq!(none["latency"]["p50_us"], json!(null));
    let first = api
        .get("/usage?from=2026-11-01T10:00:00Z&to=2026-11-01T10:05:00Z")
        .await;
    assert_eq!(first.with(200)["totals"]["total"], 5);
}

#[tokio::test]
async fn rejected_requests_are_summed_and_found_by_reason() {
    let reasons = [
        RejectionReason::ClientIp,
        RejectionReason::Scope,
        RejectionReason::ClientIp,
    ];
    let events = reasons.map(|reason| {
        let mut event = UsageEvent::new("2026-11-01T10:00:00Z".parse().unwrap());
        event.status = Status::Http(403);
        (event.outcome, event.cause) = (Outcome::Failed, Some(Cause::Rejected));
        event.rejection_reason = Some(reason);
        event
    });
    let backend = MemoryBackend::new();
    let completed = UsageEvent::new(events[0].time);
    let all = events.into_iter().chain([completed]).collect();
    backend.write(&Batch::new(all)).await.unwrap();
    let api = Api::over(backend);
    let summary = api.get("/usage").await.with(200);
    let rows = summary["by_rejection_reason"].as_array().unwrap().iter();
    let rows: Vec<_> = rows
        .map(|row| (&row["reason"], &row["totals"]["failures"]["rejected"]))
        .collect();
    let (address, scope) = ((json!("client_ip"), json!(2)), (json!("scope"), json!(1)));
    assert_eq!(rows, [(&address.0, &address.1), (&scope.0, &scope.1)]);
    for (filter, found) in [
        ("rejection_reason=client_ip", 2),
        ("rejection_reason=scope&cause=rejected", 1),
        ("rejection_reason=scope&cause=client_error", 0),
        ("rejection_reason=revoked", 0),
    ] {
        let page = api.get(&format!("/log?{filter}")).await.with(200);
        assert_eq!(page["items"].as_array().unwrap().len(), found, "{filter}");
    }
    let odd = api.get("/log?rejection_reason=odd").await.with(400);
    assert_eq!(odd["errors"][0]["parameter"], "rejection_reason");
}

#[tokio::test]
async fn spikes_are_found() {
    let events = (0..200).map(|n| {
        let hour = n / 100;
        let mut event = UsageEvent::new(format!("2026-11-01T{hour:02}:30:00Z").parse().unwrap());
        event.key = Some(KEY.parse().unwrap());
        if hour == 1 && n % 4 == 0 {
            event.status = Status::Http(503);
            (event.outcome, event.cause) = Outcome::of(event.status);
        }
        event
    });
    let backend = MemoryBackend::new();
    backend.write(&Batch::new(events.collect())).await.unwrap();
    let api = Api::over(backend);
    let path = "/usage/spikes?from=2026-11-01T01:00:00Z&to=2026-11-01T02:00:00Z";
    let found = api.get(path).await.with(200);
    let spikes = found["spikes"].as_array().unwrap();
    assert_eq!(spikes.len(), 1);
    assert_eq!(
        (&spikes[0]["key"], &spikes[0]["outcome"]),
        (&json!(KEY), &json!("failed"))
    );
    assert_eq!(spikes[0]["now"]["failed"], 25);
    assert_eq!(spikes[0]["before"]["failed"], 0);
    let path = "/usage/spikes?from=2026-11-01T00:00:00Z&to=2026-11-01T01:00:00Z";
    assert_eq!(api.get(path).await.with(200)["spikes"], json!([]));
}

#[tokio::test]
async fn empty_buckets_are_included() {
    let api = used().await;
    let query = "from=2026-11-01T10:00:00Z&to=2026-11-01T11:00:00Z&width=quarter_hour";
    let path = format!("/usage/over-time?key={KEY}&zone=Asia/Kathmandu&{query}");
    let response = api.get(&path).await.with(200);
    assert_eq!(
        (&response["width"], &response["zone"]),
        (&json!("quarter_hour"), &json!("Asia/Kathmandu"))
    );
    let buckets = response["buckets"].as_array().unwrap();
    let totals: Vec<_> = buckets
        .iter()
        .map(|it| it["totals"]["total"].as_u64().unwrap())
        .collect();
    assert_eq!(totals, [10, 0, 0, 0]);
    assert_eq!(buckets[0]["start"], "2026-11-01T10:00:00Z");
    assert_eq!(buckets[0]["end"], buckets[1]["start"]);
}

#[test]
fn time_zones_do_not_need_a_system_database() {
    let folder = std::env::temp_dir().join(format!("keytally-zones-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // TZif, version 1: one type, UTC.
    let zone = b"TZif\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\0\0\0\0UTC\0";
    std::fs::write(folder.join("Only"), zone).unwrap();
    let variables = [("TZDIR", folder.to_str().unwrap())];
    let mut process = Process::start("answer_with_one_zone", &variables);
    let ask = |process: &mut Process, zone: &str| {
        let range = "from=2026-11-01T10:00:00Z&to=2026-11-01T11:00:00Z";
        process.write_line(&format!("/api/usage/over-time?{range}{zone}"));
    };
    for zone in ["", "&zone=UTC", "&zone=Asia/Kathmandu"] {
        ask(&mut process, zone);
        let zone = zone.strip_prefix("&zone=").unwrap_or("UTC");
        let body: Value = serde_json::from_str(&process.wait_for("200 ")).unwrap();
        assert_eq!(body["zone"], zone);
    }
    ask(&mut process, "&zone=Mars/Olympus");
    let problem: Value = serde_json::from_str(&process.wait_for("400 ")).unwrap();
    assert_eq!(problem["errors"][0]["parameter"], "zone");
    let text = problem.to_string();
    assert!(text.contains("Unknown time zone: Mars/Olympus"), "{text}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn filters_apply_to_list_count_and_export() {
    let api = used().await;
    for (filter, found) in [
        ("", 11),
        ("key=3fK9aB0000zzZZ19", 10),
        ("owner=customer-17&method=POST", 5),
        ("outcome=failed", 1),
        ("cause=server_error", 1),
        ("rejection_reason=scope", 0),
        ("status=500", 1),
        ("status=2xx", 10),
        ("status=200,500", 11),
        ("status=5xx,404", 1),
        ("outcome=failed,completed", 11),
        ("outcome=failed,rate_limited", 1),
        ("method=POST,GET", 11),
        ("method=DELETE", 0),
        ("endpoint_contains=ORDERS", 10),
        ("endpoint_contains=/v1/orders/7", 4),
        ("endpoint_contains=invoices", 0),
        ("client_ip=203.0.113.7", 1),
        ("endpoint=/v1/orders/%7Bid%7D", 4),
        ("resource_id=order-3", 1),
        ("request_id=wire-3", 1),
        ("from=2026-11-01T10:09:00Z&to=2026-11-01T10:30:00Z", 1),
        ("request_id=nothing", 0),
    ] {
        let page = api.get(&format!("/log?{filter}")).await.with(200);
        assert_eq!(page["items"].as_array().unwrap().len(), found, "{filter}");
        let count = api.get(&format!("/log/count?{filter}")).await.with(200);
        assert_eq!(count, json!({"count": found, "exact": true}), "{filter}");
        let lines = api.get(&format!("/log/export/jsonl?{filter}")).await;
        assert_eq!(lines.text.lines().count(), found, "{filter}");
        let csv = api.get(&format!("/log/export/csv?{filter}")).await;
        assert_eq!(csv.text.lines().count(), found + 1, "{filter}");
        assert!(
            csv.headers["content-disposition"]
                .to_str()
                .unwrap()
                .starts_with("attachment")
        );
    }
    let one = api.get("/log?request_id=wire-3").await.with(200)["items"][0].clone();
    assert_eq!(one["request_id"], "wire-3");
    assert_eq!(one["latency_us"], 1_000);
    let id = one["id"].as_str().unwrap();
    let alone = api.get(&format!("/log/{id}")).await.with(200);
    assert_eq!(alone, one);
    for missing in ["00000000-0000-0000-0000-000000000000", "nothing"] {
        let (detail, _) = api.get(&format!("/log/{missing}")).await.problem(404);
        assert_eq!(detail, "There is no request with this id.");
    }
    // Without a client-provided request id, the event id is the request id.
    let page = api.get("/log?limit=1").await.with(200);
    let item = &page["items"][0];
    assert_eq!(item["request_id"], item["id"]);
    let next = page["next"].as_str().unwrap();
    let rest = api
        .get(&format!("/log?limit=1000&after={next}"))
        .await
        .with(200);
    assert_eq!(rest["items"].as_array().unwrap().len(), 10);
    assert_eq!(rest["next"], json!(null));
}

#[tokio::test]
async fn recorder_statistics_are_returned() {
    let backend = MemoryBackend::new();
    let recorder = Recorder::new(backend.clone());
    let api = Api::recording(backend, recorder.clone());
    let nothing = api.get("/recorder").await.with(200);
    assert_eq!(
        (&nothing["accepted"], &nothing["last_written_at"]),
        (&json!(0), &json!(null))
    );
    let secret = api.issue(NewKey::new("a")).await.secret;
    let layer = ApiKeyLayer::new(api.backend.clone()).recorder(recorder.clone());
    let service = Router::new()
        .route("/", get(|| async { "in" }))
        .layer(layer);
    let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {}", secret.expose()));
    ask(&service, request.body(Body::empty()).unwrap()).await;
    recorder.flush().await;
    let health = api.get("/recorder").await.with(200);
    for (name, count) in [("accepted", 1), ("written", 1), ("queued", 0), ("lost", 0)] {
        assert_eq!(health[name], count, "{name}");
    }
    assert!(health["last_written_at"].is_string());
}

#[tokio::test]
async fn the_log_can_be_synced_with_cursors() {
    let api = used().await;
    let page = api.get("/log/recorded?limit=4").await.with(200);
    let items = page["items"].as_array().unwrap();
    assert_eq!(items.len(), 4);
    assert_eq!(items[3]["cursor"], page["cursor"]);
    assert_eq!(page["more"], true);
    let cursor = page["cursor"].as_str().unwrap();
    let path = format!("/log/recorded?after_cursor={cursor}");
    let rest = api.get(&path).await.with(200);
    let mut seen = items.clone();
    seen.extend(rest["items"].as_array().unwrap().iter().cloned());
    assert_eq!((seen.len(), &rest["more"]), (11, &json!(false)));
    let end = rest["cursor"].as_str().unwrap();

    // A long request that started before all others.
    let mut late = UsageEvent::new("2026-11-01T09:00:00Z".parse().unwrap());
    late.latency_us = 7_200_000_000;
    let id = late.id.to_string();
    let batch = Batch::new(vec![late]);
    api.backend.write(&batch).await.unwrap();
    let path = format!("/log/recorded?after_cursor={end}");
    let new = api.get(&path).await.with(200);
    assert_eq!(new["items"].as_array().unwrap().len(), 1);
    assert_eq!(new["items"][0]["id"], *id);

    let file = format!("/log/export/jsonl?after_cursor={end}");
    let file = api.get(&file).await;
    let line: serde_json::Value = serde_json::from_str(&file.text).unwrap();
    assert_eq!((&line["id"], &line["cursor"]), (&json!(id), &new["cursor"]));
    let file = api.get("/log/export/csv?after_cursor=0&bom=true").await;
    assert_eq!(file.text.lines().count(), 13);
    assert!(file.text.starts_with("\u{feff}id,"));

    let none = format!("/log/recorded?after_cursor={end}&owner=nobody");
    let none = api.get(&none).await.with(200);
    assert_eq!(none["items"], json!([]));
    assert_eq!(
        (&none["cursor"], &none["more"]),
        (&new["cursor"], &json!(false))
    );
    for path in [
        "/log/recorded?after_cursor=x",
        "/log/recorded?after_cursor=99",
        "/log/export/csv?after_cursor=-1",
    ] {
        let (_, wrong) = api.get(path).await.problem(400);
        assert_eq!(wrong["parameter"], "after_cursor", "{path}");
    }
}
