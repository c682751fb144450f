//! Our codec against another one, on packets both must take (3.1.1).

use super::super::encode;
use super::*;
use mqttbytes::v4;
use proptest::prelude::*;
use std::num::NonZeroU16;

type Pid = crate::mqtt::packet::PacketId;

fn qos(bits: u8) -> mqttbytes::QoS {
    mqttbytes::qos(bits).unwrap()
}

fn pid(id: u16) -> Pid {
    crate::mqtt::packet::PacketId(NonZeroU16::new(id).unwrap())
}

fn read(bytes: &BytesMut) -> v4::Packet {
    let mut stream = bytes.clone();
    let packet = v4::read(&mut stream, 100_000).unwrap();
    assert!(stream.is_empty(), "bytes left over");
    packet
}

fn topic() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9é$=&%._-]{1,12}(/[a-z0-9]{0,6}){0,4}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn connect_written_by_the_other_codec_reads_the_same(
        id in "[a-zA-Z0-9._-]{1,30}",
        clean in any::<bool>(),
        keep_alive in any::<u16>(),
        login in prop::option::of(("[a-z/?=&.-]{1,40}", "[ -~]{1,60}")),
        will in prop::option::of((topic(), "[ -~]{0,40}", 0..2_u8, any::<bool>())),
    ) {
        let mut theirs = v4::Connect::new(id.clone());
        theirs.clean_session = clean;
        theirs.keep_alive = keep_alive;
        if let Some((user, password)) = &login {
            theirs.set_login(user.clone(), password.clone());
        }
        theirs.last_will = will.clone().map(|(topic, message, bits, retain)| {
            v4::LastWill::new(topic, message, qos(bits), retain)
        });
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let Ok(Some(Packet::Connect(ours))) = decode_one(AWAIT, &bytes) else {
            panic!("{:?}", decode_one(AWAIT, &bytes));
        };
        prop_assert_eq!(&*ours.client_id, id);
        prop_assert_eq!((ours.clean_session, ours.keep_alive_s), (clean, keep_alive));
        prop_assert_eq!(ours.username.as_deref(), login.as_ref().map(|l| l.0.as_str()));
        prop_assert_eq!(ours.password.as_deref(), login.as_ref().map(|l| l.1.as_bytes()));
        let ours = ours.will.map(|w| {
            let message = String::from_utf8(w.payload.to_vec()).unwrap();
            (w.topic.to_string(), message, w.qos as u8, w.retain)
        });
        prop_assert_eq!(&ours, &will);

        // 3.1 has the same CONNECT under its own name and level. The other codec knows only the
        // newer ones, so its packet is renamed.
        let front = bytes.windows(7).position(|w| w == b"\0\x04MQTT\x04").unwrap();
        let renamed = [&b"\0\x06MQIsdp\x03"[..], &bytes[front + 7..]].concat();
        let old = [&[0x10][..], &varint(renamed.len()), &renamed].concat();
        let Ok(Some(Packet::Connect(oldest))) = decode_one(AWAIT, &old) else {
            panic!("{:?}", decode_one(AWAIT, &old));
        };
        let Ok(Some(Packet::Connect(newer))) = decode_one(AWAIT, &bytes) else { panic!() };
        prop_assert_eq!(oldest.protocol, Protocol::V31);
        prop_assert_eq!(Connect { protocol: Protocol::V311, ..*oldest }, *newer);
    }

    #[test]
    fn publish_written_by_the_other_codec_reads_the_same(
        topic in topic(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        bits in 0..2_u8,
        retain in any::<bool>(),
        id in 1..=u16::MAX,
    ) {
        let mut theirs = v4::Publish::new(topic.clone(), qos(bits), payload.clone());
        theirs.retain = retain;
        theirs.dup = bits == 1 && id % 2 == 0;
        theirs.pkid = if bits == 1 { id } else { 0 };
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let Ok(Some(Packet::Publish(ours))) = decode_one(V4, &bytes) else {
            panic!("{:?}", decode_one(V4, &bytes));
        };
        prop_assert_eq!(decode_one(V3, &bytes), decode_one(V4, &bytes));
        prop_assert_eq!(&*ours.topic, topic);
        prop_assert_eq!(&ours.payload[..], payload);
        prop_assert_eq!((ours.retain, ours.dup), (retain, theirs.dup));
        prop_assert_eq!(ours.packet_id, (bits == 1).then(|| pid(id)));
    }

    #[test]
    fn subscribe_and_unsubscribe_written_by_the_other_codec_read_the_same(
        filters in prop::collection::vec((topic(), 0..3_u8), 1..5),
        id in 1..=u16::MAX,
    ) {
        let each = |(f, bits): &(String, u8)| v4::SubscribeFilter::new(f.clone(), qos(*bits));
        let mut theirs = v4::Subscribe::new_many(filters.iter().map(each));
        theirs.pkid = id;
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let shown = filters.iter().map(|(f, bits)| format!(" {f}:{bits}")).collect::<String>();
        let ours = decode_one(V4, &bytes).unwrap().unwrap();
        let oldest = decode_one(V3, &bytes).unwrap().unwrap();
        prop_assert_eq!(&oldest, &ours);
        prop_assert_eq!(show(&ours), format!("SUBSCRIBE {id}{shown}"));

        let mut theirs = v4::Unsubscribe::new(filters[0].0.clone());
        theirs.pkid = id;
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let ours = decode_one(V4, &bytes).unwrap().unwrap();
        prop_assert_eq!(show(&ours), format!("UNSUBSCRIBE {id} {}", filters[0].0));
    }

    #[test]
    fn publish_written_by_us_reads_the_same_at_the_other_codec(
        topic in topic(),
        payload in prop::collection::vec(any::<u8>(), 0..20_000),
        id in prop::option::of(1..=u16::MAX),
    ) {
        let mut bytes = BytesMut::new();
        encode::publish(Protocol::V311, &topic, &payload, id.map(pid), &mut bytes);
        let ours = if id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let length = encode::publish_length(Protocol::V311, &topic, &payload, ours);
        prop_assert_eq!(length, Some(bytes.len()));
        let v4::Packet::Publish(theirs) = read(&bytes) else { panic!() };
        prop_assert_eq!(theirs.topic, topic);
        prop_assert_eq!(&theirs.payload[..], payload);
        prop_assert_eq!((theirs.dup, theirs.retain), (false, false));
        prop_assert_eq!(theirs.pkid, id.unwrap_or(0));
    }

    #[test]
    fn answers_written_by_us_read_the_same_at_the_other_codec(
        id in 1..=u16::MAX,
        codes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0x80)], 1..200),
    ) {
        let mut bytes = BytesMut::new();
        encode::puback(pid(id), &mut bytes);
        prop_assert_eq!(read(&bytes), v4::Packet::PubAck(v4::PubAck::new(id)));

        bytes.clear();
        encode::suback(Protocol::V311, pid(id), &codes, &mut bytes);
        let v4::Packet::SubAck(theirs) = read(&bytes) else { panic!() };
        let read_codes: Vec<u8> = theirs.return_codes.iter().map(|code| match code {
            v4::SubscribeReasonCode::Success(qos) => *qos as u8,
            v4::SubscribeReasonCode::Failure => 0x80,
        }).collect();
        prop_assert_eq!((theirs.pkid, read_codes), (id, codes.clone()));

        bytes.clear();
        encode::unsuback(Protocol::V311, pid(id), &codes, &mut bytes);
        prop_assert_eq!(read(&bytes), v4::Packet::UnsubAck(v4::UnsubAck::new(id)));
    }
}

#[test]
fn connack_and_pingresp_written_by_us_read_the_same_at_the_other_codec() {
    for (code, want) in [
        (0, v4::ConnectReturnCode::Success),
        (4, v4::ConnectReturnCode::BadUserNamePassword),
        (5, v4::ConnectReturnCode::NotAuthorized),
    ] {
        let mut bytes = BytesMut::new();
        encode::connack_v311(code, &mut bytes);
        assert_eq!(
            read(&bytes),
            v4::Packet::ConnAck(v4::ConnAck::new(want, false))
        );
    }
    let mut bytes = BytesMut::new();
    encode::pingresp(&mut bytes);
    assert_eq!(read(&bytes), v4::Packet::PingResp);
}
