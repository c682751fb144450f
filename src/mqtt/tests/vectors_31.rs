//! Wire vectors of MQTT 3.1 (`MQIsdp`): what differs from 3.1.1, and what must not. Clauses are
//! sections of "MQTT V3.1 Protocol Specification".

use super::super::violation::Violation as V;
use super::{AWAIT, V3, Vector, check};

#[rustfmt::skip]
pub(super) const VECTORS: &[Vector] = &[
    // CONNECT.
    ("3.1 §3.1", AWAIT, "10 ~ 'MQIsdp' 03 02 003C 'a'",
        Ok("CONNECT V31 'a' c1 k60 u=- p=- w=-")),
    ("3.1 §3.1 session kept", AWAIT, "10 ~ 'MQIsdp' 03 00 0000 'a'",
        Ok("CONNECT V31 'a' c0 k0 u=- p=- w=-")),
    ("3.1 §3.1 more than 23 bytes", AWAIT, "10 ~ 'MQIsdp' 03 02 003C 'x'*40",
        Ok("CONNECT V31 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' c1 k60 u=- p=- w=-")),
    ("3.1 §3.1 id required", AWAIT, "10 ~ 'MQIsdp' 03 02 003C ''", Err(V::ClientIdRequired)),
    ("3.1 §3.1 id required", AWAIT, "10 ~ 'MQIsdp' 03 00 003C ''", Err(V::ClientIdRequired)),
    ("3.1 §3.1 id missing", AWAIT, "10 ~ 'MQIsdp' 03 02 003C", Err(V::Truncated)),
    ("3.1 §3.1", AWAIT, "10 ~ 'MQIsdp' 03 C2 003C 'a' 'user' 'pw'",
        Ok("CONNECT V31 'a' c1 k60 u=user p=pw w=-")),
    ("3.1 §3.1 name announced, missing", AWAIT, "10 ~ 'MQIsdp' 03 82 003C 'a'",
        Ok("CONNECT V31 'a' c1 k60 u=- p=- w=-")),
    ("3.1 §3.1 password announced, missing", AWAIT, "10 ~ 'MQIsdp' 03 C2 003C 'a' 'user'",
        Ok("CONNECT V31 'a' c1 k60 u=user p=- w=-")),
    ("3.1 §3.1 both announced, missing", AWAIT, "10 ~ 'MQIsdp' 03 C2 003C 'a'",
        Ok("CONNECT V31 'a' c1 k60 u=- p=- w=-")),
    ("3.1 §3.1 cut off is not missing", AWAIT, "10 ~ 'MQIsdp' 03 82 003C 'a' 00",
        Err(V::Truncated)),
    ("3.1 §3.1 cut off is not missing", AWAIT, "10 ~ 'MQIsdp' 03 82 003C 'a' 0004 7573",
        Err(V::Truncated)),
    ("3.1 §3.1 no password without a name", AWAIT, "10 ~ 'MQIsdp' 03 42 003C 'a' 'pw'",
        Err(V::PasswordWithoutUsername)),
    ("3.1 §3.1 nothing may follow", AWAIT, "10 ~ 'MQIsdp' 03 02 003C 'a' 00",
        Err(V::TrailingBytes)),
    ("3.1 §3.1 bit 0 is not used", AWAIT, "10 ~ 'MQIsdp' 03 03 003C 'a'",
        Ok("CONNECT V31 'a' c1 k60 u=- p=- w=-")),
    ("3.1 §3.1 will bits without the flag", AWAIT, "10 ~ 'MQIsdp' 03 3A 003C 'a'",
        Ok("CONNECT V31 'a' c1 k60 u=- p=- w=-")),
    ("3.1 §3.1 will", AWAIT, "10 ~ 'MQIsdp' 03 EE 003C 'a' 't' 'm' 'u' 'p'",
        Ok("CONNECT V31 'a' c1 k60 u=u p=p w=t=m q1 r1")),
    ("3.1 §3.1 will", AWAIT, "10 ~ 'MQIsdp' 03 16 003C 'a' 't' 'm'", Err(V::WillQos2)),
    ("3.1 §3.1 will", AWAIT, "10 ~ 'MQIsdp' 03 1E 003C 'a' 't' 'm'", Err(V::WillQos)),
    ("3.1 §3.1 will topic", AWAIT, "10 ~ 'MQIsdp' 03 06 003C 'a' 't/#' 'm'", Err(V::TopicWildcard)),
    ("3.1 §3.1 name and level go together", AWAIT, "10 ~ 'MQIsdp' 04 02 003C 'a'",
        Err(V::ProtocolLevel)),
    ("3.1 §3.1 name and level go together", AWAIT, "10 ~ 'MQTT' 03 02 003C 'a'",
        Err(V::ProtocolLevel)),
    ("a bridge's level", AWAIT, "10 ~ 'MQIsdp' 83 02 003C 'a'", Err(V::ProtocolLevel)),
    ("3.1 §3.1", AWAIT, "10 ~ 'MQISDP' 03 02 003C 'a'", Err(V::ProtocolName)),

    // PUBLISH.
    ("3.1 §3.3", V3, "30 ~ 'a' \"x\"", Ok("PUBLISH a q0 r0 d0 - x")),
    ("3.1 §3.3", V3, "3B ~ 'a' 0001 \"x\"", Ok("PUBLISH a q1 r1 d1 1 x")),
    ("3.1 §2.1 DUP says nothing on QoS 0", V3, "38 ~ 'a' \"x\"", Ok("PUBLISH a q0 r0 d0 - x")),
    ("3.1 §2.1 QoS 3", V3, "36", Err(V::QosReserved)),
    ("QoS 2", V3, "34", Err(V::Qos2Publish)),
    ("3.1 §2.4 id 0", V3, "32 ~ 'a' 0000", Err(V::PacketIdZero)),
    ("3.1 §3.3 wildcards", V3, "30 ~ 'a/+'", Err(V::TopicWildcard)),
    ("3.1 §3.3", V3, "30 ~ ''", Err(V::TopicEmpty)),
    ("3.1 has no properties", V3, "30 ~ 'a' 00", Ok("PUBLISH a q0 r0 d0 - \0")),

    // SUBSCRIBE and UNSUBSCRIBE, which may be sent again with DUP.
    ("3.1 §3.8", V3, "82 ~ 0001 'a/#' 01 'b' 02", Ok("SUBSCRIBE 1 a/#:1 b:2")),
    ("3.1 §3.8 DUP", V3, "8A ~ 0001 'a' 00", Ok("SUBSCRIBE 1 a:0")),
    ("3.1 §3.8 QoS 1", V3, "80 ~ 0001 'a' 00", Err(V::FixedHeaderFlags)),
    ("3.1 §3.8 QoS 1", V3, "84 ~ 0001 'a' 00", Err(V::FixedHeaderFlags)),
    ("3.1 §3.8", V3, "82 ~ 0001 'a' 03", Err(V::SubscribeOptions)),
    ("3.1 §3.8", V3, "82 02 0001", Err(V::SubscribeEmpty)),
    ("3.1 §3.10", V3, "A2 ~ 0001 'a' 'b'", Ok("UNSUBSCRIBE 1 a b")),
    ("3.1 §3.10 DUP", V3, "AA ~ 0001 'a'", Ok("UNSUBSCRIBE 1 a")),
    ("3.1 §3.10 QoS 1", V3, "A0 ~ 0001 'a'", Err(V::FixedHeaderFlags)),

    // The rest: flags that are "not used" are not looked at.
    ("3.1 §3.4", V3, "40 02 0001", Ok("PUBACK 1 00")),
    ("3.1 §3.4", V3, "42 02 0001", Ok("PUBACK 1 00")),
    ("3.1 §3.4", V3, "40 03 0001 00", Err(V::TrailingBytes)),
    ("3.1 §3.12", V3, "C0 00", Ok("PINGREQ")),
    ("3.1 §3.12", V3, "C2 00", Ok("PINGREQ")),
    ("3.1 §3.12", V3, "C0 01 00", Err(V::TrailingBytes)),
    ("3.1 §3.14", V3, "E0 00", Ok("DISCONNECT 00")),
    ("3.1 §3.14", V3, "E1 00", Ok("DISCONNECT 00")),
    ("3.1 §3.14", V3, "E0 01 00", Err(V::TrailingBytes)),
    ("3.1 §2.1", V3, "F0 00", Err(V::ReservedType)),
    ("3.1 §3.2", V3, "20 02 0000", Err(V::ServerPacket)),
    ("QoS 2", V3, "6A 02 0001", Err(V::Qos2Flow)),
    ("3.1 §3.1 twice", V3, "10", Err(V::SecondConnect)),
];

#[test]
fn every_vector_of_3_1_decodes_as_its_clause_says() {
    check(VECTORS);
}
