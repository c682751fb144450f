//! The AMQP engine alone, without sockets: what a message, a settlement and a link cost.
//!
//! The peer of `send_settle` and `receive_settle` is single frames written here, so that only one
//! engine is measured; `attach_detach` is both engines. Operations on many links have the same on
//! few as their reference: the ratio says whether the number of links shows.

use crate::support::Suite;
use bytes::{Bytes, BytesMut};
use iothub_gateway::amqp::frame::{self, Kind};
use iothub_gateway::amqp::performative::{Disposition, Transfer};
use iothub_gateway::amqp::{
    Config, Connection, Event, LinkId, Message, Outcome, SessionId, Side, receiver, sender,
};
use iothub_gateway::runtime::clock::Mono;

const CREDIT: u32 = i32::MAX as u32;
const ACCEPTED: &[u8] = &[0x00, 0x53, 0x24, 0x45];
/// A data section (3.2.6) of 256 bytes, its head.
const HEAD: &[u8] = &[0x00, 0x53, 0x75, 0xb0, 0, 0, 1, 0];
const FEW_LINKS: &str = "100 links";

/// All of them.
pub fn all(suite: &mut Suite) {
    let many = if suite.full() { 20_000 } else { 1_000 };
    let (mut few, mut more) = (Sending::on(200), Sending::on(200));
    suite.op("send_settle_256_200_links", || few.one());
    suite.op("send_settle_256_64_a_turn", || more.turn(64));
    let (mut few, mut more) = (Sending::on(100), Sending::on(many));
    suite.versus(
        "send_settle_256_many_links",
        || more.one(),
        FEW_LINKS,
        || few.one(),
    );
    let mut receiving = Receiving::new();
    suite.op("receive_settle_256", || receiving.one());
    let (mut few, mut more) = (Pair::with_links(100).0, Pair::with_links(many).0);
    suite.versus(
        "attach_detach_many_links",
        || more.attach_detach(),
        FEW_LINKS,
        || few.attach_detach(),
    );
}

/// A client and a server that takes every link.
struct Pair {
    client: Connection,
    server: Connection,
    session: SessionId,
    to_server: BytesMut,
    to_client: BytesMut,
    detached: u32,
}

fn config(side: Side) -> Config {
    let mut config = Config::new(side, "bench");
    config.limits.session_window = CREDIT;
    config
}

impl Pair {
    fn new() -> Self {
        let now = Mono::default();
        let mut client = Connection::new(config(Side::Client), now);
        let mut server = Connection::new(config(Side::Server), now);
        let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
        for _ in 0..2 {
            client.write(&mut to_server, now);
            server.feed(&mut to_server, now);
            server.write(&mut to_client, now);
            client.feed(&mut to_client, now);
        }
        let session = client.begin().expect("an open connection");
        let mut pair = Self {
            client,
            server,
            session,
            to_server,
            to_client,
            detached: 0,
        };
        pair.turn();
        pair
    }

    /// With as many senders of the client, all with credit.
    fn with_links(links: u64) -> (Self, Vec<LinkId>) {
        let mut pair = Self::new();
        let ids = (0..links).map(|token| {
            let link = pair.attach(token);
            pair.turn();
            link
        });
        let ids = ids.collect();
        (pair, ids)
    }

    fn attach(&mut self, token: u64) -> LinkId {
        let attach = sender("up", "/devices/thermo-1/messages/events");
        let link = self.client.attach(self.session, attach, 0, token);
        link.expect("a mapped session")
    }

    /// Carries bytes there and back once, and answers what the server is asked.
    fn turn(&mut self) {
        let now = Mono::default();
        self.client.write(&mut self.to_server, now);
        self.server.feed(&mut self.to_server, now);
        while let Some(event) = self.server.poll_event() {
            if let Event::Attaching { link, attach } = event {
                let accepted = self.server.accept(link, *attach, CREDIT, 0);
                accepted.expect("a link that waits for it");
            }
        }
        self.server.write(&mut self.to_client, now);
        self.client.feed(&mut self.to_client, now);
        while let Some(event) = self.client.poll_event() {
            self.detached += u32::from(matches!(event, Event::Detached { .. }));
        }
    }

    fn attach_detach(&mut self) {
        let before = self.detached;
        let link = self.attach(0);
        self.turn();
        self.client.detach(link, None).expect("attached");
        self.turn();
        assert_eq!(self.detached, before + 1);
    }
}

/// Writes a frame of channel 0.
fn put(out: &mut BytesMut, performative: impl FnOnce(&mut BytesMut)) {
    let at = frame::begin(out, Kind::Amqp, 0);
    performative(out);
    frame::finish(out, at);
}

/// Messages of 256 bytes sent in turn on many links, each settled by its peer.
struct Sending {
    client: Connection,
    links: Vec<LinkId>,
    body: Bytes,
    sent: u32,
    output: BytesMut,
    input: BytesMut,
}

impl Sending {
    fn on(links: u64) -> Self {
        let (pair, links) = Pair::with_links(links);
        Self {
            client: pair.client,
            links,
            body: Bytes::from_static(&[0x2e; 256]),
            sent: 0,
            output: BytesMut::with_capacity(65_536),
            input: BytesMut::with_capacity(65_536),
        }
    }

    fn send(&mut self) {
        let message = Message {
            head: HEAD,
            body: self.body.clone(),
            settled: false,
            token: self.sent.into(),
        };
        let link = self.links[self.sent as usize % self.links.len()];
        let sent = self.client.send(link, &message);
        sent.expect("credit and window");
        self.sent += 1;
    }

    /// Sends as many, writes them at once, reads one disposition about all.
    fn turn(&mut self, messages: u32) {
        let first = self.sent;
        for _ in 0..messages {
            self.send();
        }
        self.output.clear();
        self.client.write(&mut self.output, Mono::default());
        let settled = Disposition {
            receiver: true,
            first,
            last: Some(self.sent - 1),
            settled: true,
            state: Some(ACCEPTED),
            batchable: false,
        };
        put(&mut self.input, |out| settled.encode(out));
        self.client.feed(&mut self.input, Mono::default());
        for token in first..self.sent {
            let event = self.client.poll_event();
            let Some(Event::Outcome {
                delivery, outcome, ..
            }) = event
            else {
                unreachable!("an outcome, not {event:?}");
            };
            assert!(delivery == u64::from(token) && outcome == Outcome::Accepted);
        }
    }

    fn one(&mut self) {
        self.turn(1);
    }
}

/// Messages of 256 bytes received and accepted.
struct Receiving {
    client: Connection,
    link: LinkId,
    received: u32,
    output: BytesMut,
    input: BytesMut,
}

impl Receiving {
    fn new() -> Self {
        let mut pair = Pair::new();
        let attach = receiver("down", "/devices/thermo-1/messages/devicebound");
        let link = pair.client.attach(pair.session, attach, CREDIT, 0);
        let link = link.expect("a mapped session");
        pair.turn();
        Self {
            client: pair.client,
            link,
            received: 0,
            output: BytesMut::with_capacity(65_536),
            input: BytesMut::with_capacity(65_536),
        }
    }

    fn one(&mut self) {
        let transfer = Transfer {
            handle: 0,
            delivery_id: Some(self.received),
            delivery_tag: Some(&[7]),
            message_format: Some(0),
            ..Transfer::default()
        };
        put(&mut self.input, |out| {
            transfer.encode(out);
            out.extend_from_slice(HEAD);
            out.extend_from_slice(&[0x2e; 256]);
        });
        self.client.feed(&mut self.input, Mono::default());
        let event = self.client.poll_event();
        let Some(Event::Delivery { link, delivery, .. }) = event else {
            unreachable!("a delivery, not {event:?}");
        };
        assert_eq!(link, self.link);
        let settled = self.client.settle(delivery, &Outcome::Accepted);
        settled.expect("an unsettled delivery");
        self.output.clear();
        let written = self.client.write(&mut self.output, Mono::default());
        assert!(written > 0);
        self.received += 1;
    }
}
