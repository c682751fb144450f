//! However the bytes are cut, the same happens.

use super::pair::{Pair, client, send_bytes, server};
use crate::amqp::sasl::{Mechanism, Sasl};
use crate::amqp::{Event, Outcome};
use bytes::Bytes;
use fe2o3_amqp_types::sasl::SaslCode;

/// What both sides hear when everything goes over in pieces of `cut` bytes.
fn story(cut: usize) -> String {
    let mut ours = client();
    ours.sasl = Sasl::Client(Mechanism::Anonymous, None);
    ours.limits.frame_size = 512;
    let mut theirs = server();
    theirs.sasl = Sasl::Server {
        mechanisms: vec!["EXTERNAL", "ANONYMOUS"],
        required: true,
    };
    let mut pair = Pair::new(ours, theirs);
    pair.cut = cut;
    pair.run();
    assert!(matches!(pair.at_server[..], [Event::SaslInit { .. }]));
    pair.server.sasl_outcome(SaslCode::Ok);
    pair.run();
    let session = pair.client.begin().expect("open");
    pair.run();
    let link = pair.sender(session, 1);
    let (_, down) = pair.receiver(session, 9, 2);
    for size in [0, 10, 2_000] {
        let body = Bytes::from(vec![7; size]);
        send_bytes(&mut pair.client, link, body.clone(), false, size as u64).expect("credit");
        send_bytes(&mut pair.server, down, body, true, 0).expect("credit");
    }
    pair.run();
    for (delivery, _) in super::pair::take_deliveries(&mut pair.at_server.drain(..).collect()) {
        pair.server
            .settle(delivery, &Outcome::Released)
            .expect("waits");
    }
    pair.client.detach(link, None).expect("attached");
    pair.run();
    pair.client.close(None, pair.now);
    pair.run();
    format!("{:?}\n{:?}", pair.at_client, pair.at_server)
}

#[test]
fn frames_cut_at_every_byte_give_the_same_as_whole_ones() {
    let whole = story(0);
    assert!(whole.contains("Delivery") && whole.contains("Released") && whole.contains("Closed"));
    for cut in [1, 2, 3, 5, 7, 8, 9, 13, 64, 511] {
        assert_eq!(story(cut), whole, "pieces of {cut} bytes");
    }
}
