//! Every fault of the catalogue, seen from a client.

use crate::kit::{
    Client, HOST, POLICY_KEY, condition, data, detached, http, hub_token, refusal, send, soon,
    start, token,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fe2o3_amqp::types::messaging::Outcome;
use fe2o3_amqp::types::primitives::SimpleValue;
use fe2o3_amqp::{Connection, Sender};
use iothub_gateway::emulator::config::{DeviceConfig, Keys};
use iothub_gateway::emulator::{EmulatorHandle, Fault, FaultKind, FaultScope};
use iothub_gateway::runtime::clock;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough for anything that is not held back.
const A_WHILE: Duration = Duration::from_millis(300);

async fn post(hub: &EmulatorHandle, body: &str) -> (u16, String) {
    let (status, answer) = http(hub, "POST", "/faults", body.as_bytes()).await;
    (status, answer.to_string())
}

#[tokio::test]
async fn the_catalogue_explains_itself_and_refuses_what_it_cannot_do() {
    let hub = start(|_| {}).await;
    let (_, list) = http(&hub, "GET", "/faults", b"").await;
    let known = list["known"].as_array().unwrap();
    assert!(known.len() >= 30);
    for fault in known {
        assert!(fault["about"].as_str().unwrap().ends_with('.'), "{fault}");
    }
    let (status, text) = post(&hub, r#"{"name":"KillAmqpConection"}"#).await;
    assert!(
        status == 400 && text.contains("KillAmqpConnection"),
        "{text}"
    );
    for (body, status) in [
        (r#"{"name":"ShutDownMqtt"}"#, 501),
        (r#"{"name":"TwinStatus","value":"200"}"#, 400),
        (r#"{"name":"CbsStatus","value":"200"}"#, 400),
        (r#"{"name":"OutcomeRejected","value":"amqp:nonsense"}"#, 400),
        (r#"{"name":"KillTcp","value":"hard"}"#, 400),
        (r#"{"name":"RefuseConnections","device":"d"}"#, 400),
        (r#"{"name":"KillTcp","device":"d","connection":1}"#, 400),
        (r#"{"name":"KillTcp","duration":"soon"}"#, 400),
    ] {
        let (answer, text) = post(&hub, body).await;
        assert_eq!(answer, status, "{body}: {text}");
    }
    assert_eq!(
        post(&hub, r#"{"name":"CreditZero","delay":"1h"}"#).await.0,
        202
    );
    let (_, list) = http(&hub, "GET", "/faults", b"").await;
    assert_eq!(list["active"][0]["name"], "CreditZero");
    assert_eq!(list["active"][0]["acting"], false);
    assert_eq!(http(&hub, "DELETE", "/faults", b"").await.1["ended"], 1);
}

#[tokio::test]
async fn strikes_hit_their_scope_and_spare_the_others() {
    let hub = start(|config| {
        config
            .devices
            .push(DeviceConfig::new("d3", Keys::default()))
    })
    .await;
    let mut client = Client::authorised(&hub).await;
    let mut hit = client.events("plain-1").await.unwrap();
    let mut spared = client.events("plain-2").await.unwrap();
    let fault = r#"{"name":"KillAmqpD2CLink","device":"plain-1"}"#;
    assert_eq!(post(&hub, fault).await.0, 202);
    assert_eq!(detached(&mut hit).await.0, "amqp:link:detach-forced");
    send(&mut spared, b"x").await.unwrap();

    let mut other = Client::authorised(&hub).await;
    let _link = other.events("d3").await.unwrap();
    let number = hub.connections()[1].0;
    let scope = FaultScope::Connection(number);
    hub.inject(&Fault::new(FaultKind::KillAmqpConnection).on(scope))
        .unwrap();
    let closed = soon("a close", other.connection.on_close())
        .await
        .unwrap_err();
    assert!(
        format!("{closed:?}").contains("ConnectionForced"),
        "{closed:?}"
    );
    send(&mut spared, b"x").await.unwrap();

    let mut third = Client::authorised(&hub).await;
    let _link = third.events("d3").await.unwrap();
    let device = FaultScope::Device("d3".to_owned());
    hub.inject(&Fault::new(FaultKind::ShutDownAmqp).on(device))
        .unwrap();
    let closed = soon("a close", third.connection.on_close()).await;
    assert!(
        format!("{closed:?}").ends_with("RemoteClosed)"),
        "{closed:?}"
    );

    assert_eq!(post(&hub, r#"{"name":"KillTcp"}"#).await.0, 202);
    assert!(soon("the end", client.connection.on_close()).await.is_err());
    assert_eq!(hub.stats().connections_fault, 3);
}

#[tokio::test]
async fn a_detach_names_its_condition_and_a_session_ends() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    hub.inject(&Fault::new(FaultKind::DetachLink).with("amqp:link:stolen"))
        .unwrap();
    assert_eq!(detached(&mut sender).await.0, "amqp:link:stolen");
    hub.inject(&Fault::new(FaultKind::KillAmqpSession)).unwrap();
    assert!(
        soon("the session's end", client.session.on_end())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn messages_meet_the_outcome_that_was_injected() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    let mut with = async |fault: Fault| {
        hub.inject(&fault).unwrap();
        let outcome = send(&mut sender, b"x").await.unwrap();
        hub.clear_faults();
        match outcome {
            Outcome::Rejected(rejected) => condition(&rejected.error.unwrap()),
            other => format!("{other:?}"),
        }
    };
    let throttled = "com.microsoft:device-container-throttled";
    assert_eq!(
        with(Fault::new(FaultKind::InvokeThrottling)).await,
        throttled
    );
    let quota = with(Fault::new(FaultKind::InvokeMaxMessageQuota)).await;
    assert_eq!(quota, "amqp:resource-limit-exceeded");
    for value in FaultKind::OutcomeRejected.values() {
        assert_eq!(
            with(Fault::new(FaultKind::OutcomeRejected).with(value)).await,
            *value
        );
    }
    assert!(
        with(Fault::new(FaultKind::OutcomeReleased))
            .await
            .contains("Released")
    );
    assert!(
        with(Fault::new(FaultKind::OutcomeModified))
            .await
            .contains("Modified")
    );
    assert_eq!(hub.stats().accepted, 0);
    for kind in [
        FaultKind::DispositionsDelayed,
        FaultKind::DispositionsReordered,
        FaultKind::DispositionsBatched,
    ] {
        assert!(
            with(Fault::new(kind)).await.contains("Accepted"),
            "{kind:?}"
        );
    }
    assert_eq!(hub.stats().accepted, 3);
}

#[tokio::test]
async fn dispositions_are_held_back_or_never_come() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    hub.inject(&Fault::new(FaultKind::DispositionsReordered))
        .unwrap();
    let first = sender.send_batchable(data(b"1")).await.unwrap();
    let second = sender.send_batchable(data(b"2")).await.unwrap();
    hub.ledger().grown_past(1).await;
    let mut both = tokio::spawn(async move { (first.await.unwrap(), second.await.unwrap()) });
    assert!(timeout(A_WHILE / 3, &mut both).await.is_err(), "held back");
    soon("both outcomes", both).await.unwrap();
    hub.clear_faults();

    hub.inject(&Fault::new(FaultKind::DispositionNever))
        .unwrap();
    let never = sender.send_batchable(data(b"3")).await.unwrap();
    hub.ledger().grown_past(2).await;
    assert!(timeout(A_WHILE, never).await.is_err(), "no outcome");
}

#[tokio::test]
async fn a_link_without_credit_sends_nothing_until_the_fault_ends() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    send(&mut sender, b"1").await.unwrap();
    hub.inject(&Fault::new(FaultKind::CreditZero)).unwrap();
    // The drain is answered by the client's engine; from then on it has no credit.
    let mut sent = 1;
    while timeout(A_WHILE, sender.send(data(b"n"))).await.is_ok() {
        sent += 1;
        assert!(sent < 10, "the credit is drained");
    }
    let mut other = client.events("plain-2").await.unwrap();
    assert!(
        timeout(A_WHILE, other.send(data(b"x"))).await.is_err(),
        "none is granted"
    );
    hub.clear_faults();
    for text in [b"2", b"3"] {
        send(&mut sender, text).await.unwrap();
        send(&mut other, text).await.unwrap();
    }
}

#[tokio::test]
async fn an_injected_authorisation_error_ends_the_link_and_refuses_the_next() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    hub.inject(&Fault::new(FaultKind::InvokeAuthError)).unwrap();
    assert!(soon("an end", sender.send(data(b"x"))).await.is_err());
    let refused = refusal(client.events("plain-2").await);
    assert_eq!(refused.0, "amqp:unauthorized-access");
    assert_eq!(hub.stats().accepted, 0);
    hub.clear_faults();
    client.events("plain-1").await.unwrap();
}

#[tokio::test]
async fn tokens_are_refused_unanswered_or_late() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    for (status, code) in [("401", 401), ("403", 403), ("404", 404), ("500", 500)] {
        hub.inject(&Fault::new(FaultKind::CbsStatus).with(status))
            .unwrap();
        assert_eq!(
            client.put(&hub_token(60)).await.status,
            SimpleValue::Int(code)
        );
        hub.clear_faults();
    }
    hub.inject(&Fault::new(FaultKind::CbsDelayed)).unwrap();
    let began = clock::mono();
    assert_eq!(
        client.put(&hub_token(60)).await.status,
        SimpleValue::Int(200)
    );
    assert!(clock::mono().since(began) >= Duration::from_millis(500));
    hub.clear_faults();
    hub.inject(&Fault::new(FaultKind::CbsSilent)).unwrap();
    assert!(timeout(A_WHILE, client.put(&hub_token(60))).await.is_err());
    assert_eq!(hub.stats().tokens_unanswered, 1);
    hub.clear_faults();
    assert_eq!(
        client.put(&hub_token(60)).await.status,
        SimpleValue::Int(200)
    );
}

#[tokio::test]
async fn the_links_of_cbs_can_be_killed_one_by_one() {
    let hub = start(|_| {}).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    let mut requests = client.sender("out", "$cbs").await.unwrap();
    let attaching = fe2o3_amqp::Receiver::attach(&mut client.session, "in", "$cbs");
    let mut replies = soon("attach", attaching).await.unwrap();
    hub.inject(&Fault::new(FaultKind::KillAmqpCBSLinkReq))
        .unwrap();
    assert_eq!(detached(&mut requests).await.0, "amqp:link:detach-forced");
    assert!(
        timeout(A_WHILE, replies.recv::<String>()).await.is_err(),
        "not this one"
    );
    hub.inject(&Fault::new(FaultKind::KillAmqpCBSLinkResp))
        .unwrap();
    assert!(soon("a detach", replies.recv::<String>()).await.is_err());
    client.authorise_again().await;
}

impl Client {
    async fn authorise_again(&mut self) {
        assert_eq!(self.put(&hub_token(60)).await.status, SimpleValue::Int(200));
    }
}

#[tokio::test]
async fn connections_are_refused_or_closed_at_each_step() {
    let hub = start(|_| {}).await;
    let address = hub.amqp_addr().unwrap();
    let open = async || {
        let stream = TcpStream::connect(address).await?;
        let opening = Connection::builder()
            .container_id("c")
            .open_with_stream(stream);
        soon("open", opening).await.map_err(std::io::Error::other)
    };
    for kind in [FaultKind::RefuseConnections, FaultKind::CloseDuringOpen] {
        hub.inject(&Fault::new(kind)).unwrap();
        assert!(open().await.is_err(), "{kind:?}");
        hub.clear_faults();
        open().await.unwrap();
    }
    hub.inject(&Fault::new(FaultKind::CloseDuringBegin))
        .unwrap();
    let mut connection = open().await.unwrap();
    let begun = soon("begin", fe2o3_amqp::Session::begin(&mut connection)).await;
    let ended = soon("the end", connection.on_close()).await;
    assert!(begun.is_err() || ended.is_err());
    hub.clear_faults();

    let mut client = Client::authorised(&hub).await;
    hub.inject(&Fault::new(FaultKind::CloseDuringAttach))
        .unwrap();
    let attaching = Sender::attach(&mut client.session, "d", "/devices/plain-1/messages/events");
    assert!(soon("an end", attaching).await.is_err());
    assert!(soon("the end", client.connection.on_close()).await.is_err());
}

#[tokio::test]
async fn a_black_hole_swallows_old_connections_and_new_ones() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    send(&mut sender, b"heard").await.unwrap();
    hub.inject(&Fault::new(FaultKind::BlackHole)).unwrap();
    assert!(
        timeout(A_WHILE, sender.send(data(b"unheard")))
            .await
            .is_err()
    );
    let mut stream = TcpStream::connect(hub.amqp_addr().unwrap()).await.unwrap();
    assert!(
        timeout(A_WHILE, stream.read_u8()).await.is_err(),
        "accepted, silent"
    );
    hub.clear_faults();
    assert!(
        timeout(A_WHILE, sender.send(data(b"unheard")))
            .await
            .is_err(),
        "for good"
    );
    let mut fresh = Client::authorised(&hub).await;
    let mut sender = fresh.events("plain-2").await.unwrap();
    send(&mut sender, b"heard").await.unwrap();
    assert_eq!(hub.ledger().count(), 2);
}

#[tokio::test]
async fn a_lasting_strike_hits_what_comes_back_and_then_ends() {
    let hub = start(|_| {}).await;
    let lasting = Fault::new(FaultKind::KillTcp).lasting(A_WHILE);
    hub.inject(&lasting).unwrap();
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    assert!(soon("the end", client.connection.on_close()).await.is_err());
    let over = async {
        while http(&hub, "GET", "/faults", b"").await.1["active"][0].is_object() {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the fault", over).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    send(&mut sender, b"x").await.unwrap();
}

#[tokio::test]
async fn a_key_can_be_taken_back_after_a_rotation() {
    let hub = start(|_| {}).await;
    let rotate = async |body: &str| {
        let path = "/policies/device/rotate";
        http(&hub, "POST", path, body.as_bytes()).await
    };
    assert_eq!(rotate(r#"{"which":"primary"}"#).await.0, 200);
    let scope = format!("{HOST}/devices");
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    let old = token(POLICY_KEY, &scope, 60, Some("device"));
    assert_eq!(client.put(&old).await.status, SimpleValue::Int(401));
    let key = STANDARD.encode(POLICY_KEY);
    let body = format!(r#"{{"which":"primary","key":"{key}"}}"#);
    assert_eq!(rotate(&body).await.0, 200);
    assert_eq!(client.put(&old).await.status, SimpleValue::Int(200));
    assert_eq!(
        rotate(r#"{"which":"primary","key":"no base64"}"#).await.0,
        400
    );
}
