//! Events links: what is taken, what is refused, and what the ledger says about it.

use crate::kit::{
    Client, DEVICE_KEY, HOST, condition, data, detached, http, refusal, send, soon, start, token,
};
use fe2o3_amqp::types::definitions::Fields;
use fe2o3_amqp::types::messaging::message::__private::Serializable;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp::{Sendable, Sender};
use iothub_gateway::emulator::config::DisabledDevice;
use serde_amqp::Value;
use sha2::{Digest, Sha256};

#[tokio::test]
async fn an_accepted_message_is_in_the_ledger_with_its_hash_and_properties() {
    let hub = start(|_| {}).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    client
        .put(&token(
            DEVICE_KEY,
            &format!("{HOST}/devices/thermo-1"),
            60,
            None,
        ))
        .await;
    let mut sender = client.events("thermo-1").await.unwrap();
    let message = Message::builder()
        .properties(Properties {
            message_id: Some(MessageId::String("m-1".to_owned())),
            ..Properties::new()
        })
        .application_properties(
            ApplicationProperties::builder()
                .insert("unit", "C".to_owned())
                .build(),
        )
        .data(b"21.5".as_slice())
        .build();
    let outcome = soon("an outcome", sender.send(message)).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)));
    let entry = &hub.ledger().messages(None, 0, 10)[0];
    assert_eq!(
        (entry.seq, entry.device(), entry.module()),
        (1, "thermo-1", None)
    );
    assert_eq!(entry.sha256, <[u8; 32]>::from(Sha256::digest(b"21.5")));
    assert_eq!(entry.property("unit"), Some("C"));
    assert_eq!(
        entry.auth_method(),
        r#"{"scope":"device","type":"sas","issuer":"iothub"}"#
    );
    assert_eq!(
        entry.content.as_ref().unwrap().system[0],
        ("message-id".into(), "m-1".into())
    );
}

#[tokio::test]
async fn every_form_of_the_address_leads_to_the_device() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    for (n, address) in [
        "/devices/plain-1/messages/events".to_owned(),
        "devices/plain-1/messages/events".to_owned(),
        format!("amqps://{HOST}/devices/plain-1/messages/events"),
        "/Devices/plain%2D1/Messages/Events".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut sender = client.sender(&format!("form-{n}"), &address).await.unwrap();
        assert!(matches!(
            send(&mut sender, b"x").await.unwrap(),
            Outcome::Accepted(_)
        ));
    }
    assert_eq!(hub.ledger().messages(Some("plain-1"), 0, 10).len(), 4);
}

#[tokio::test]
async fn links_that_cannot_be_are_refused_with_the_reason() {
    let hub = start(|config| config.devices[2].enabled = false).await;
    let mut client = Client::authorised(&hub).await;
    let (unknown, text) = refusal(client.events("ghost").await);
    assert_eq!(unknown, "amqp:not-found");
    assert!(text.contains("404001"), "{text}");
    assert_eq!(refusal(client.events("plain-2").await).0, "amqp:not-found");
    for (address, expected, words) in [
        (
            "/nonsense",
            "amqp:not-found",
            "did not match any of the expected formats",
        ),
        ("/devices/plain-1/twin", "amqp:invalid-field", "api-version"),
        (
            "/devices/plain-1/methods/devicebound",
            "amqp:invalid-field",
            "api-version",
        ),
        (
            "/messages/devicebound",
            "amqp:unauthorized-access",
            "Unauthorized",
        ),
        (
            "/devices/plain-1/messages/devicebound",
            "amqp:not-allowed",
            "command queue",
        ),
        (
            "/devices/plain-1/modules/m/messages/events",
            "amqp:not-found",
            "Module m",
        ),
    ] {
        let (condition, text) = refusal(client.sender(address, address).await);
        assert_eq!(condition, expected, "{address}");
        assert!(text.contains(words), "{address}: {text}");
    }
    // The session took no harm.
    let mut sender = client.events("plain-1").await.unwrap();
    assert!(matches!(
        send(&mut sender, b"x").await.unwrap(),
        Outcome::Accepted(_)
    ));
}

#[tokio::test]
async fn a_disabled_device_may_be_refused_as_unauthorized() {
    let hub = start(|config| {
        config.devices[2].enabled = false;
        config.switches.disabled_device = DisabledDevice::Unauthorized;
    })
    .await;
    let mut client = Client::authorised(&hub).await;
    let (condition, text) = refusal(client.events("plain-2").await);
    assert_eq!(condition, "amqp:unauthorized-access");
    assert!(text.contains("403012"), "{text}");
}

#[tokio::test]
async fn the_attach_answer_echoes_properties_and_names_the_size() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut properties = Fields::new();
    properties.insert(
        "com.microsoft:client-version".into(),
        Value::String("test/1".into()),
    );
    let attach = Sender::builder()
        .name("echo")
        .target("/devices/plain-1/messages/events")
        .properties(properties.clone())
        .attach(&mut client.session);
    let sender = soon("attach", attach).await.unwrap();
    assert_eq!(sender.max_message_size(), Some(1_048_576));
    sender.properties(|echoed| {
        assert_eq!(
            echoed.as_ref().unwrap().get("com.microsoft:client-version"),
            properties.get("com.microsoft:client-version")
        );
    });
}

#[tokio::test]
async fn a_message_over_256_kib_is_rejected_and_the_link_stays() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    let outcome = send(&mut sender, &vec![b'x'; 300 * 1024]).await.unwrap();
    let Outcome::Rejected(rejected) = outcome else {
        panic!("{outcome:?}")
    };
    let error = rejected.error.unwrap();
    assert_eq!(condition(&error), "amqp:link:message-size-exceeded");
    let text = error.description.unwrap();
    assert!(
        text.ends_with("bytes which is greater than the max size 262144 bytes allowed."),
        "{text}"
    );
    assert_eq!(hub.ledger().count(), 0);
    assert!(matches!(
        send(&mut sender, &vec![b'x'; 250 * 1024]).await,
        Ok(Outcome::Accepted(_))
    ));
    assert_eq!(hub.stats().rejected_too_large, 1);
}

#[tokio::test]
async fn a_batch_becomes_its_messages() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    let parts = ["one", "two", "three"]
        .map(|text| Data::from(serde_amqp::to_vec(&Serializable(data(text.as_bytes()))).unwrap()));
    let message = Message::builder().data_batch(parts).build();
    let sendable = Sendable::builder()
        .message(message)
        .message_format(0x8001_3700)
        .build();
    let outcome = soon("an outcome", sender.send(sendable)).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    let entries = hub.ledger().messages(None, 0, 10);
    let bodies: Vec<_> = entries
        .iter()
        .map(|entry| entry.body().unwrap().clone())
        .collect();
    assert_eq!(bodies, ["one", "two", "three"]);
    let junk = Message::builder()
        .data_batch([Data::from(b"junk".to_vec())])
        .build();
    let sendable = Sendable::builder()
        .message(junk)
        .message_format(0x8001_3700)
        .build();
    let outcome = soon("an outcome", sender.send(sendable)).await.unwrap();
    assert!(matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
}

#[tokio::test]
async fn credit_is_topped_up_over_thousands_of_messages_in_order() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    let total = 3_000_u32;
    let mut outcomes = Vec::new();
    for n in 0..total {
        let sending = sender.send_batchable(data(n.to_string().as_bytes()));
        outcomes.push(soon("credit", sending).await.unwrap());
    }
    for outcome in outcomes {
        assert!(matches!(
            soon("an outcome", outcome).await,
            Ok(Outcome::Accepted(_))
        ));
    }
    let entries = hub.ledger().messages(None, 0, 10_000);
    let expected: Vec<_> = (0..total).map(|n| n.to_string()).collect();
    assert_eq!(
        entries
            .iter()
            .map(|e| e.body().unwrap())
            .collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn disabling_a_device_detaches_its_links_and_no_others() {
    let hub = start(|_| {}).await;
    let mut client = Client::authorised(&hub).await;
    let mut ends = client.events("plain-1").await.unwrap();
    let mut stays = client.events("plain-2").await.unwrap();
    let body = br#"{"status":"disabled"}"#;
    let (status, view) = http(&hub, "PUT", "/devices/plain-1", body).await;
    assert_eq!((status, view["status"].as_str()), (200, Some("disabled")));
    assert_eq!(detached(&mut ends).await.0, "amqp:not-found");
    assert!(matches!(
        send(&mut stays, b"x").await,
        Ok(Outcome::Accepted(_))
    ));
    assert_eq!(refusal(client.events("plain-1").await).0, "amqp:not-found");
    http(&hub, "PUT", "/devices/plain-1", br#"{"status":"enabled"}"#).await;
    let mut again = client
        .sender("again", "/devices/plain-1/messages/events")
        .await
        .unwrap();
    assert_eq!(http(&hub, "DELETE", "/devices/plain-1", b"").await.0, 200);
    assert_eq!(detached(&mut again).await.0, "amqp:not-found");
    assert_eq!(hub.stats().detaches_device, 2);
}

#[tokio::test]
async fn throttles_refuse_what_is_beyond_the_rate() {
    let hub = start(|config| {
        config.limits.attach_rate = Some(1);
        config.limits.d2c_rate = Some(1);
    })
    .await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    let (refused, text) = refusal(client.events("plain-2").await);
    assert_eq!(refused, "amqp:link:detach-forced");
    assert!(text.contains("Server Busy"));
    assert!(matches!(
        send(&mut sender, b"x").await,
        Ok(Outcome::Accepted(_))
    ));
    let outcome = send(&mut sender, b"y").await.unwrap();
    let Outcome::Rejected(rejected) = outcome else {
        panic!("{outcome:?}")
    };
    let error = rejected.error.unwrap();
    assert_eq!(
        condition(&error),
        "com.microsoft:device-container-throttled"
    );
    let stats = hub.stats();
    assert_eq!((stats.throttled_attaches, stats.throttled_sends), (1, 1));
}

#[tokio::test]
async fn a_full_ledger_accepts_nothing_it_cannot_show() {
    let hub = start(|config| config.limits.ledger_entries_max = 1).await;
    let mut client = Client::authorised(&hub).await;
    let mut sender = client.events("plain-1").await.unwrap();
    assert!(matches!(
        send(&mut sender, b"x").await,
        Ok(Outcome::Accepted(_))
    ));
    assert!(matches!(
        send(&mut sender, b"y").await,
        Ok(Outcome::Rejected(_))
    ));
    let (_, answer) = http(&hub, "DELETE", "/messages?through=1", b"").await;
    assert_eq!(answer["forgotten"], 1);
    assert!(matches!(
        send(&mut sender, b"z").await,
        Ok(Outcome::Accepted(_))
    ));
    assert_eq!((hub.ledger().count(), hub.stats().ledger_full), (2, 1));
}
