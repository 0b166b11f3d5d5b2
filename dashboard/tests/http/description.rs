//! `/api/openapi.json` describes every call, and only calls that exist.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::fixture::start;

const CALLS: [&str; 48] = [
    "/api/openapi.json",
    "/api/v1/aggregates",
    "/api/v1/aggregates/{name}",
    "/api/v1/alerts",
    "/api/v1/alerts/{id}",
    "/api/v1/alerts/{id}/ack",
    "/api/v1/alerts/{id}/unack",
    "/api/v1/automation",
    "/api/v1/commands",
    "/api/v1/commands/rollouts",
    "/api/v1/commands/rollouts/{id}",
    "/api/v1/commands/rollouts/{id}/resume",
    "/api/v1/commands/rollouts/{id}/stop",
    "/api/v1/commands/stop",
    "/api/v1/commands/{id}",
    "/api/v1/commands/{id}/cancel",
    "/api/v1/devices",
    "/api/v1/devices/{id}",
    "/api/v1/devices/{id}/commands",
    "/api/v1/devices/{id}/recent",
    "/api/v1/ledger",
    "/api/v1/ledger/too_old",
    "/api/v1/live",
    "/api/v1/notifications",
    "/api/v1/notifications/{id}/resend",
    "/api/v1/overview",
    "/api/v1/pages",
    "/api/v1/quarantine",
    "/api/v1/quarantine/{id}/release",
    "/api/v1/rules",
    "/api/v1/rules/test",
    "/api/v1/rules/{name}",
    "/api/v1/rules/{name}/commands/resume",
    "/api/v1/rules/{name}/commands/stop",
    "/api/v1/silences",
    "/api/v1/silences/{id}",
    "/api/v1/system",
    "/api/v1/windows",
    "/api/v1/windows/outstanding",
    "/api/v2/alerts",
    "/api/v2/alerts/groups",
    "/api/v2/receivers",
    "/api/v2/silence/{id}",
    "/api/v2/silences",
    "/api/v2/status",
    "/healthz",
    "/metrics",
    "/readyz",
];

#[tokio::test]
async fn every_call_is_described_and_exists() {
    let server = start().await;
    crate::alerting::on_call(&server);
    server.views.set_ready();
    let doc = server.json("/api/openapi.json").await;
    assert!(doc["openapi"].as_str().unwrap().starts_with("3."));
    let described: BTreeSet<&str> = doc["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(described, BTreeSet::from(CALLS));
    let mut changes = Vec::new();
    for call in CALLS {
        for method in ["put", "post", "delete"] {
            let operation = &doc["paths"][call][method];
            if operation.is_object() {
                assert!(operation["summary"].is_string(), "{method} {call}");
                changes.push(format!("{method} {call}"));
                let answers = operation["responses"].as_object().unwrap();
                assert!(
                    // What changes nothing is answered at once.
                    (answers.contains_key("202")
                        || call.starts_with("/api/v2")
                        || call == "/api/v1/rules/test")
                        && answers.contains_key("403")
                );
            }
        }
        let operation = &doc["paths"][call]["get"];
        if !operation.is_object() {
            continue;
        }
        assert!(operation["summary"].is_string(), "{call} has no summary");
        let id = match call {
            "/api/v1/alerts/{id}" => "a-2",
            "/api/v1/silences/{id}" | "/api/v2/silence/{id}" => "s-1",
            _ => "d-1",
        };
        let path = call.replace("{id}", id).replace("{name}", "too-hot");
        let query = match call {
            "/api/v1/windows" => "?aggregate=fleet",
            "/api/v1/windows/outstanding" => "?aggregate=fleet&start=1795329420000",
            "/api/v1/devices/{id}/recent" => "?metric=temperature",
            _ => "",
        };
        let response = server.open("GET", &format!("{path}{query}"), &[]).await;
        assert_eq!(response.status(), 200, "{path}{query}");
        let content = &operation["responses"]["200"]["content"];
        let types: Vec<&str> = content
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let sent = response.headers()["content-type"].to_str().unwrap();
        assert!(
            sent.starts_with(types[0]),
            "{call}: {sent} is not {types:?}"
        );
    }
    let expected = [
        "put /api/v1/aggregates/{name}",
        "delete /api/v1/aggregates/{name}",
        "post /api/v1/alerts/{id}/ack",
        "post /api/v1/alerts/{id}/unack",
        "post /api/v1/commands/rollouts",
        "post /api/v1/commands/rollouts/{id}/resume",
        "post /api/v1/commands/rollouts/{id}/stop",
        "put /api/v1/commands/stop",
        "post /api/v1/commands/{id}/cancel",
        "put /api/v1/devices/{id}",
        "delete /api/v1/devices/{id}",
        "post /api/v1/devices/{id}/commands",
        "post /api/v1/notifications/{id}/resend",
        "post /api/v1/quarantine/{id}/release",
        "post /api/v1/rules/test",
        "put /api/v1/rules/{name}",
        "delete /api/v1/rules/{name}",
        "post /api/v1/rules/{name}/commands/resume",
        "post /api/v1/rules/{name}/commands/stop",
        "post /api/v1/silences",
        "delete /api/v1/silences/{id}",
        "delete /api/v2/silence/{id}",
        "post /api/v2/silences",
    ];
    assert_eq!(changes, expected);
}

#[tokio::test]
async fn every_reference_leads_somewhere() {
    let server = start().await;
    let doc = server.json("/api/openapi.json").await;
    let mut found = 0;
    let mut todo = vec![&doc];
    while let Some(value) = todo.pop() {
        match value {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    found += 1;
                    assert!(doc.pointer(&target[1..]).is_some(), "{target}");
                }
                todo.extend(map.values());
            }
            Value::Array(items) => todo.extend(items),
            _ => {}
        }
    }
    assert!(found > 30, "{found}");
}

#[tokio::test]
async fn every_described_parameter_is_taken() {
    let server = start().await;
    let doc = server.json("/api/openapi.json").await;
    for (path, item) in doc["paths"].as_object().unwrap() {
        let Some(parameters) = item["get"]["parameters"].as_array() else {
            continue;
        };
        for parameter in parameters.iter().filter(|p| p["in"] == "query") {
            // A wrong value may be refused, but never as unknown.
            let name = parameter["name"].as_str().unwrap();
            let path = path.replace("{id}", "d-1").replace("{name}", "too-hot");
            let response = server.open("GET", &format!("{path}?{name}=1"), &[]).await;
            if response.status() == 400 {
                use http_body_util::BodyExt;
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let body = String::from_utf8_lossy(&body).into_owned();
                assert!(!body.contains("no parameter"), "{path}?{name}: {body}");
            }
        }
    }
}
