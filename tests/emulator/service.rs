//! The service side over HTTP: registry, twins, methods, queries, and how it refuses.

use crate::backend::{SERVICE_KEY, with_service};
use crate::kit::{Client, HOST, POLICY_KEY, http_at, soon, start, token};
use crate::pairs::{Pair, call};
use iothub_gateway::emulator::EmulatorHandle;
use serde_json::{Value as Json, json};

/// One request with a token of the service policy: status, head and JSON.
async fn ask(hub: &EmulatorHandle, method: &str, path: &str, body: Json) -> (u16, String, Json) {
    ask_with(hub, method, path, "", body).await
}

async fn ask_with(
    hub: &EmulatorHandle,
    method: &str,
    path: &str,
    headers: &str,
    body: Json,
) -> (u16, String, Json) {
    let token = token(SERVICE_KEY, HOST, 3600, Some("service"));
    let headers = format!("authorization: {token}\r\ncontent-type: application/json\r\n{headers}");
    let body = match body {
        Json::Null => String::new(),
        body => body.to_string(),
    };
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{joint}api-version=2021-04-12");
    http_at(
        hub.http_addr().unwrap(),
        method,
        &path,
        &headers,
        body.as_bytes(),
    )
    .await
}

/// Status and name of a refusal, which its header and its body agree on.
fn problem((status, head, body): &(u16, String, Json)) -> (u16, String) {
    let message = body["Message"].as_str().unwrap_or_else(|| panic!("{body}"));
    let name = head
        .lines()
        .find_map(|line| line.strip_prefix("iothub-errorcode: "))
        .unwrap();
    match serde_json::from_str::<Json>(message) {
        Ok(inner) => assert!(inner["errorCode"].is_u64() && inner["message"].is_string()),
        Err(_) => assert!(message.starts_with(&format!("ErrorCode:{name};")), "{body}"),
    }
    (*status, name.to_owned())
}

#[tokio::test]
async fn devices_are_created_changed_listed_and_deleted() {
    let hub = start(with_service).await;
    let device = "/devices/new%2d1";
    let (status, head, made) = ask(&hub, "PUT", device, json!({"deviceId": "new-1"})).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["status"], "enabled");
    let key = made["authentication"]["symmetricKey"]["primaryKey"].clone();
    assert_eq!(key.as_str().unwrap().len(), 44);
    let etag = made["etag"].as_str().unwrap().to_owned();
    assert!(head.contains(&format!("etag: \"{etag}\"")), "{head}");

    let again = ask(&hub, "PUT", device, json!({})).await;
    let exists = "DeviceAlreadyExists".to_owned();
    assert_eq!(problem(&again), (409, exists));
    let stale = "if-match: \"0\"\r\n";
    let disabled = json!({"status": "disabled", "statusReason": "sold",
        "authentication": {"type": "sas", "symmetricKey": {"primaryKey": key}}});
    let refused = ask_with(&hub, "PUT", device, stale, disabled.clone()).await;
    assert_eq!(problem(&refused).1, "PreconditionFailed");
    let fresh = format!("if-match: \"{etag}\"\r\n");
    let (status, _, changed) = ask_with(&hub, "PUT", device, &fresh, disabled).await;
    assert_eq!(status, 200);
    assert_eq!(changed["status"], "disabled");
    assert_eq!(changed["statusReason"], "sold");
    assert_eq!(changed["authentication"]["symmetricKey"]["primaryKey"], key);
    assert_eq!(changed["generationId"], made["generationId"]);

    let (_, _, all) = ask(&hub, "GET", "/devices?top=100", Json::Null).await;
    assert_eq!(all.as_array().unwrap().len(), 4);
    let (_, _, count) = ask(&hub, "GET", "/statistics/devices", Json::Null).await;
    assert_eq!(count["disabledDeviceCount"], 1);
    assert_eq!(ask(&hub, "DELETE", device, Json::Null).await.0, 204);
    let gone = ask(&hub, "GET", device, Json::Null).await;
    assert_eq!(problem(&gone), (404, "DeviceNotFound".to_owned()));
    for (body, name) in [
        (json!({"deviceId": "other"}), "ArgumentInvalid"),
        (json!({"status": "sold"}), "ArgumentInvalid"),
        (
            json!({"authentication": {"type": "oracle"}}),
            "ArgumentInvalid",
        ),
        (
            json!({"authentication": {"symmetricKey": {"primaryKey": "???"}}}),
            "ArgumentInvalid",
        ),
    ] {
        let refused = ask(&hub, "PUT", device, body.clone()).await;
        assert_eq!(problem(&refused).1, name, "{body}");
    }
}

#[tokio::test]
async fn modules_come_and_go_with_their_device() {
    let hub = start(|config| {
        with_service(config);
        config.limits.modules_per_device = 2;
    })
    .await;
    let module = |id: &str| format!("/devices/plain-1/modules/{id}");
    for id in ["a", "b"] {
        let (status, _, made) = ask(&hub, "PUT", &module(id), json!({})).await;
        assert_eq!((status, &made["moduleId"]), (200, &json!(id)));
    }
    let full = ask(&hub, "PUT", &module("c"), json!({})).await;
    assert_eq!(problem(&full).1, "TooManyModulesOnDevice");
    let twice = ask(&hub, "PUT", &module("a"), json!({})).await;
    assert_eq!(problem(&twice).1, "ModuleAlreadyExistsOnDevice");
    let mut client = Client::authorised(&hub).await;
    let identity = "plain-1/modules/a";
    let mut pair = Pair::open(&mut client, "twin", identity, "1").await;
    assert_eq!(ask(&hub, "DELETE", &module("a"), Json::Null).await.0, 204);
    let (condition, _) = crate::kit::detached(&mut pair.out).await;
    assert_eq!(condition, "amqp:not-found");
    let (_, _, left) = ask(&hub, "GET", "/devices/plain-1/modules", Json::Null).await;
    assert_eq!(left.as_array().unwrap().len(), 1);
    let gone = ask(&hub, "GET", &module("a"), Json::Null).await;
    assert_eq!(problem(&gone).1, "ModuleNotFound");
}

#[tokio::test]
async fn twins_are_merged_replaced_and_found() {
    let hub = start(with_service).await;
    let path = "/twins/plain-1";
    let change = json!({"tags": {"site": "north", "floor": 2},
        "properties": {"desired": {"rate": 5}}, "etag": "ignored", "version": 7});
    let (status, _, twin) = ask(&hub, "PATCH", path, change).await;
    assert_eq!(status, 200, "{twin}");
    assert_eq!(twin["deviceId"], "plain-1");
    assert_eq!(twin["properties"]["desired"]["$version"], 2);
    let etag = format!("if-match: \"{}\"\r\n", twin["etag"].as_str().unwrap());
    let replaced = json!({"tags": {"site": "south"}, "properties": {"desired": {"mode": 1}}});
    let (_, _, twin) = ask_with(&hub, "PUT", path, &etag, replaced.clone()).await;
    assert_eq!(twin["tags"], json!({"site": "south"}));
    assert!(twin["properties"]["desired"]["rate"].is_null());
    let stale = ask_with(&hub, "PUT", path, &etag, replaced).await;
    assert_eq!(problem(&stale), (412, "PreconditionFailed".to_owned()));
    let bad = ask(&hub, "PATCH", path, json!({"tags": {"a.b": 1}})).await;
    assert_eq!(problem(&bad).0, 400);
    let list = ask(&hub, "POST", "/devices/query", json!([1])).await;
    let format = "IotHubFormatError".to_owned();
    assert_eq!(problem(&list), (400, format));
    let text = ask(&hub, "PATCH", path, json!({"tags": "x"})).await;
    assert_eq!(problem(&text).1, "ArgumentInvalid");

    let query = json!({"query": "SELECT * FROM devices WHERE tags.site = 'south'"});
    let (_, head, found) = ask(&hub, "POST", "/devices/query", query).await;
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert!(head.contains("x-ms-item-type: Twin"), "{head}");
    let mut place = String::new();
    let mut seen = Vec::new();
    loop {
        let headers = format!("x-ms-max-item-count: 2\r\nx-ms-continuation: {place}\r\n");
        let query = json!({"query": "select * from devices"});
        let (_, head, page) = ask_with(&hub, "POST", "/devices/query", &headers, query).await;
        let ids = page.as_array().unwrap().iter();
        seen.extend(ids.map(|twin| twin["deviceId"].as_str().unwrap().to_owned()));
        let next = head
            .lines()
            .find_map(|line| line.strip_prefix("x-ms-continuation: "));
        match next {
            Some(next) => next.clone_into(&mut place),
            None => break,
        }
    }
    assert_eq!(seen, ["plain-1", "plain-2", "thermo-1"]);
    let odd = ask(&hub, "POST", "/devices/query", json!({"query": "drop"})).await;
    assert_eq!(problem(&odd).0, 400);
}

#[tokio::test]
async fn methods_are_called_and_refused_as_the_service_does() {
    let hub = start(with_service).await;
    let path = "/twins/plain-1/methods";
    let blink = json!({"methodName": "blink", "payload": {"times": 3},
        "responseTimeoutInSeconds": 5, "connectTimeoutInSeconds": 0});
    let offline = ask(&hub, "POST", path, blink.clone()).await;
    assert_eq!(problem(&offline), (404, "DeviceNotOnline".to_owned()));
    let message = offline.2["Message"].as_str().unwrap();
    assert!(message.contains("\"errorCode\":404103"), "{message}");
    let mut client = Client::authorised(&hub).await;
    let mut pair = Pair::open(&mut client, "methods", "plain-1", "1").await;
    let answering = async {
        let (method, id) = call(&pair.next().await);
        assert_eq!(method, "blink");
        pair.answer(id, 207, "[1]").await;
    };
    let ((), (status, _, answer)) = tokio::join!(answering, ask(&hub, "POST", path, blink.clone()));
    assert_eq!(
        (status, answer),
        (200, json!({"status": 207, "payload": [1]}))
    );
    let silent = soon("504", ask(&hub, "POST", path, blink)).await;
    assert_eq!(problem(&silent), (504, "GatewayTimeout".to_owned()));
    for (body, name) in [
        (
            json!({"methodName": "x", "responseTimeoutInSeconds": 4}),
            "ArgumentInvalid",
        ),
        (
            json!({"methodName": "x", "connectTimeoutInSeconds": 301}),
            "ArgumentInvalid",
        ),
        (
            json!({"methodName": "x", "payload": "y".repeat(128 * 1024)}),
            "MessageTooLarge",
        ),
    ] {
        let refused = ask(&hub, "POST", path, body).await;
        assert_eq!(problem(&refused).1, name);
    }
    let unknown = ask(
        &hub,
        "POST",
        "/twins/ghost/methods",
        json!({"methodName": "x"}),
    )
    .await;
    assert_eq!(problem(&unknown).1, "DeviceNotFound");
}

#[tokio::test]
async fn only_tokens_with_the_right_get_in() {
    let hub = start(with_service).await;
    let address = hub.http_addr().unwrap();
    let version = "/twins/plain-1?api-version=2021-04-12";
    let get = |path: &'static str, headers: String| async move {
        problem(&http_at(address, "GET", path, &headers, b"").await)
    };
    let signed = |key: &[u8], life, name| {
        let token = token(key, HOST, life, Some(name));
        format!("authorization: {token}\r\n")
    };
    let unauthorized = (401, "IotHubUnauthorizedAccess".to_owned());
    for headers in [
        String::new(),
        "authorization: Bearer x\r\n".to_owned(),
        signed(b"wrong", 60, "service"),
        signed(SERVICE_KEY, -400, "service"),
        signed(POLICY_KEY, 60, "device"),
    ] {
        assert_eq!(get(version, headers).await, unauthorized);
    }
    let whole = signed(SERVICE_KEY, 60, "service");
    assert_eq!(get("/twins/plain-1", whole.clone()).await.1, "ArgumentNull");
    assert_eq!(get("/jobs?api-version=1", whole).await.0, 404);
    let narrow = token(
        SERVICE_KEY,
        &format!("{HOST}/twins/plain-2"),
        60,
        Some("service"),
    );
    let narrow = format!("authorization: {narrow}\r\n");
    assert_eq!(get(version, narrow.clone()).await, unauthorized);
    let own = "/twins/plain-2?api-version=1";
    assert_eq!(http_at(address, "GET", own, &narrow, b"").await.0, 200);
}
