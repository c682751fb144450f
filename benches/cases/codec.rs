//! The MQTT codec, every kind of packet: ours, and `mqttbytes` on the same bytes.
//!
//! Decoding starts where a driver starts, with bytes in a buffer of their own, and ends with an
//! owned packet; both sides pay for that buffer. Encoding appends to a buffer that has room.

use crate::support::Suite;
use bytes::BytesMut;
use iothub_gateway::mqtt::decode::{self, DecodeLimits, Stage};
use iothub_gateway::mqtt::encode::{self, ConnackProperties};
use iothub_gateway::mqtt::packet::{Packet, PacketId, Protocol};
use iothub_gateway::mqtt::topic::TopicLimits;
use iothub_gateway::websocket::frame::Decoder;
use mqttbytes::{QoS, v4, v5};
use std::hint::black_box;
use std::num::NonZeroU16;

const REFERENCE: &str = "mqttbytes";
const TOPIC: &str = "devices/thermo-1/messages/events/";
const PACKET_BYTES_MAX: usize = 260 * 1024;

const LIMITS: DecodeLimits = DecodeLimits {
    topic: TopicLimits {
        bytes_max: 2048,
        levels_max: 16,
    },
    filters_max: 32,
    properties_max: 64,
};

/// All of them.
pub fn all(suite: &mut Suite) {
    decode_v311(suite);
    decode_v5(suite);
    encode_v311(suite);
    encode_v5(suite);
    websocket(suite);
}

/// What a WebSocket adds to a PUBLISH that comes: its header read, its payload unmasked in place.
fn websocket(suite: &mut Suite) {
    let publish = publish(256);
    let length = u16::try_from(publish.len()).expect("a short one");
    let [high, low] = length.to_be_bytes();
    let mask = [0xa5, 0x5a, 0x3c, 0xc3];
    let mut frame = vec![0x82, 0x80 | 126, high, low];
    frame.extend(mask);
    frame.extend(publish.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    let mut decoder = Decoder::new(1 << 20);
    suite.op("decode_websocket_publish_256", || {
        let mut bytes = frame.clone();
        assert_eq!(decoder.decode(&mut bytes), publish.len());
        bytes
    });
}

/// What `write` writes.
pub fn wire(write: impl FnOnce(&mut BytesMut) -> Result<usize, mqttbytes::Error>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    write(&mut bytes).expect("mqttbytes writes its own packet");
    bytes.to_vec()
}

/// A PUBLISH of 3.1.1 with QoS 1 as a device sends it.
pub fn publish(payload_bytes: usize) -> Vec<u8> {
    let mut packet = v4::Publish::new(TOPIC, QoS::AtLeastOnce, vec![0x2e; payload_bytes]);
    packet.pkid = 7;
    wire(|out| packet.write(out))
}

fn take(bytes: &[u8], stage: Stage) -> Packet {
    let mut input = BytesMut::from(bytes);
    let header = decode::header(&input, stage, PACKET_BYTES_MAX);
    let header = header.expect("a legal header").expect("a whole header");
    let packet = input.split_to(header.total()).freeze();
    let protocol = match stage {
        Stage::AwaitConnect => Protocol::V311,
        Stage::Open(protocol) => protocol,
    };
    decode::body(&header, &packet, protocol, &LIMITS).expect("a legal packet")
}

fn theirs_v4(bytes: &[u8]) -> v4::Packet {
    v4::read(&mut BytesMut::from(bytes), PACKET_BYTES_MAX).expect("mqttbytes reads it")
}

fn theirs_v5(bytes: &[u8]) -> v5::Packet {
    v5::read(&mut BytesMut::from(bytes), PACKET_BYTES_MAX).expect("mqttbytes reads it")
}

fn connect() -> v4::Connect {
    let mut connect = v4::Connect::new("thermo-1");
    connect.keep_alive = 60;
    connect.set_login(
        "myhub.azure-devices.net/thermo-1/?api-version=2021-04-12",
        "SharedAccessSignature sr=myhub.azure-devices.net%2Fdevices%2Fthermo-1&sig=AAAA&se=1",
    );
    connect
}

fn decode_v311(suite: &mut Suite) {
    let mut with_will = connect();
    with_will.last_will = Some(v4::LastWill::new(TOPIC, "gone", QoS::AtLeastOnce, false));
    let mut puback = v4::PubAck::new(7);
    puback.pkid = 7;
    let mut subscribe =
        v4::Subscribe::new("devices/thermo-1/messages/devicebound/#", QoS::AtLeastOnce);
    subscribe.pkid = 7;
    let mut unsubscribe = v4::Unsubscribe::new("devices/thermo-1/messages/devicebound/#");
    unsubscribe.pkid = 7;
    let qos0 = v4::Publish::new(TOPIC, QoS::AtMostOnce, vec![0x2e; 256]);
    let open = Stage::Open(Protocol::V311);
    for (name, stage, bytes) in [
        (
            "decode_connect",
            Stage::AwaitConnect,
            wire(|out| connect().write(out)),
        ),
        (
            "decode_connect_will",
            Stage::AwaitConnect,
            wire(|out| with_will.write(out)),
        ),
        ("decode_publish_qos0_256", open, wire(|out| qos0.write(out))),
        ("decode_publish_16", open, publish(16)),
        ("decode_publish_256", open, publish(256)),
        ("decode_publish_4096", open, publish(4096)),
        ("decode_puback", open, wire(|out| puback.write(out))),
        ("decode_subscribe", open, wire(|out| subscribe.write(out))),
        (
            "decode_unsubscribe",
            open,
            wire(|out| unsubscribe.write(out)),
        ),
        ("decode_pingreq", open, wire(|out| v4::PingReq.write(out))),
        (
            "decode_disconnect",
            open,
            wire(|out| v4::Disconnect.write(out)),
        ),
    ] {
        suite.versus(
            name,
            || take(black_box(&bytes), stage),
            REFERENCE,
            || theirs_v4(black_box(&bytes)),
        );
    }
}

fn decode_v5(suite: &mut Suite) {
    let connect = v5::Connect::new("thermo-1");
    let mut plain = v5::Publish::new(TOPIC, QoS::AtLeastOnce, vec![0x2e; 256]);
    plain.pkid = 7;
    let mut rich = plain.clone();
    rich.properties = Some(v5::PublishProperties {
        payload_format_indicator: None,
        message_expiry_interval: Some(60),
        topic_alias: None,
        response_topic: None,
        correlation_data: Some(b"42".to_vec().into()),
        user_properties: vec![
            ("unit".to_owned(), "celsius".to_owned()),
            ("line".to_owned(), "7".to_owned()),
        ],
        subscription_identifiers: Vec::new(),
        content_type: Some("application/json".to_owned()),
    });
    let open = Stage::Open(Protocol::V5);
    for (name, stage, bytes) in [
        (
            "decode_v5_connect",
            Stage::AwaitConnect,
            wire(|out| connect.write(out)),
        ),
        ("decode_v5_publish_256", open, wire(|out| plain.write(out))),
        (
            "decode_v5_publish_properties",
            open,
            wire(|out| rich.write(out)),
        ),
    ] {
        suite.versus(
            name,
            || take(black_box(&bytes), stage),
            REFERENCE,
            || theirs_v5(black_box(&bytes)),
        );
    }
}

const ID: PacketId = PacketId(NonZeroU16::new(7).expect("seven is not zero"));

/// Ours and theirs, each into a buffer of its own that keeps its room.
fn against(
    suite: &mut Suite,
    name: &str,
    ours: impl Fn(&mut BytesMut),
    theirs: impl Fn(&mut BytesMut) -> Result<usize, mqttbytes::Error>,
) {
    let room = || BytesMut::with_capacity(8192);
    let (mut left, mut right) = (room(), room());
    suite.versus(
        name,
        || {
            left.clear();
            ours(&mut left);
            left.len()
        },
        REFERENCE,
        || {
            right.clear();
            theirs(&mut right).expect("mqttbytes writes its own packet");
            right.len()
        },
    );
}

fn encode_v311(suite: &mut Suite) {
    let connack = v4::ConnAck::new(v4::ConnectReturnCode::Success, false);
    against(
        suite,
        "encode_connack",
        |out| encode::connack_v311(0, out),
        |out| connack.write(out),
    );
    let puback = v4::PubAck::new(7);
    against(
        suite,
        "encode_puback",
        |out| encode::puback(ID, out),
        |out| puback.write(out),
    );
    let granted = vec![v4::SubscribeReasonCode::Success(QoS::AtLeastOnce)];
    let suback = v4::SubAck::new(7, granted);
    against(
        suite,
        "encode_suback",
        |out| encode::suback(Protocol::V311, ID, &[1], out),
        |out| suback.write(out),
    );
    let unsuback = v4::UnsubAck::new(7);
    against(
        suite,
        "encode_unsuback",
        |out| encode::unsuback(Protocol::V311, ID, &[0], out),
        |out| unsuback.write(out),
    );
    against(suite, "encode_pingresp", encode::pingresp, |out| {
        v4::PingResp.write(out)
    });
    let payload = [0x2e; 256];
    let mut publish = v4::Publish::new(TOPIC, QoS::AtLeastOnce, payload);
    publish.pkid = 7;
    against(
        suite,
        "encode_publish_256",
        |out| encode::publish(Protocol::V311, TOPIC, &payload, Some(ID), out),
        |out| publish.write(out),
    );
}

fn encode_v5(suite: &mut Suite) {
    let properties = ConnackProperties {
        assigned_client_id: None,
        receive_maximum: 32,
        packet_bytes_max: PACKET_BYTES_MAX as u32,
        server_keep_alive_s: None,
        session_expiry_zero: false,
    };
    let mut out = BytesMut::with_capacity(8192);
    suite.op("encode_v5_connack", || {
        out.clear();
        encode::connack_v5(&properties, usize::MAX, &mut out);
        out.len()
    });
    suite.op("encode_v5_puback_refused", || {
        out.clear();
        encode::puback_refused(
            ID,
            0x83,
            "the hub refused the message",
            usize::MAX,
            &mut out,
        );
        out.len()
    });
    suite.op("encode_v5_disconnect", || {
        out.clear();
        encode::disconnect_v5(0x8D, "no packet in 90 s", usize::MAX, &mut out);
        out.len()
    });
}
