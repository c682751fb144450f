//! Tokens: who is refused, what a good one opens, and what happens when it ends.

use crate::kit::{
    Client, DEVICE_KEY, HOST, POLICY_KEY, SECOND_KEY, detached, hub_token, refusal, send, start,
    token,
};
use fe2o3_amqp::types::messaging::{MessageId, Outcome};
use fe2o3_amqp::types::primitives::SimpleValue;
use iothub_gateway::emulator::config::{PolicyConfig, Rights};
use iothub_gateway::runtime::clock;
use serde_amqp::primitives::Uuid;
use std::time::Duration;

#[tokio::test]
async fn an_attach_before_the_token_is_refused_and_after_it_taken() {
    let hub = start(|_| {}).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    let (condition, _) = refusal(client.events("plain-1").await);
    assert_eq!(condition, "amqp:unauthorized-access");
    let reply = client.put(&hub_token(3600)).await;
    assert_eq!(reply.status, SimpleValue::Int(200));
    assert_eq!(reply.description, "OK");
    let mut sender = client.events("plain-1").await.unwrap();
    assert!(matches!(
        send(&mut sender, b"x").await.unwrap(),
        Outcome::Accepted(_)
    ));
    let stats = hub.stats();
    assert_eq!(
        (stats.attaches_refused, stats.attaches, stats.tokens_put),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn the_reply_names_the_request_in_its_own_type() {
    let hub = start(|_| {}).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    for id in [
        MessageId::Ulong(0),
        MessageId::String("a".to_owned()),
        MessageId::Uuid(Uuid::from([7; 16])),
        MessageId::Binary(vec![1, 2].into()),
    ] {
        for kind in [
            "servicebus.windows.net:sastoken",
            "azure-devices.net:sastoken",
        ] {
            let reply = client.put_as(&hub_token(60), id.clone(), kind).await;
            assert_eq!(reply.correlation_id.as_ref(), Some(&id));
            assert_eq!(reply.status, SimpleValue::Int(200));
        }
    }
    let reply = client
        .put_as(&hub_token(60), MessageId::Ulong(9), "bearer")
        .await;
    assert_eq!(reply.status, SimpleValue::Int(400));
}

#[tokio::test]
async fn bad_tokens_are_refused_with_the_service_s_words() {
    let hub = start(|_| {}).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    let scope = format!("{HOST}/devices");
    let device = |id: &str| format!("{HOST}/devices/{id}");
    let signature = "invalid signature. It does not match either the primary or secondary key.";
    let cases = [
        (
            token(b"wrong", &scope, 3600, Some("device")),
            401,
            signature,
        ),
        (
            token(POLICY_KEY, &scope, 3600, Some("nobody")),
            401,
            signature,
        ),
        (
            token(POLICY_KEY, &scope, -301, Some("device")),
            401,
            "The specified SAS token is expired",
        ),
        (
            token(
                POLICY_KEY,
                "otherhub.azure-devices.net/devices",
                3600,
                Some("device"),
            ),
            401,
            "not of this IotHub",
        ),
        (
            token(b"any", &device("thermo-1"), 3600, None),
            401,
            signature,
        ),
        (
            token(DEVICE_KEY, &device("ghost"), 3600, None),
            404,
            "Device ghost at IotHub myhub not registered.",
        ),
        ("no token at all".to_owned(), 400, "malformed"),
    ];
    for (token, status, words) in cases {
        let reply = client.put(&token).await;
        assert_eq!(reply.status, SimpleValue::Int(status), "{reply:?}");
        assert!(reply.description.contains(words), "{reply:?}");
    }
    let (condition, _) = refusal(client.events("thermo-1").await);
    assert_eq!(condition, "amqp:unauthorized-access");
    assert_eq!(hub.stats().tokens_refused, 7);
    // Within the skew an ended token still counts, and the secondary key signs as well.
    let reply = client
        .put(&token(SECOND_KEY, &scope, -290, Some("device")))
        .await;
    assert_eq!(reply.status, SimpleValue::Int(200));
}

#[tokio::test]
async fn a_token_opens_its_scope_and_nothing_beside_it() {
    let hub = start(|config| {
        config.policies.push(PolicyConfig {
            name: "service".to_owned(),
            rights: Rights {
                service_connect: true,
                ..Rights::default()
            },
            ..config.policies[0].clone()
        });
    })
    .await;
    let device = format!("{HOST}/devices/thermo-1");
    let cases = [
        (
            token(
                POLICY_KEY,
                &format!("{HOST}/devicesX"),
                3600,
                Some("device"),
            ),
            false,
            false,
        ),
        (token(POLICY_KEY, HOST, 3600, Some("device")), true, true),
        (token(POLICY_KEY, HOST, 3600, Some("service")), false, false),
        (token(DEVICE_KEY, &device, 3600, None), true, false),
        (
            token(POLICY_KEY, &device, 3600, Some("device")),
            true,
            false,
        ),
        (
            token(
                POLICY_KEY,
                &format!("{HOST}/devices/thermo"),
                3600,
                Some("device"),
            ),
            false,
            false,
        ),
    ];
    for (token, own, other) in cases {
        let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
        assert_eq!(
            client.put(&token).await.status,
            SimpleValue::Int(200),
            "{token}"
        );
        assert_eq!(client.events("thermo-1").await.is_ok(), own, "{token}");
        assert_eq!(client.events("plain-1").await.is_ok(), other, "{token}");
    }
}

#[tokio::test]
async fn the_thousand_and_first_token_is_one_too_many() {
    let hub = start(|config| config.limits.tokens_per_connection = 2).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    let scoped = |id: &str| {
        token(
            POLICY_KEY,
            &format!("{HOST}/devices/{id}"),
            60,
            Some("device"),
        )
    };
    for id in ["a", "b", "a"] {
        assert_eq!(client.put(&scoped(id)).await.status, SimpleValue::Int(200));
    }
    let reply = client.put(&scoped("c")).await;
    assert_eq!(reply.status, SimpleValue::Int(500));
    assert!(
        reply
            .description
            .starts_with("The maximum number of tokens per connection")
    );
}

#[tokio::test]
async fn a_link_whose_token_ends_is_detached_and_others_stay() {
    let hub = start(|config| config.limits.token_skew = Duration::ZERO).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    client
        .put(&token(
            DEVICE_KEY,
            &format!("{HOST}/devices/thermo-1"),
            2,
            None,
        ))
        .await;
    let other = format!("{HOST}/devices/plain-1");
    client
        .put(&token(POLICY_KEY, &other, 3600, Some("device")))
        .await;
    let mut ends = client.events("thermo-1").await.unwrap();
    let mut stays = client.events("plain-1").await.unwrap();
    let (condition, description) = detached(&mut ends).await;
    assert_eq!(condition, "amqp:unauthorized-access");
    assert_eq!(description, "Token Invalid.");
    assert!(matches!(
        send(&mut stays, b"x").await.unwrap(),
        Outcome::Accepted(_)
    ));
    assert_eq!(hub.stats().detaches_token, 1);
    assert!(client.events("thermo-1").await.is_err());
}

#[tokio::test]
async fn renewals_keep_links_while_messages_flow() {
    let hub = start(|config| config.limits.token_skew = Duration::ZERO).await;
    let mut client = Client::connect(hub.amqp_addr().unwrap()).await;
    client.put(&hub_token(3)).await;
    let mut sender = client.events("plain-1").await.unwrap();
    let mut sent = 0;
    for _ in 0..4 {
        let started = clock::mono();
        // Well inside a token's life of two to three seconds.
        while clock::mono().since(started) < Duration::from_millis(900) {
            assert!(matches!(
                send(&mut sender, b"x").await.unwrap(),
                Outcome::Accepted(_)
            ));
            sent += 1;
        }
        assert_eq!(
            client.put(&hub_token(3)).await.status,
            SimpleValue::Int(200)
        );
    }
    assert_eq!(
        (hub.ledger().count(), hub.stats().detaches_token),
        (sent, 0)
    );
}

#[tokio::test]
async fn a_plain_login_lives_as_long_as_its_token() {
    use fe2o3_amqp::Connection;
    use fe2o3_amqp::sasl_profile::SaslProfile;
    let hub = start(|config| config.limits.token_skew = Duration::ZERO).await;
    let stream = tokio::net::TcpStream::connect(hub.amqp_addr().unwrap())
        .await
        .unwrap();
    let profile = SaslProfile::Plain {
        username: "device@sas.root.myhub".into(),
        password: hub_token(3),
    };
    let opening = Connection::builder()
        .container_id("plain")
        .sasl_profile(profile)
        .open_with_stream(stream);
    let mut client = Client::begin(opening.await.unwrap()).await;
    let mut sender = client.events("plain-1").await.unwrap();
    send(&mut sender, b"x").await.unwrap();
    let closed = crate::kit::soon("a close", client.connection.on_close())
        .await
        .unwrap_err();
    assert!(
        format!("{closed:?}").contains("Token Invalid."),
        "{closed:?}"
    );
}
