//! Attach, flow, transfer and detach frames, as they stand on the wire.

use crate::kit::{condition, hub_token, soon, start};
use crate::raw::{AMQP, Raw, begin, open};
use fe2o3_amqp::types::definitions::{DeliveryTag, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp::types::messaging::message::__private::Serializable;
use fe2o3_amqp::types::messaging::{DeliveryState, Message, Source, Target, TargetArchetype};
use fe2o3_amqp::types::performatives::{Attach, Begin, Detach, Disposition, Flow, Open, Transfer};
use iothub_gateway::emulator::EmulatorHandle;
use tokio::io::AsyncWriteExt;

/// A session of a client that logged in by SASL PLAIN.
async fn session(hub: &EmulatorHandle) -> Raw {
    let mut raw = Raw::connect(hub).await;
    let response = format!("\0device@sas.root.myhub\0{}", hub_token(600));
    assert_eq!(raw.sasl("PLAIN", Some(&response)).await.code as u8, 0);
    raw.header(AMQP).await;
    raw.write(0, &open(None)).await;
    let _: Open = raw.read(0).await;
    raw.write(0, &begin(5_000)).await;
    let _: Begin = raw.read(0).await;
    raw
}

fn attach(name: &str, handle: u32, role: Role, address: &str) -> Attach {
    let node = Target::builder().address(address).build();
    let (source, target) = match role {
        Role::Sender => (Source::default(), node),
        Role::Receiver => (
            Source::builder().address(address).build(),
            Target::default(),
        ),
    };
    Attach {
        name: name.to_owned(),
        handle: handle.into(),
        initial_delivery_count: matches!(role, Role::Sender).then_some(0),
        role,
        snd_settle_mode: SenderSettleMode::Mixed,
        rcv_settle_mode: ReceiverSettleMode::First,
        source: Some(Box::new(source)),
        target: Some(Box::new(TargetArchetype::Target(target))),
        unsettled: None,
        incomplete_unsettled: false,
        max_message_size: Some(65_536),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

/// The first flow that carries this credit.
async fn credit(raw: &mut Raw, wanted: u32) -> Flow {
    loop {
        let flow: Flow = raw.read(0).await;
        if flow.link_credit == Some(wanted) {
            return flow;
        }
    }
}

async fn transfer(raw: &mut Raw, id: u32, body: &[u8], more: bool) {
    let performative = Transfer {
        handle: 0.into(),
        delivery_id: Some(id),
        delivery_tag: Some(DeliveryTag::from(id.to_be_bytes().to_vec())),
        message_format: Some(0),
        settled: Some(false),
        more,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    };
    let mut frame = vec![0, 0, 0, 0, 2, 0, 0, 0];
    frame.extend(serde_amqp::to_vec(&performative).unwrap());
    frame.extend_from_slice(body);
    let size = u32::try_from(frame.len()).unwrap();
    frame[..4].copy_from_slice(&size.to_be_bytes());
    raw.0.write_all(&frame).await.unwrap();
}

fn encoded(body: &[u8]) -> Vec<u8> {
    serde_amqp::to_vec(&Serializable(Message::builder().data(body).build())).unwrap()
}

#[tokio::test]
async fn an_events_link_gets_its_credit_and_a_top_up_after_a_hundred() {
    let hub = start(|_| {}).await;
    let mut raw = session(&hub).await;
    raw.write(
        0,
        &attach("d2c", 0, Role::Sender, "/devices/plain-1/messages/events"),
    )
    .await;
    let answer: Attach = raw.read(0).await;
    assert!(matches!(answer.role, Role::Receiver));
    assert_eq!(answer.name, "d2c");
    assert!(matches!(answer.rcv_settle_mode, ReceiverSettleMode::First));
    assert!(answer.target.is_some() && answer.source.is_some());
    credit(&mut raw, 1_000).await;
    for id in 0..100 {
        transfer(&mut raw, id, &encoded(b"x"), false).await;
        let settled: Disposition = raw.read(0).await;
        assert_eq!(
            (settled.first, settled.last, settled.settled),
            (id, None, true)
        );
        assert!(matches!(settled.role, Role::Receiver));
        assert!(matches!(settled.state, Some(DeliveryState::Accepted(_))));
    }
    let top_up = credit(&mut raw, 1_000).await;
    assert_eq!(top_up.delivery_count, Some(100));
    assert_eq!(hub.ledger().count(), 100);
}

#[tokio::test]
async fn a_message_larger_than_the_link_allows_costs_the_link() {
    let hub = start(|config| config.limits.link_message_bytes = 100_000).await;
    let mut raw = session(&hub).await;
    let mut request = attach("d2c", 0, Role::Sender, "/devices/plain-1/messages/events");
    request.max_message_size = None;
    raw.write(0, &request).await;
    let answer: Attach = raw.read(0).await;
    assert_eq!(answer.max_message_size, Some(100_000));
    credit(&mut raw, 1_000).await;
    let message = encoded(&vec![b'x'; 110_000]);
    let (first, second) = message.split_at(60_000);
    transfer(&mut raw, 0, first, true).await;
    transfer(&mut raw, 0, second, false).await;
    let detach: Detach = raw.read(0).await;
    assert!(detach.closed);
    assert_eq!(
        condition(&detach.error.unwrap()),
        "amqp:link:message-size-exceeded"
    );
    assert_eq!(hub.ledger().count(), 0);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_rejected_and_the_link_stays() {
    let hub = start(|_| {}).await;
    let mut raw = session(&hub).await;
    raw.write(
        0,
        &attach("d2c", 0, Role::Sender, "/devices/plain-1/messages/events"),
    )
    .await;
    let _: Attach = raw.read(0).await;
    credit(&mut raw, 1_000).await;
    for (id, junk) in [&b"junk"[..], b"\x00\x53\x75\xa0\xff", b"\x00\x53\x99\x40"]
        .iter()
        .enumerate()
    {
        let id = u32::try_from(id).unwrap();
        transfer(&mut raw, id, junk, false).await;
        let settled: Disposition = raw.read(0).await;
        let Some(DeliveryState::Rejected(rejected)) = settled.state else {
            panic!("{settled:?}")
        };
        assert_eq!(condition(&rejected.error.unwrap()), "amqp:decode-error");
    }
    transfer(&mut raw, 3, &encoded(b"x"), false).await;
    let settled: Disposition = raw.read(0).await;
    assert!(matches!(settled.state, Some(DeliveryState::Accepted(_))));
    assert_eq!(hub.stats().rejected_undecodable, 3);
}

#[tokio::test]
async fn a_refusal_is_a_null_terminus_and_a_closing_detach_with_the_reason() {
    let hub = start(|_| {}).await;
    for role in [Role::Sender, Role::Receiver] {
        let mut raw = session(&hub).await;
        raw.write(
            0,
            &attach("no", 0, role.clone(), "/devices/ghost/messages/events"),
        )
        .await;
        let answer: Attach = raw.read(0).await;
        match role {
            Role::Sender => assert!(answer.target.is_none()),
            Role::Receiver => assert!(answer.source.is_none()),
        }
        if matches!(role, Role::Sender) {
            // The library grants and takes back credit before the detach.
            credit(&mut raw, 0).await;
        }
        let detach: Detach = raw.read(0).await;
        assert!(detach.closed);
        assert_eq!(condition(&detach.error.unwrap()), "amqp:not-found");
    }
}

#[tokio::test]
async fn a_command_link_is_in_mode_second_with_the_client_s_size_and_address() {
    let hub = start(|_| {}).await;
    let mut raw = session(&hub).await;
    let address = "/devices/plain-1/messages/deviceBound";
    raw.write(0, &attach("c2d", 0, Role::Receiver, address))
        .await;
    let answer: Attach = raw.read(0).await;
    assert!(matches!(answer.role, Role::Sender));
    assert!(matches!(answer.rcv_settle_mode, ReceiverSettleMode::Second));
    assert_eq!(answer.max_message_size, Some(65_536));
    assert_eq!(answer.initial_delivery_count, Some(0));
    assert_eq!(answer.source.unwrap().address.as_deref(), Some(address));
}

#[tokio::test]
async fn the_request_link_of_cbs_has_credit_for_a_hundred() {
    let hub = start(|_| {}).await;
    let mut raw = session(&hub).await;
    raw.write(0, &attach("cbs", 0, Role::Sender, "$cbs")).await;
    let answer: Attach = raw.read(0).await;
    assert_eq!(answer.max_message_size, Some(65_536));
    credit(&mut raw, 100).await;
}

#[tokio::test]
async fn one_name_in_both_directions_ends_the_session_instead_of_hanging_it() {
    use fe2o3_amqp::types::performatives::End;
    let hub = start(|_| {}).await;
    let mut raw = session(&hub).await;
    raw.write(
        0,
        &attach("same", 0, Role::Sender, "/devices/plain-1/messages/events"),
    )
    .await;
    let _: Attach = raw.read(0).await;
    credit(&mut raw, 1_000).await;
    raw.write(
        0,
        &attach(
            "same",
            1,
            Role::Receiver,
            "/devices/plain-1/messages/devicebound",
        ),
    )
    .await;
    let end: End = soon("an end", raw.read(0)).await;
    assert_eq!(condition(&end.error.unwrap()), "amqp:not-allowed");
}
