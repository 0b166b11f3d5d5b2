//! Each call: what it answers, and what it refuses.

use serde_json::{Value, json};

use crate::fixture::start;

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|i| i[field].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn overview_shows_the_fleet() {
    let server = start().await;
    let o = server.json("/api/v1/overview").await;
    assert_eq!(o["now"], "2026-11-22T06:37:41Z");
    assert_eq!(
        o["devices"],
        json!({"expected": 3, "online": 2, "buffering": 1, "silent": 0})
    );
    assert_eq!(o["totals"]["counted"], 1000);
    assert_eq!(o["alerts"]["firing"]["critical"], 2);
    assert_eq!(o["complete_to"], "2026-11-22T06:37:08Z");
    assert_eq!(o["held_back_by"]["agent"], "OSL-11");
    assert_eq!(o["completeness"][0]["outstanding"], 1);
    assert_eq!(o["default_aggregate"], "fleet");
}

#[tokio::test]
async fn windows_are_merged_filtered_and_paged() {
    let server = start().await;
    let aggregates = server.json("/api/v1/aggregates").await;
    assert_eq!(names(&aggregates, "name"), ["fleet", "by_metric"]);
    assert_eq!(
        aggregates["items"][1]["groups"][1],
        json!({"metric": "temperature"})
    );

    let fleet = server.json("/api/v1/windows?aggregate=fleet").await;
    assert_eq!(fleet["items"].as_array().unwrap().len(), 3);
    let first = &fleet["items"][0];
    assert_eq!(first["start"], "2026-11-22T06:37:00Z");
    assert_eq!(
        (&first["count"], &first["mean"], &first["revision"]),
        (&json!(8), &json!(21.0), &json!(150))
    );
    assert_eq!(
        (&first["expected"], &first["outstanding"]),
        (&json!(3), &json!(1))
    );

    let from = "/api/v1/windows?aggregate=fleet&from=2026-11-22T08:37:10%2B02:00&to=1795329440000";
    let one = server.json(from).await;
    assert_eq!(names(&one, "start"), ["2026-11-22T06:37:10Z"]);

    let hot = "/api/v1/windows?aggregate=by_metric&group.metric=temperature";
    let hot = server.json(hot).await;
    assert_eq!(hot["items"].as_array().unwrap().len(), 3);
    assert_eq!(hot["items"][2]["group"]["metric"], "temperature");

    let mut starts = Vec::new();
    let mut path = "/api/v1/windows?aggregate=by_metric&from=0&limit=4".to_owned();
    for _ in 0..3 {
        let page = server.json(&path).await;
        starts.extend(names(&page, "start"));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/api/v1/windows?aggregate=by_metric&limit=4&after={next}");
    }
    assert_eq!(starts.len(), 6, "{starts:?}");
    assert!(starts.is_sorted());
}

#[tokio::test]
async fn wrong_parameters_of_windows_are_named() {
    let server = start().await;
    for (query, field) in [
        ("", "aggregate"),
        ("?aggregate=fleet&from=yesterday", "from"),
        ("?aggregate=fleet&from=2000&to=1000", "to"),
        ("?aggregate=fleet&limit=1001", "limit"),
        ("?aggregate=fleet&after=zzz", "after"),
        ("?aggregate=fleet&group.site=x", "group.site"),
        ("?aggregate=fleet&aggregate=fleet", "aggregate"),
        ("?aggregate=fleet&grop.site=x", "grop.site"),
    ] {
        let path = format!("/api/v1/windows{query}");
        let error = server.refused(&path, 400, "bad_parameter").await;
        assert_eq!(error["field"], field, "{path}");
    }
    let error = server
        .refused("/api/v1/windows?agregate=fleet", 400, "bad_parameter")
        .await;
    assert!(
        error["message"].as_str().unwrap().contains("`aggregate`"),
        "{error}"
    );
    let error = server
        .refused("/api/v1/windows?aggregate=flet", 404, "not_found")
        .await;
    assert_eq!(error["field"], "aggregate");
}

#[tokio::test]
async fn outstanding_devices_are_listed_by_name() {
    let server = start().await;
    let path = "/api/v1/windows/outstanding?aggregate=fleet&start=2026-11-22T06:37:10Z&limit=1";
    let first = server.json(path).await;
    assert_eq!(
        (names(&first, "device"), &first["total"]),
        (vec!["d-3".to_owned()], &json!(2))
    );
    assert_eq!(first["items"][0]["last_contact"], "2026-11-22T06:37:30Z");
    let next = first["next"].as_str().unwrap();
    let second = server.json(&format!("{path}&after={next}")).await;
    assert_eq!(
        (names(&second, "device"), &second["next"]),
        (vec!["d-4".to_owned()], &Value::Null)
    );

    let base = "/api/v1/windows/outstanding?aggregate=";
    for (query, field) in [
        ("fleet", "start"),
        ("fleet&start=2026-11-22T06:37:11Z", "start"),
        ("by_metric&start=2026-11-22T06:37:10Z", "group.metric"),
        (
            "fleet&start=2026-11-22T06:37:10Z&group.site=x",
            "group.site",
        ),
    ] {
        let error = server
            .refused(&format!("{base}{query}"), 400, "bad_parameter")
            .await;
        assert_eq!(error["field"], field, "{query}");
    }
    server
        .refused(&format!("{base}x&start=0"), 404, "not_found")
        .await;
}

#[tokio::test]
async fn devices_are_searched_and_paged() {
    let server = start().await;
    let all = server.json("/api/v1/devices").await;
    assert_eq!(names(&all, "id"), ["D-2", "d-1", "d-3", "d-4", "ä-5"]);
    assert_eq!((&all["total"], &all["next"]), (&json!(5), &Value::Null));
    let found = server
        .json("/api/v1/devices?q=D-&attr.site=plant-1&limit=3")
        .await;
    assert_eq!((names(&found, "id").len(), &found["total"]), (3, &json!(4)));
    assert_eq!(found["next"], "d-3");
    let rest = server
        .json("/api/v1/devices?q=D-&attr.site=plant-1&limit=3&after=d-3")
        .await;
    assert_eq!(
        (names(&rest, "id"), &rest["next"]),
        (vec!["d-4".to_owned()], &Value::Null)
    );
    let buffering = server.json("/api/v1/devices?status=buffering").await;
    assert_eq!(names(&buffering, "id"), ["d-3", "d-4"]);
    assert_eq!(
        server.json("/api/v1/devices?attr.site=other").await["total"],
        0
    );
    let error = server
        .refused("/api/v1/devices?status=onlin", 400, "bad_parameter")
        .await;
    assert_eq!(error["field"], "status");
    server
        .refused("/api/v1/devices?site=plant-1", 400, "bad_parameter")
        .await;
}

#[tokio::test]
async fn one_device_and_its_points() {
    let server = start().await;
    let d = server.json("/api/v1/devices/%C3%A4-5").await;
    assert_eq!(
        (&d["id"], &d["values"][0]["value"]),
        (&json!("ä-5"), &json!(20.5))
    );
    server
        .refused("/api/v1/devices/d-9", 404, "not_found")
        .await;
    server
        .refused("/api/v1/devices/%ff", 400, "bad_parameter")
        .await;
    server
        .refused("/api/v1/devices/d-1?x=1", 400, "bad_parameter")
        .await;

    let recent = server
        .json("/api/v1/devices/d-1/recent?metric=temperature")
        .await;
    let first = json!({"time": "2026-11-22T06:37:00Z", "value": 20.5});
    assert_eq!(
        recent["items"],
        json!([first, {"time": "2026-11-22T06:37:01Z", "value": true}])
    );
    let error = server
        .refused("/api/v1/devices/d-1/recent", 400, "bad_parameter")
        .await;
    assert_eq!(error["field"], "metric");
    let error = server
        .refused("/api/v1/devices/d-1/recent?metric=x", 404, "not_found")
        .await;
    assert_eq!(error["field"], "metric");
    let error = server
        .refused("/api/v1/devices/d-9/recent?metric=x", 404, "not_found")
        .await;
    assert_eq!(error["field"], "id");
}

#[tokio::test]
async fn alerts_rules_and_notifications() {
    let server = start().await;
    let first = server.json("/api/v1/alerts?limit=2").await;
    assert_eq!(names(&first, "id"), ["a-3", "a-2"]);
    let next = first["next"].as_str().unwrap();
    let rest = server
        .json(&format!("/api/v1/alerts?limit=2&after={next}"))
        .await;
    assert_eq!(
        (names(&rest, "id"), &rest["next"]),
        (vec!["a-1".to_owned()], &Value::Null)
    );
    let resolved = server.json("/api/v1/alerts?state=resolved").await;
    assert_eq!(names(&resolved, "id"), ["a-1"]);
    server
        .refused("/api/v1/alerts?state=fired", 400, "bad_parameter")
        .await;

    let rules = server.json("/api/v1/rules").await;
    assert_eq!(names(&rules, "name"), ["too-hot"]);
    assert_eq!(server.json("/api/v1/rules/too-hot").await["clear"], 75.0);
    server
        .refused("/api/v1/rules/too-cold", 404, "not_found")
        .await;

    let log = server.json("/api/v1/notifications?limit=5").await;
    assert_eq!(names(&log, "state"), ["delivered"]);
    server
        .refused("/api/v1/notifications?after=x", 400, "bad_parameter")
        .await;
}

#[tokio::test]
async fn quarantine_and_system() {
    let server = start().await;
    let first = server.json("/api/v1/quarantine?limit=2").await;
    assert_eq!(names(&first, "device"), ["d-3", "d-2"]);
    assert_eq!(first["totals"], json!({"time_in_future": 13}));
    let next = first["next"].as_str().unwrap();
    let rest = server
        .json(&format!("/api/v1/quarantine?limit=2&after={next}"))
        .await;
    assert_eq!(
        (names(&rest, "device"), &rest["next"]),
        (vec!["d-1".to_owned()], &Value::Null)
    );
    server
        .refused("/api/v1/quarantine?after=x", 400, "bad_parameter")
        .await;

    let system = server.json("/api/v1/system").await;
    assert_eq!(system["version"], "1.2.3");
    assert_eq!(system["partitions"][1]["lag_records"], 7);
    assert_eq!(system["log"]["bytes"], 4096);
    assert_eq!(system["incidents"][0]["agent"], "OSL-11");
}

#[tokio::test]
async fn health_says_running_and_ready_apart() {
    let server = start().await;
    assert_eq!(server.get("/healthz").await.text(), "ok");
    server.refused("/readyz", 503, "not_ready").await;
    server.views.set_ready();
    assert_eq!(server.get("/readyz").await.text(), "ok");
}

#[tokio::test]
async fn unknown_calls_and_methods_are_refused_in_json() {
    let server = start().await;
    for path in [
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/device",
        "/api/v1/overview/",
        "/api/v2/overview",
    ] {
        server.refused(path, 404, "not_found").await;
    }
    for (method, path) in [
        ("POST", "/api/v1/overview"),
        ("PATCH", "/api/v1/devices/d-1"),
        ("POST", "/api/v1/aggregates"),
        ("OPTIONS", "/metrics"),
        ("POST", "/"),
    ] {
        let reply = server.send(method, path, &[]).await;
        assert_eq!(reply.status, 405, "{method} {path}");
        assert_eq!(reply.json()["error"]["code"], "method_not_allowed");
        assert!(
            reply.header("allow").contains("GET"),
            "{method} {path}: {:?}",
            reply.headers
        );
    }
    let head = server.send("HEAD", "/api/v1/overview", &[]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}
