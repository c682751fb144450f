//! Wire vectors of MQTT 5: what differs from 3.1.1.

use super::super::violation::Violation as V;
use super::{AWAIT, V5, Vector, check};

#[rustfmt::skip]
pub(super) const VECTORS: &[Vector] = &[
    // CONNECT.
    ("3.1", AWAIT, "10 ~ 'MQTT' 05 02 003C 00 'a'",
        Ok("CONNECT V5 'a' c1 k60 u=- p=- w=- exp0 rm65535 maxNone pi1 user0")),
    ("3.1.3.1", AWAIT, "10 ~ 'MQTT' 05 00 003C 00 ''",
        Ok("CONNECT V5 '' c0 k60 u=- p=- w=- exp0 rm65535 maxNone pi1 user0")),
    ("3.1.2.9", AWAIT, "10 ~ 'MQTT' 05 42 003C 00 'a' 'pw'",
        Ok("CONNECT V5 'a' c1 k60 u=- p=pw w=- exp0 rm65535 maxNone pi1 user0")),
    ("3.1.2.11", AWAIT,
        "10 ~ 'MQTT' 05 02 003C ( 11 0000000A 21 0005 27 00001000 22 0003 19 01 17 00 26 'k' 'v' ) 'a'",
        Ok("CONNECT V5 'a' c1 k60 u=- p=- w=- exp10 rm5 maxSome(4096) pi0 user1")),
    ("3.1.3.2", AWAIT,
        "10 ~ 'MQTT' 05 0E 003C 00 'a' ( 18 00000005 01 01 03 'text' 26 'k' 'v' ) 't' 'm'",
        Ok(concat!("CONNECT V5 'a' c1 k60 u=- p=- w=t=m q1 r0 utf8=Some(true) exp=None ",
            "ct=Some(\"text\") rt=None cd=None user=[(\"k\", \"v\")] ",
            "exp0 rm65535 maxNone pi1 user0"))),
    ("2.2.2.1", AWAIT, "10 ~ 'MQTT' 05 02 003C", Err(V::Truncated)),
    ("2.2.2.1", AWAIT, "10 ~ 'MQTT' 05 02 003C 05 11 0000", Err(V::Truncated)),
    ("2.2.2.1", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 11 0000 ) 'a'", Err(V::PropertyLength)),
    ("2.2.2.1", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 26 'k' 0005 ) \"value\" 'a'", Err(V::PropertyLength)),
    ("MQTT-1.5.5-1", AWAIT, "10 ~ 'MQTT' 05 02 003C 8000 'a'", Err(V::RemainingLengthOverlong)),
    ("1.5.5", AWAIT, "10 ~ 'MQTT' 05 02 003C FFFFFFFF 'a'", Err(V::RemainingLength)),
    ("2.2.2.2", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 11 00000001 11 00000001 ) 'a'", Err(V::PropertyDuplicate)),
    ("2.2.2.2", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 23 0001 ) 'a'", Err(V::PropertyMisplaced)),
    ("2.2.2.2", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 7F 00 ) 'a'", Err(V::PropertyMisplaced)),
    ("2.2.2.2", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 8001 00 ) 'a'", Err(V::PropertyMisplaced)),
    ("2.2.2.2", AWAIT, "10 ~ 'MQTT' 05 02 003C ( A602 'k' 'v' ) 'a'", Err(V::PropertyMisplaced)),
    ("3.1.2.11.3", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 21 0000 ) 'a'", Err(V::PropertyValue)),
    ("3.1.2.11.4", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 27 00000000 ) 'a'", Err(V::PropertyValue)),
    ("3.1.2.11.7", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 17 02 ) 'a'", Err(V::PropertyValue)),
    ("3.1.2.11.6", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 19 02 ) 'a'", Err(V::PropertyValue)),
    ("MQTT-4.12.0-1", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 15 'SAS' ) 'a'", Err(V::AuthenticationMethod)),
    ("3.1.2.11.10", AWAIT, "10 ~ 'MQTT' 05 02 003C ( 16 'x' ) 'a'", Err(V::AuthenticationData)),
    ("A-4", AWAIT,
        "10 ~ 'MQTT' 05 02 003C ( 26 'k' '' 26 'k' '' 26 'k' '' 26 'k' '' 26 'k' '' ) 'a'",
        Err(V::TooManyProperties)),
    ("MQTT-3.2.2-13", AWAIT, "10 ~ 'MQTT' 05 26 003C 00 'a' 00 't' 'm'", Err(V::RetainUnsupported)),
    ("MQTT-3.2.2-12", AWAIT, "10 ~ 'MQTT' 05 16 003C 00 'a' 00 't' 'm'", Err(V::WillQos2)),
    ("3.1.3.2", AWAIT, "10 ~ 'MQTT' 05 06 003C 00 'a' ( 23 0001 ) 't' 'm'", Err(V::PropertyMisplaced)),

    // PUBLISH.
    ("3.3", V5, "30 ~ 'a' 00 \"x\"", Ok("PUBLISH a q0 r0 d0 - x")),
    ("3.3", V5, "32 ~ 'a' 0001 00", Ok("PUBLISH a q1 r0 d0 1 ")),
    ("3.3.2.3", V5,
        "32 ~ 'a' 0001 ( 01 00 02 0000003C 03 'c' 08 'r/t' 09 0002 00FF 26 'k' 'v' 26 'k' 'w' ) \"x\"",
        Ok(concat!("PUBLISH a q1 r0 d0 1 x utf8=Some(false) exp=Some(60) ct=Some(\"c\") ",
            "rt=Some(\"r/t\") cd=Some(b\"\\0\\xff\") user=[(\"k\", \"v\"), (\"k\", \"w\")]"))),
    ("3.3.2.3", V5, "30 ~ 'a'", Err(V::Truncated)),
    ("3.3.2.3.1", V5, "30 ~ 'a' 05 \"x\"", Err(V::Truncated)),
    ("3.3.2.3.2", V5, "30 ~ 'a' ( 01 02 )", Err(V::PropertyValue)),
    ("MQTT-3.3.2-9", V5, "30 ~ 'a' ( 23 0001 )", Err(V::TopicAlias)),
    ("MQTT-3.3.2-8", V5, "30 ~ '' ( 23 0000 )", Err(V::TopicAlias)),
    ("MQTT-3.3.4-6", V5, "30 ~ 'a' ( 0B 01 )", Err(V::PropertyMisplaced)),
    ("MQTT-3.3.2-14", V5, "30 ~ 'a' ( 08 'r/#' )", Err(V::ResponseTopic)),
    ("MQTT-3.3.2-14", V5, "30 ~ 'a' ( 08 '' )", Err(V::ResponseTopic)),
    ("3.3.2.1", V5, "30 ~ '' 00", Err(V::TopicEmpty)),
    ("MQTT-3.2.2-14", V5, "31 ~ 'a' 00", Err(V::RetainUnsupported)),
    ("MQTT-3.2.2-11", V5, "34", Err(V::Qos2Publish)),
    ("2.2.2.2", V5, "30 ~ 'a' ( 02 00000001 02 00000001 )", Err(V::PropertyDuplicate)),
    ("1.5.4", V5, "30 ~ 'a' ( 26 0001 FF 'v' )", Err(V::Utf8)),
    ("1.5.4", V5, "30 ~ 'a' ( 26 'k' 0001 00 )", Err(V::NulCharacter)),
    ("1.5.4 data may have newlines", V5, "30 ~ 'a' ( 26 'k' 0001 0A )",
        Ok(concat!("PUBLISH a q0 r0 d0 -  utf8=None exp=None ct=None rt=None cd=None ",
            "user=[(\"k\", \"\\n\")]"))),

    // PUBACK.
    ("3.4.2.1", V5, "40 02 0001", Ok("PUBACK 1 00")),
    ("3.4.2.1", V5, "40 03 0001 10", Ok("PUBACK 1 10")),
    ("3.4.2.2", V5, "40 ~ 0001 97 ( 1F 'full' 26 'k' 'v' )", Ok("PUBACK 1 97")),
    ("3.4.2.1", V5, "40 03 0001 04", Err(V::ReasonCode)),
    ("3.4.2.2", V5, "40 ~ 0001 00 ( 11 00000000 )", Err(V::PropertyMisplaced)),
    ("3.4.2.2", V5, "40 ~ 0001 00 00 00", Err(V::TrailingBytes)),

    // SUBSCRIBE and UNSUBSCRIBE.
    ("3.8", V5, "82 ~ 0001 00 'a/#' 01", Ok("SUBSCRIBE 1 a/#:1")),
    ("3.8.3.1", V5, "82 ~ 0001 00 'a' 2D", Ok("SUBSCRIBE 1 a:1")),
    ("3.8.2.1", V5, "82 ~ 0001 ( 26 'k' 'v' ) 'a' 00", Ok("SUBSCRIBE 1 a:0")),
    ("3.8.3.1", V5, "82 ~ 0001 00 'a' 30", Err(V::SubscribeOptions)),
    ("3.8.3.1", V5, "82 ~ 0001 00 'a' 40", Err(V::SubscribeOptions)),
    ("3.8.3.1", V5, "82 ~ 0001 00 'a' 03", Err(V::SubscribeOptions)),
    ("3.8.4", V5, "82 ~ 0001 ( 0B 01 ) 'a' 00", Err(V::SubscriptionId)),
    ("3.8.4", V5, "82 ~ 0001 00 '$share/g/a' 00", Err(V::SharedSubscription)),
    ("MQTT-3.8.3-2", V5, "82 ~ 0001 00", Err(V::SubscribeEmpty)),
    ("3.8.2", V5, "82 ~ 0001", Err(V::Truncated)),
    ("3.10", V5, "A2 ~ 0001 00 'a' 'b'", Ok("UNSUBSCRIBE 1 a b")),
    ("MQTT-3.10.3-2", V5, "A2 ~ 0001 00", Err(V::UnsubscribeEmpty)),
    ("3.10.2.1", V5, "A2 ~ 0001 ( 0B 01 ) 'a'", Err(V::PropertyMisplaced)),

    // DISCONNECT and AUTH.
    ("3.14", V5, "E0 00", Ok("DISCONNECT 00")),
    ("3.14", V5, "E0 01 04", Ok("DISCONNECT 04")),
    ("3.14", V5, "E0 02 00 00", Ok("DISCONNECT 00")),
    ("3.14.2.2", V5, "E0 ~ 04 ( 11 00000000 1F 'bye' )", Ok("DISCONNECT 04")),
    ("3.14.2.1", V5, "E0 01 8E", Err(V::ReasonCode)),
    ("3.14.2.1", V5, "E0 01 01", Err(V::ReasonCode)),
    ("3.14.2.2", V5, "E0 ~ 00 ( 1C 'x' )", Err(V::PropertyMisplaced)),
    ("3.14.2.2", V5, "E0 ~ 00 00 00", Err(V::TrailingBytes)),
    ("MQTT-4.12.0-6", V5, "F0 00", Err(V::AuthPacket)),
    ("MQTT-4.12.0-6", V5, "F0", Err(V::AuthPacket)),
    ("3.12", V5, "C0 00", Ok("PINGREQ")),
    ("2.1.2", V5, "00", Err(V::ReservedType)),
];

#[test]
fn every_vector_of_5_decodes_as_its_clause_says() {
    check(VECTORS);
}
