//! The OpenAPI document.

use keytally::usage::summary::Spike;
use serde_json::{Value, json};

use super::Api;

#[tokio::test]
async fn the_document_lists_all_operations_and_the_server() {
    let document = Api::new().get("/openapi.json").await.with(200);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"], json!([{"url": "/admin/api"}]));
    let mut operations: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    operations.sort_unstable();
    let expected = [
        "count_requests",
        "create_key",
        "delete_key",
        "delete_plan",
        "disable_key",
        "enable_key",
        "export_requests",
        "export_usage_by_owner",
        "find_keys",
        "find_spikes",
        "get_key",
        "get_key_limits",
        "get_limiter",
        "get_merge_backlog",
        "get_owner",
        "get_owner_limits",
        "get_plan",
        "get_recorder",
        "get_request",
        "list_audit_entries",
        "list_keys",
        "list_owners",
        "list_plans",
        "list_recorded_requests",
        "list_rejections",
        "list_requests",
        "resume_owner",
        "reveal_secret",
        "revoke_key",
        "rotate_key",
        "set_plan",
        "summarize_usage",
        "summarize_usage_by_owner",
        "summarize_usage_over_time",
        "suspend_owner",
        "update_key",
        "update_owner",
    ];
    assert_eq!(operations, expected);
}

#[tokio::test]
async fn the_document_states_the_thresholds_of_spikes() {
    let document = Api::new().get("/openapi.json").await.with(200);
    let description = document["paths"]["/usage/spikes"]["get"]
        .to_string()
        .replace("\\n", " ");
    let [least, factor, points, before] = [
        Spike::MIN_REQUESTS,
        Spike::MIN_FACTOR,
        Spike::MIN_PERCENTAGE_POINTS,
        Spike::MIN_PREVIOUS_REQUESTS,
    ];
    for text in [
        format!("at least {least} requests"),
        format!("at least {factor} times"),
        format!("at least {points} percentage points"),
        format!("fewer than {before} requests in the previous period"),
    ] {
        assert!(description.contains(&text), "{description}");
    }
}

#[tokio::test]
async fn the_document_describes_every_property_and_parameter() {
    let document = Api::new().get("/openapi.json").await.with(200);
    walk(&document, &document, "#");
}

fn walk(document: &Value, value: &Value, at: &str) {
    if let Some(reference) = value["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(document.pointer(pointer).is_some(), "{at}: {reference}");
    }
    for name in ["properties", "parameters"] {
        let parts: Vec<(String, &Value)> = match &value[name] {
            Value::Object(all) => all.iter().map(|(name, it)| (name.clone(), it)).collect(),
            Value::Array(all) => all.iter().map(|it| (it["name"].to_string(), it)).collect(),
            _ => Vec::new(),
        };
        for (part, schema) in parts {
            // Nullable schemas have the description in a variant.
            let variants = schema["oneOf"].as_array().into_iter().flatten();
            let is_described = variants
                .chain([schema])
                .any(|it| it["description"].is_string());
            assert!(is_described, "{at}: {part} has no description");
        }
    }
    let children: Vec<(String, &Value)> = match value {
        Value::Object(all) => all.iter().map(|(name, it)| (name.clone(), it)).collect(),
        Value::Array(all) => all
            .iter()
            .enumerate()
            .map(|(n, it)| (n.to_string(), it))
            .collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        walk(document, child, &format!("{at}/{name}"));
    }
}
