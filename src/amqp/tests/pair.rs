//! A client engine and a server engine in memory, or one engine and a peer made of single frames.

use crate::amqp::performative::{self, Performative, Transfer};
use crate::amqp::performative::{Attach, Begin, Close, Detach, Disposition, End, Flow, Open};
use crate::amqp::{
    Config, Connection, DeliveryId, Event, Fed, Limits, LinkId, Message, Outcome, SendError,
    SessionId, Side, frame, receiver, sender,
};
use crate::runtime::clock::Mono;
use bytes::{Bytes, BytesMut};
use serde_amqp::serde::Serialize;
use std::time::Duration;

/// `seconds` after the beginning of time.
pub fn at(seconds: f64) -> Mono {
    Mono::from_start(Duration::from_secs_f64(seconds))
}

pub fn client() -> Config {
    Config::new(Side::Client, "client")
}

pub fn server() -> Config {
    Config::new(Side::Server, "server")
}

/// Everything an engine has to tell.
pub fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

/// Sends a small message whose token is `token`.
pub fn send(from: &mut Connection, link: LinkId, token: u64) -> Result<DeliveryId, SendError> {
    let body = Bytes::from_static(b"\x00\x53\x75\xa0\x01x");
    send_bytes(from, link, body, false, token)
}

pub fn send_bytes(
    from: &mut Connection,
    link: LinkId,
    body: Bytes,
    settled: bool,
    token: u64,
) -> Result<DeliveryId, SendError> {
    let message = Message {
        head: &[],
        body,
        settled,
        token,
    };
    from.send(link, &message)
}

/// Both engines; the server accepts every link and gives `credit`.
pub struct Pair {
    pub client: Connection,
    pub server: Connection,
    pub credit: u32,
    pub now: Mono,
    /// Events of either side that the pair did not handle itself.
    pub at_client: Vec<Event>,
    pub at_server: Vec<Event>,
    /// How many bytes went over at once; 0 is all.
    pub cut: usize,
    to_server: BytesMut,
    to_client: BytesMut,
}

impl Pair {
    pub fn new(client: Config, server: Config) -> Self {
        Self {
            client: Connection::new(client, at(0.0)),
            server: Connection::new(server, at(0.0)),
            credit: 100,
            now: at(0.0),
            at_client: Vec::new(),
            at_server: Vec::new(),
            cut: 0,
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
        }
    }

    /// Opened, with one session.
    pub fn open(client: Config, server: Config) -> (Self, SessionId) {
        let mut pair = Self::new(client, server);
        pair.run();
        let session = pair.client.begin().expect("an open connection");
        pair.run();
        pair.at_client.clear();
        pair.at_server.clear();
        (pair, session)
    }

    pub fn plain() -> (Self, SessionId) {
        Self::open(client(), server())
    }

    /// Carries bytes until nobody has more to say.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let mut moved = self.client.write(&mut self.to_server, self.now);
            moved += self.server.write(&mut self.to_client, self.now);
            let fed = |to: &mut Connection, bytes: &mut BytesMut, cut: usize, now| {
                if cut == 0 {
                    return to.feed(bytes, now);
                }
                let mut held = BytesMut::new();
                while !bytes.is_empty() {
                    held.extend_from_slice(&bytes.split_to(cut.min(bytes.len())));
                    to.feed(&mut held, now);
                }
                bytes.unsplit(held);
                Fed::Hungry
            };
            fed(&mut self.server, &mut self.to_server, self.cut, self.now);
            fed(&mut self.client, &mut self.to_client, self.cut, self.now);
            moved += self.handle();
            if moved == 0 {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    fn handle(&mut self) -> usize {
        let mut handled = 0;
        while let Some(event) = self.server.poll_event() {
            handled += 1;
            match event {
                Event::Attaching { link, attach } => {
                    let accepted = self.server.accept(link, *attach, self.credit, 0);
                    accepted.expect("a link that waits for it");
                }
                other => self.at_server.push(other),
            }
        }
        while let Some(event) = self.client.poll_event() {
            handled += 1;
            self.at_client.push(event);
        }
        handled
    }

    /// A client's sender, attached, with credit.
    pub fn sender(&mut self, session: SessionId, token: u64) -> LinkId {
        let link = self.client.attach(session, sender("up", "to"), 0, token);
        self.run();
        link.expect("a mapped session")
    }

    /// A client's receiver, attached; the server's end of it.
    pub fn receiver(&mut self, session: SessionId, credit: u32, token: u64) -> (LinkId, LinkId) {
        let link = self
            .client
            .attach(session, receiver("down", "from"), credit, token);
        let mut theirs = None;
        for _ in 0..4 {
            self.client.write(&mut self.to_server, self.now);
            self.server.feed(&mut self.to_server, self.now);
            while let Some(event) = self.server.poll_event() {
                match event {
                    Event::Attaching { link, attach } => {
                        theirs = Some(link);
                        self.server.accept(link, *attach, 0, 0).expect("waits");
                    }
                    other => self.at_server.push(other),
                }
            }
        }
        self.run();
        (link.expect("mapped"), theirs.expect("an attach arrived"))
    }

    /// The outcomes the client heard of, by delivery token.
    pub fn outcomes(&mut self) -> Vec<(u64, Outcome)> {
        let mut found = Vec::new();
        self.at_client.retain_mut(|event| match event {
            Event::Outcome {
                delivery, outcome, ..
            } => {
                found.push((*delivery, outcome.clone()));
                false
            }
            _ => true,
        });
        found
    }

    /// The deliveries that arrived at the server.
    pub fn arrived(&mut self) -> Vec<(DeliveryId, Bytes)> {
        take_deliveries(&mut self.at_server)
    }
}

pub fn take_deliveries(events: &mut Vec<Event>) -> Vec<(DeliveryId, Bytes)> {
    let mut found = Vec::new();
    events.retain_mut(|event| match event {
        Event::Delivery {
            delivery, payload, ..
        } => {
            found.push((*delivery, payload.clone()));
            false
        }
        _ => true,
    });
    found
}

/// A frame the engine wrote, taken apart.
#[derive(Debug, PartialEq)]
pub enum Said {
    Empty,
    Open(Open),
    Begin(Begin),
    Attach(Attach),
    Flow(Flow),
    /// handle, delivery-id, settled, more, aborted, payload
    Transfer(u32, Option<u32>, Option<bool>, bool, bool, Vec<u8>),
    /// receiver, first, last, settled, state
    Disposition(bool, u32, u32, bool, Option<Vec<u8>>),
    Detach(Detach),
    End(End),
    Close(Close),
}

/// The peer of one engine, frame by frame.
pub struct Peer {
    pub engine: Connection,
    pub now: Mono,
    input: BytesMut,
    output: BytesMut,
}

impl Peer {
    /// A client engine whose OPEN and one BEGIN are answered, on channel 0.
    pub fn of_client(config: Config) -> (Self, SessionId) {
        Self::with(config, 65_536, 7, 5_000)
    }

    pub fn with(config: Config, frame: u32, channels: u16, window: u32) -> (Self, SessionId) {
        let mut peer = Self::opened(config, frame, channels);
        let session = peer.engine.begin().expect("open");
        peer.heard();
        peer.say(0, &begin(Some(0), window));
        peer.events();
        (peer, session)
    }

    pub fn opened(config: Config, frame: u32, channels: u16) -> Self {
        let mut peer = Self {
            engine: Connection::new(config, at(0.0)),
            now: at(0.0),
            input: BytesMut::new(),
            output: BytesMut::new(),
        };
        peer.raw(&frame::AMQP);
        peer.say(0, &open(frame, channels));
        peer.engine.write(&mut peer.output, peer.now);
        peer.output.clear();
        peer.events();
        peer
    }

    pub fn raw(&mut self, bytes: &[u8]) -> Fed {
        self.input.extend_from_slice(bytes);
        self.engine.feed(&mut self.input, self.now)
    }

    pub fn say<T: Serialize>(&mut self, channel: u16, performative: &T) -> Fed {
        let mut frame = BytesMut::new();
        let kind = frame::Kind::Amqp;
        performative::encode(&mut frame, kind, channel, performative, usize::MAX).expect("encodes");
        self.raw(&frame)
    }

    pub fn hot(&mut self, write: impl FnOnce(&mut BytesMut)) -> Fed {
        let mut frame = BytesMut::new();
        let at = frame::begin(&mut frame, frame::Kind::Amqp, 0);
        write(&mut frame);
        frame::finish(&mut frame, at);
        self.raw(&frame)
    }

    pub fn flow(&mut self, flow: Flow) -> Fed {
        self.hot(|out| flow.encode(out))
    }

    /// Link credit for the engine's sender, and a session window that does not matter.
    pub fn grant(&mut self, handle: u32, count: u32, credit: u32) -> Fed {
        self.flow(Flow {
            next_incoming_id: Some(0),
            incoming_window: 1_000_000,
            outgoing_window: 1_000_000,
            handle: Some(handle),
            delivery_count: Some(count),
            link_credit: Some(credit),
            ..Flow::default()
        })
    }

    pub fn transfer(&mut self, transfer: Transfer<'_>, payload: &[u8]) -> Fed {
        self.hot(|out| {
            transfer.encode(out);
            out.extend_from_slice(payload);
        })
    }

    pub fn disposition(&mut self, first: u32, last: u32) -> Fed {
        let state = [0x00, 0x53, 0x24, 0x45];
        let disposition = Disposition {
            receiver: true,
            first,
            last: Some(last),
            settled: true,
            state: Some(&state),
            batchable: false,
        };
        self.hot(|out| disposition.encode(out))
    }

    pub fn events(&mut self) -> Vec<Event> {
        events(&mut self.engine)
    }

    /// What the engine has to say now.
    pub fn heard(&mut self) -> Vec<Said> {
        self.engine.write(&mut self.output, self.now);
        let said = parse(&self.output);
        self.output.clear();
        said.into_iter().map(|(_, said)| said).collect()
    }

    /// Attaches a sender of the engine; its handle is `handle` on both sides.
    pub fn sender(&mut self, session: SessionId, handle: u32) -> LinkId {
        let link = self.engine.attach(session, sender("up", "to"), 0, 0);
        self.answer(handle, None);
        link.expect("mapped")
    }

    /// Attaches a receiver of the engine with this credit.
    pub fn receiver(&mut self, session: SessionId, handle: u32, credit: u32) -> LinkId {
        let link = self
            .engine
            .attach(session, receiver("down", "from"), credit, 0);
        self.answer(handle, Some(0));
        link.expect("mapped")
    }

    /// Answers the ATTACH that the engine says next.
    pub fn answer(&mut self, handle: u32, count: Option<u32>) {
        let attach = self.heard().into_iter().find_map(|said| match said {
            Said::Attach(attach) => Some(attach),
            _ => None,
        });
        let attach = attach.expect("the engine attaches");
        let reply = reply(attach, handle, count);
        self.say(0, &reply);
        self.events();
        self.heard();
    }
}

/// The answer to an ATTACH.
pub fn reply(mut attach: Attach, handle: u32, count: Option<u32>) -> Attach {
    use fe2o3_amqp_types::definitions::Role;
    attach.role = match attach.role {
        Role::Sender => Role::Receiver,
        Role::Receiver => Role::Sender,
    };
    attach.handle = handle.into();
    attach.initial_delivery_count = count;
    attach
}

pub fn open(frame: u32, channels: u16) -> Open {
    Open {
        container_id: "peer".to_owned(),
        hostname: None,
        max_frame_size: frame.into(),
        channel_max: channels.into(),
        idle_time_out: None,
        outgoing_locales: None,
        incoming_locales: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub fn begin(remote_channel: Option<u16>, window: u32) -> Begin {
    Begin {
        remote_channel,
        next_outgoing_id: 0,
        incoming_window: window,
        outgoing_window: 5_000,
        handle_max: 262_143.into(),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

/// First frame of a delivery to the engine's receiver.
pub fn first(handle: u32, id: u32) -> Transfer<'static> {
    Transfer {
        handle,
        delivery_id: Some(id),
        delivery_tag: Some(b"t"),
        ..Transfer::default()
    }
}

/// Takes frames apart; a protocol header in front of them is skipped.
pub fn parse(mut bytes: &[u8]) -> Vec<(u16, Said)> {
    let limits = Limits::default();
    let mut said = Vec::new();
    while !bytes.is_empty() {
        if bytes.starts_with(b"AMQP") {
            bytes = &bytes[8..];
            continue;
        }
        let head = frame::head(bytes, u32::MAX).expect("legal").expect("whole");
        let (frame, rest) = bytes.split_at(head.size);
        bytes = rest;
        let body = &frame[head.body..];
        said.push((head.channel, one(performative::decode(body, &limits))));
    }
    said
}

fn one(performative: Result<Performative<'_>, crate::amqp::Fault>) -> Said {
    match performative.expect("the engine writes legal performatives") {
        Performative::Empty => Said::Empty,
        Performative::Open(open) => Said::Open(*open),
        Performative::Begin(begin) => Said::Begin(*begin),
        Performative::Attach(attach) => Said::Attach(*attach),
        Performative::Flow(flow) => Said::Flow(flow),
        Performative::Transfer(t, payload) => Said::Transfer(
            t.handle,
            t.delivery_id,
            t.settled,
            t.more,
            t.aborted,
            payload.to_vec(),
        ),
        Performative::Disposition(d) => Said::Disposition(
            d.receiver,
            d.first,
            d.last.unwrap_or(d.first),
            d.settled,
            d.state.map(<[u8]>::to_vec),
        ),
        Performative::Detach(detach) => Said::Detach(*detach),
        Performative::End(end) => Said::End(*end),
        Performative::Close(close) => Said::Close(*close),
    }
}

/// The condition of an error somebody was told.
pub fn condition(error: Option<&fe2o3_amqp_types::definitions::Error>) -> String {
    error.map_or_else(String::new, |error| {
        crate::amqp::fault::condition(&error.condition)
    })
}
