//! Our client against the library's acceptor, in memory.

use super::pair::{at, client, send_bytes};
use crate::amqp::sasl::{Mechanism, Sasl};
use crate::amqp::{Closed, Connection, Event, Outcome, receiver, sender};
use bytes::{Bytes, BytesMut};
use fe2o3_amqp::Delivery;
use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, SaslAnonymousMechanism, SessionAcceptor,
};
use fe2o3_amqp::types::messaging::{Body, Data, Message};
use fe2o3_amqp::types::primitives::Binary;
use serde_amqp::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Accepts everything: messages with odd first byte are rejected; receivers get one message.
async fn acceptor(stream: DuplexStream) {
    let acceptor = ConnectionAcceptor::builder()
        .container_id("library")
        .max_frame_size(512)
        .sasl_acceptor(SaslAnonymousMechanism {})
        .build();
    let mut connection = acceptor.accept(stream).await.expect("a connection");
    let sessions = SessionAcceptor::new();
    let mut session = sessions.accept(&mut connection).await.expect("a session");
    let links = LinkAcceptor::new();
    let mut held = Vec::new();
    while let Ok(link) = links.accept(&mut session).await {
        held.push(tokio::spawn(serve(link)));
    }
    let _ = connection.on_close().await;
}

async fn serve(link: LinkEndpoint) {
    match link {
        LinkEndpoint::Sender(mut sender) => {
            let data = Data(Binary::from(vec![8; 3_000]));
            let sent = sender.send(Message::from(data)).await.expect("an outcome");
            assert!(sent.is_accepted());
            let _ = sender.on_detach().await;
        }
        LinkEndpoint::Receiver(mut receiver) => {
            while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
                settle(&receiver, delivery).await;
            }
        }
    }
}

async fn settle(receiver: &fe2o3_amqp::Receiver, delivery: Delivery<Body<Value>>) {
    receiver.accept(&delivery).await.expect("accepts");
}

/// Carries bytes between engine and stream until `done`.
async fn drive(
    engine: &mut Connection,
    stream: &mut DuplexStream,
    mut turn: impl FnMut(&mut Connection, Event) -> bool,
) {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        while let Some(event) = engine.poll_event() {
            if turn(engine, event) {
                return;
            }
        }
        if engine.write(&mut output, at(0.0)) > 0 {
            stream.write_all(&output).await.expect("a peer that reads");
            output.clear();
            continue;
        }
        let read = stream.read_buf(&mut input).await.expect("readable");
        if read == 0 {
            engine.lost();
        }
        engine.feed(&mut input, at(0.0));
    }
}

#[tokio::test]
async fn the_library_understands_us_and_we_it() {
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let peer = tokio::spawn(acceptor(theirs));
    let mut config = client();
    config.sasl = Sasl::Client(Mechanism::Anonymous, None);
    let mut engine = Connection::new(config, at(0.0));
    let mut outcomes = Vec::new();
    let mut received = 0;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    drive(&mut engine, &mut ours, |engine, event| {
        match event {
            Event::Opened(_) => {
                engine.begin().expect("open");
            }
            Event::Begun { session, .. } => {
                for token in 0..20 {
                    let link = engine.attach(session, sender("up", "to"), 0, token);
                    up.push(link.expect("mapped"));
                    let link = engine.attach(session, receiver("down", "from"), 5, token);
                    down.push(link.expect("mapped"));
                }
            }
            Event::Attached { link, token, .. } if up.contains(&link) => {
                for number in 0..3 {
                    let message = token * 10 + number;
                    let _ = send_bytes(engine, link, body(message), false, message);
                }
            }
            // No credit came with the answer: one message more for each link that waits.
            Event::Credit { link, token, .. } => {
                for number in 0..3 {
                    let message = token * 10 + number;
                    send_bytes(engine, link, body(message), false, message).expect("credit");
                }
            }
            Event::Outcome {
                delivery, outcome, ..
            } => {
                assert_eq!(outcome, Outcome::Accepted);
                outcomes.push(delivery);
            }
            Event::Delivery {
                delivery, payload, ..
            } => {
                assert!(payload.len() > 3_000);
                engine.settle(delivery, &Outcome::Accepted).expect("waits");
                received += 1;
            }
            Event::Attached { .. } => {}
            Event::Closed(closed) => {
                assert!(matches!(closed, Closed::Local), "{closed:?}");
                return true;
            }
            Event::Detached { .. } | Event::Ended { .. } => {}
            other => panic!("{other:?}"),
        }
        if outcomes.len() == 60 && received == 20 {
            outcomes.sort_unstable();
            outcomes.push(u64::MAX);
            for link in up.drain(..).chain(down.drain(..)) {
                engine.detach(link, None).expect("attached");
            }
            engine.close(None, at(0.0));
        }
        false
    })
    .await;
    drop(ours);
    peer.await.expect("the acceptor did not panic");
}

/// A data section larger than the library's frames, for some.
fn body(number: u64) -> Bytes {
    let size = if number.is_multiple_of(2) { 1_200 } else { 40 };
    let mut bytes = vec![0x00, 0x53, 0x75, 0xb0, 0, 0, (size >> 8) as u8, size as u8];
    bytes.resize(8 + size, 0x2e);
    bytes.into()
}
