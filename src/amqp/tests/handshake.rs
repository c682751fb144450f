//! Protocol headers, SASL, OPEN.

use super::pair::{Pair, Said, at, client, events, open, parse, server};
use crate::amqp::sasl::{Mechanism, Sasl};
use crate::amqp::{BeginError, Closed, Connection, Event, performative};
use crate::config::secret::Secret;
use bytes::BytesMut;
use fe2o3_amqp_types::sasl::SaslCode;

fn with_sasl(mechanism: Mechanism) -> Pair {
    let mut ours = client();
    ours.sasl = Sasl::Client(mechanism, Some("hub".to_owned()));
    let mut theirs = server();
    theirs.sasl = Sasl::Server {
        mechanisms: vec!["EXTERNAL", "MSSBCBS", "ANONYMOUS", "PLAIN"],
        required: false,
    };
    let mut pair = Pair::new(ours, theirs);
    pair.run();
    pair
}

#[test]
fn every_mechanism_reaches_the_server_and_its_verdict_counts() {
    let plain = Mechanism::Plain {
        user: "device".to_owned(),
        password: Secret::from("word"),
    };
    let cases = [
        (Mechanism::Anonymous, "ANONYMOUS", &b""[..]),
        (Mechanism::External, "EXTERNAL", b""),
        (Mechanism::Mssbcbs, "MSSBCBS", b""),
        (plain, "PLAIN", b"\0device\0word"),
    ];
    for (mechanism, name, expected) in cases {
        let mut pair = with_sasl(mechanism);
        let [
            Event::SaslInit {
                mechanism,
                response,
                hostname,
            },
        ] = &pair.at_server[..]
        else {
            panic!("{:?}", pair.at_server);
        };
        assert_eq!((&**mechanism, response.expose()), (name, expected));
        assert_eq!(hostname.as_deref(), Some("hub"));
        pair.server.sasl_outcome(SaslCode::Ok);
        pair.run();
        assert!(matches!(pair.at_client[..], [Event::Opened(_)]));
    }
}

#[test]
fn fe2o3_pr344_a_failed_sasl_outcome_ends_the_connection() {
    for code in [SaslCode::Auth, SaslCode::Sys, SaslCode::SysTemp] {
        let mut pair = with_sasl(Mechanism::Anonymous);
        pair.server.sasl_outcome(code.clone());
        pair.run();
        let [Event::Closed(Closed::Sasl(found))] = &pair.at_client[..] else {
            panic!("{:?}", pair.at_client);
        };
        assert_eq!(*found, code);
        assert_eq!(pair.client.begin(), Err(BeginError::NotOpen));
    }
}

#[test]
fn a_mechanism_that_is_not_offered_is_not_used() {
    let mut ours = client();
    ours.sasl = Sasl::Client(Mechanism::Mssbcbs, None);
    let mut theirs = server();
    theirs.sasl = Sasl::Server {
        mechanisms: vec!["PLAIN", "EXTERNAL"],
        required: true,
    };
    let mut pair = Pair::new(ours, theirs);
    pair.run();
    let [Event::Closed(Closed::Mechanism(offered))] = &pair.at_client[..] else {
        panic!("{:?}", pair.at_client);
    };
    assert_eq!(offered, "PLAIN EXTERNAL");
}

#[test]
fn a_server_serves_clients_with_and_without_sasl_unless_it_is_required() {
    for (required, expected) in [(false, true), (true, false)] {
        let mut theirs = server();
        theirs.sasl = Sasl::Server {
            mechanisms: vec!["ANONYMOUS"],
            required,
        };
        let mut pair = Pair::new(client(), theirs);
        pair.run();
        let opened = matches!(pair.at_client[..], [Event::Opened(_)]);
        assert_eq!(opened, expected, "{:?}", pair.at_client);
    }
}

#[test]
fn another_protocol_is_named_and_refused() {
    for header in [
        *b"AMQP\x00\x00\x09\x01",
        *b"HTTP/1.1",
        *b"AMQP\x02\x01\x00\x00",
    ] {
        let mut connection = Connection::new(client(), at(0.0));
        connection.feed(&mut BytesMut::from(&header[..]), at(0.0));
        let found = events(&mut connection);
        assert!(matches!(found[..], [Event::Closed(Closed::Header(h))] if h == header));
        let mut connection = Connection::new(server(), at(0.0));
        connection.feed(&mut BytesMut::from(&header[..]), at(0.0));
        let mut out = BytesMut::new();
        connection.write(&mut out, at(0.0));
        assert_eq!(&out[..], b"AMQP\x00\x01\x00\x00", "2.2: say what is spoken");
    }
}

#[test]
fn a_handshake_that_takes_too_long_ends() {
    let mut connection = Connection::new(client(), at(0.0));
    assert_eq!(connection.deadline(), at(30.0));
    connection.tick(at(29.9));
    assert!(!connection.is_over());
    connection.tick(at(30.0));
    let found = events(&mut connection);
    assert!(matches!(found[..], [Event::Closed(Closed::Timeout)]));
}

#[test]
fn a_max_frame_size_below_512_is_refused() {
    let mut connection = Connection::new(client(), at(0.0));
    let mut bytes = BytesMut::from(&b"AMQP\x00\x01\x00\x00"[..]);
    let kind = crate::amqp::frame::Kind::Amqp;
    performative::encode(&mut bytes, kind, 0, &open(511, 0), 512).expect("fits");
    connection.feed(&mut bytes, at(0.0));
    let mut out = BytesMut::new();
    connection.write(&mut out, at(0.0));
    let Some((_, Said::Close(close))) = parse(&out).pop() else {
        panic!("no close");
    };
    let condition = super::pair::condition(close.error.as_ref());
    assert_eq!(condition, "amqp:invalid-field");
}

#[test]
fn channel_max_of_the_peer_is_kept() {
    let mut theirs = server();
    theirs.limits.channel_max = 0;
    let (mut pair, _) = Pair::open(client(), theirs);
    assert_eq!(pair.client.begin(), Err(BeginError::ChannelMax));
}
