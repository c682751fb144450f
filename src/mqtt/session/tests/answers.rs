//! The bytes of the answers, both versions.

use super::*;
use std::num::NonZeroU16;

const ONE: PacketId = PacketId(NonZeroU16::MIN);

#[test]
fn connack_of_3_1_1_is_four_bytes_without_session_present() {
    let mut bench = Bench::new();
    bench.one("10 ~ 'MQTT' 04 00 003C 'a'");
    bench.session.accept(None, &mut bench.out, at(0));
    assert_eq!(bench.answered(), [0x20, 2, 0, 0]);
}

#[test]
fn connack_of_5_says_what_this_gateway_takes() {
    let mut bench = Bench::new();
    bench.one("10 ~ 'MQTT' 05 02 003C 00 'a'");
    bench.session.accept(None, &mut bench.out, at(0));
    let plain = assemble("20 ~ 00 00 ( 21 0004 24 01 25 00 27 00000400 29 00 2A 00 )");
    assert_eq!(bench.answered(), plain);

    // A keep-alive above the cap and a session expiry are answered with what is in force.
    for asked in ["0000", "FFFF"] {
        let mut bench = Bench::new();
        bench.one(&format!("10 ~ 'MQTT' 05 02 {asked} ( 11 FFFFFFFF ) 'a'"));
        bench.session.accept(None, &mut bench.out, at(0));
        let all = "20 ~ 00 00 ( 13 0499 21 0004 24 01 25 00 11 00000000 27 00000400 29 00 2A 00 )";
        assert_eq!(bench.answered(), assemble(all), "{asked}");
    }
}

#[test]
fn refusals_have_a_code_in_each_version() {
    for (code, v311, v5) in [
        (ConnectRefusal::ProtocolVersion, 1, "84"),
        (ConnectRefusal::ClientId, 2, "85"),
        (ConnectRefusal::ServerUnavailable, 3, "88"),
        (ConnectRefusal::BadCredentials, 4, "86"),
        (ConnectRefusal::NotAuthorized, 5, "87"),
    ] {
        let mut bench = Bench::new();
        bench.one("10 ~ 'MQTT' 04 02 003C 'a'");
        bench.session.refuse(code, "text", &mut bench.out);
        assert_eq!(bench.answered(), [0x20, 2, 0, v311]);

        let mut bench = Bench::new();
        bench.one("10 ~ 'MQTT' 05 02 003C 00 'a'");
        bench.session.refuse(code, "text", &mut bench.out);
        assert_eq!(
            bench.answered(),
            assemble(&format!("20 ~ 00 {v5} ( 1F 'text' )"))
        );
    }
}

#[test]
fn a_malformed_connect_is_answered_in_the_version_it_asked_for() {
    for (line, answer) in [
        ("10 ~ 'MQTT' 03 02 003C 'a'", "20 02 00 01"),
        ("10 ~ 'MQTT' 84 02 003C 'a'", "20 02 00 01"),
        ("10 ~ 'MQIsdp' 04 02 003C 'a'", "20 02 00 01"),
        ("10 ~ 'MQIsdp' 83 02 003C 'a'", "20 02 00 01"),
        ("10 ~ 'MQIsdp' 03 02 003C ''", "20 02 00 02"),
        ("10 ~ 'MQIsdp' 03 42 003C 'a' 'pw'", ""),
        ("10 ~ 'MQTT' 06 02 003C 00 'a'", "20 03 00 84 00"),
        ("10 ~ 'MQTT' 04 00 003C ''", "20 02 00 02"),
        ("10 ~ 'MQTT' 04 03 003C 'a'", ""),
        ("10 ~ 'HTTP' 04 02 003C 'a'", ""),
        ("10 ~ 'MQTT' 04", ""),
        ("10 ~ 'MQTT' 05 03 003C 00 'a'", "20 03 00 81 00"),
        ("10 ~ 'MQTT' 05 02 003C ( 15 'SAS' ) 'a'", "20 03 00 8C 00"),
        ("10 ~ 'MQTT' 05 16 003C 00 'a' 00 't' 'm'", "20 03 00 9B 00"),
        (
            "10 ~ 'MQTT' 05 02 0000 ( 27 00000007 ) 'a'",
            "20 03 00 95 00",
        ),
        ("30", ""),
    ] {
        let mut bench = Bench::new();
        bench.violation(line);
        assert_eq!(bench.answered(), assemble(answer), "{line}");
    }
}

#[test]
fn a_violation_ends_mqtt_5_with_its_reason_and_3_1_1_in_silence() {
    let mut bench = Bench::v311();
    assert_eq!(bench.violation("34"), Violation::Qos2Publish);
    assert!(bench.answered().is_empty());

    let mut bench = Bench::v5();
    assert_eq!(bench.violation("34"), Violation::Qos2Publish);
    let text = Violation::Qos2Publish.to_string();
    let answer = bench.answered();
    assert_eq!(answer[..3], [0xE0, answer.len() as u8 - 2, 0x9B]);
    assert!(answer.ends_with(text.as_bytes()));
}

#[test]
fn a_client_with_little_room_gets_no_reason_strings() {
    let mut bench = Bench::open("10 ~ 'MQTT' 05 02 003C ( 27 00000030 ) 'a'");
    bench.violation("34");
    assert_eq!(bench.answered(), [0xE0, 1, 0x9B]);
}

#[test]
fn connack_leaves_out_what_has_no_room_and_keeps_what_must_be_said() {
    let everything = "20 ~ 00 00 ( 13 0499 21 0004 24 01 25 00 27 00000400 29 00 2A 00 )";
    for (max, asked, answer) in [
        ("00000020", "0000", everything),
        (
            "00000013",
            "0000",
            "20 ~ 00 00 ( 13 0499 21 0004 24 01 25 00 29 00 2A 00 )",
        ),
        ("0000000B", "0000", "20 ~ 00 00 ( 13 0499 21 0004 )"),
        ("0000000A", "0000", "20 ~ 00 00 ( 13 0499 24 01 )"),
        ("00000008", "0000", "20 ~ 00 00 ( 13 0499 )"),
        ("00000008", "003C", "20 ~ 00 00 ( 21 0004 )"),
        ("00000005", "003C", "20 03 00 00 00"),
    ] {
        let mut bench = Bench::new();
        bench.one(&format!("10 ~ 'MQTT' 05 02 {asked} ( 27 {max} ) 'a'"));
        bench.session.accept(None, &mut bench.out, bench.now);
        assert_eq!(bench.answered(), assemble(answer), "{max} {asked}");
    }
}

#[test]
fn an_assigned_client_id_is_always_said() {
    let mut bench = Bench::new();
    bench.one("10 ~ 'MQTT' 05 02 003C ( 27 00000110 ) ''");
    let id = format!("{}/{}", "d".repeat(128), "m".repeat(128));
    bench.session.accept(Some(&id), &mut bench.out, bench.now);
    let answer = bench.answered();
    assert!(answer.len() <= 0x110, "{}", answer.len());
    let property = assemble(&format!("12 '{id}'"));
    assert!(answer.windows(property.len()).any(|w| w == property));
    let mut bench = Bench::new();
    let small = "10 ~ 'MQTT' 05 02 003C ( 27 00000100 ) ''";
    assert_eq!(bench.violation(small), Violation::ClientMaximumTooSmall);
}

#[test]
fn a_client_that_was_not_told_the_receive_maximum_is_not_held_to_it() {
    let mut bench = Bench::open("10 ~ 'MQTT' 05 02 003C ( 27 00000005 ) 'a'");
    for id in 1..=4 {
        bench.ticket(&format!("32 ~ 'a' 000{id} 00"));
    }
    bench.push("32 ~ 'a' 0005 00");
    assert_eq!(bench.next(), Ok(None), "it waits");
    assert!(bench.session.paused());
}

#[test]
fn a_client_without_room_for_our_answers_is_refused() {
    for (line, answer) in [
        ("10 ~ 'MQTT' 05 02 003C ( 27 00000004 ) 'a'", ""),
        (
            "10 ~ 'MQTT' 05 02 0000 ( 27 00000007 ) 'a'",
            "20 03 00 95 00",
        ),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.violation(line), Violation::ClientMaximumTooSmall);
        assert_eq!(bench.answered(), assemble(answer), "{line}");
    }
}

#[test]
fn no_answer_is_larger_than_the_client_takes() {
    let open = "10 ~ 'MQTT' 05 02 003C ( 27 00000007 ) 'a'";
    let mut bench = Bench::open(open);
    let granted = [Some(QoS::AtLeastOnce), None];
    assert!(bench.session.suback(ONE, &granted, &mut bench.out));
    assert_eq!(bench.answered(), assemble("90 ~ 0001 00 01 87"));
    let granted = [None, None, None];
    assert!(!bench.session.suback(ONE, &granted, &mut bench.out));
    assert!(!bench.session.unsuback(ONE, &[false; 3], &mut bench.out));
    assert!(bench.answered().is_empty());
    let ticket = bench.ticket("32 ~ 'a' 0001 00");
    assert!(
        bench
            .session
            .refuse_publish(ticket, 0x97, "why", &mut bench.out)
    );
    assert_eq!(bench.answered(), assemble("40 03 0001 97"));
    let why = Goodbye::Administrative;
    bench.session.goodbye(why, "why", &mut bench.out);
    assert_eq!(bench.answered(), assemble("E0 01 98"));
    // With room to the byte, the reason is said.
    for (max, puback) in [("0C", "40 ~ 0001 97 ( 1F 'why' )"), ("0B", "40 03 0001 97")] {
        let mut bench = Bench::open(&format!("10 ~ 'MQTT' 05 02 003C ( 27 000000{max} ) 'a'"));
        let ticket = bench.ticket("32 ~ 'a' 0001 00");
        bench
            .session
            .refuse_publish(ticket, 0x97, "why", &mut bench.out);
        assert_eq!(bench.answered(), assemble(puback), "{max}");
    }
}

#[test]
fn mqtt_3_1_is_answered_as_3_1_1_but_for_a_refused_filter() {
    let mut bench = Bench::new();
    bench.one("10 ~ 'MQIsdp' 03 02 003C 'a'");
    bench.session.accept(None, &mut bench.out, bench.now);
    assert_eq!(bench.answered(), [0x20, 2, 0, 0]);
    let granted = [Some(QoS::ExactlyOnce), Some(QoS::AtMostOnce)];
    assert!(bench.session.suback(ONE, &granted, &mut bench.out));
    assert_eq!(bench.answered(), assemble("90 ~ 0001 01 00"));
    let granted = [Some(QoS::AtLeastOnce), None];
    assert!(!bench.session.suback(ONE, &granted, &mut bench.out));
    assert!(bench.session.unsuback(ONE, &[false], &mut bench.out));
    assert_eq!(bench.answered(), assemble("B0 02 0001"));
    let ticket = bench.ticket("32 ~ 'a' 0001");
    assert!(
        !bench
            .session
            .refuse_publish(ticket, 0x97, "no", &mut bench.out)
    );
    let why = Goodbye::Administrative;
    bench.session.goodbye(why, "", &mut bench.out);
    assert!(bench.answered().is_empty());

    let mut bench = Bench::new();
    bench.one("10 ~ 'MQIsdp' 03 02 003C 'a'");
    bench
        .session
        .refuse(ConnectRefusal::BadCredentials, "", &mut bench.out);
    assert_eq!(bench.answered(), [0x20, 2, 0, 4]);
}

#[test]
fn a_version_that_is_not_served_is_refused_in_its_own_words() {
    let rows = [
        (Protocol::V31, "10 ~ 'MQIsdp' 03 02 003C 'a'", "20 02 00 01"),
        (Protocol::V311, "10 ~ 'MQTT' 04 02 003C 'a'", "20 02 00 01"),
        (
            Protocol::V5,
            "10 ~ 'MQTT' 05 02 003C 00 'a'",
            "20 03 00 84 00",
        ),
    ];
    for (version, connect, answer) in rows {
        for (served, _, _) in rows {
            let mut bench = Bench::new();
            let only = Versions::NONE.and(served);
            bench.session = Session::new(session_limits(), Mono::default()).serving(only);
            if served == version {
                assert!(matches!(bench.one(connect), Event::Connect(_)));
            } else {
                assert_eq!(bench.violation(connect), Violation::VersionNotServed);
                assert_eq!(bench.answered(), assemble(answer));
            }
        }
    }
}

#[test]
fn a_request_to_the_gateway_is_acknowledged_in_its_turn_and_answered_at_once() {
    let mut bench = Bench::v311();
    let first = bench.ticket("32 ~ 'a' 0001");
    let asked = bench.ticket("32 ~ 'a' 0002");
    let answer = Deliver {
        topic: "r".into(),
        payload: Bytes::from_static(b"501"),
        qos: QoS::AtMostOnce,
        delivery: 0,
    };
    assert!(bench.session.answer(asked, Some(&answer), &mut bench.out));
    assert_eq!(bench.answered(), assemble("30 ~ 'r' \"501\""));
    bench.acknowledge(first);
    assert_eq!(bench.answered(), assemble("40 02 0001 40 02 0002"));
}

#[test]
fn last_words_are_pubacks_that_had_come_and_nothing_else() {
    let mut bench = Bench::v311();
    for delivery in 1..=2 {
        let command = Deliver {
            topic: "t".into(),
            payload: Bytes::new(),
            qos: QoS::AtLeastOnce,
            delivery,
        };
        assert!(bench.session.deliver(&command, &mut bench.out));
    }
    bench.push("32 08 'a' 0001 'x' 40 02 0002 C0 00 40 02 0009 40 02 00");
    let words = bench.session.last_words(&mut bench.input);
    assert_eq!(words, [Event::Delivered(2)]);
    assert_eq!(bench.session.downlink_free(), 1);
    // A goodbye of this side is no end of it; nonsense is, and a violation.
    let why = Goodbye::TakenOver;
    bench.session.goodbye(why, "", &mut bench.out);
    bench.input.clear();
    bench.push("40 02 0001");
    let words = bench.session.last_words(&mut bench.input);
    assert_eq!(words, [Event::Delivered(1)]);
    bench.push("F0 00 40 02 0001");
    assert!(bench.session.last_words(&mut bench.input).is_empty());
    let mut bench = Bench::v311();
    let command = Deliver {
        topic: "t".into(),
        payload: Bytes::new(),
        qos: QoS::AtLeastOnce,
        delivery: 1,
    };
    assert!(bench.session.deliver(&command, &mut bench.out));
    assert_eq!(bench.violation("F0 00 40 02 0001"), Violation::ReservedType);
    bench.session.goodbye(why, "", &mut bench.out);
    bench.input.clear();
    bench.push("40 02 0001");
    assert!(bench.session.last_words(&mut bench.input).is_empty());
}

#[test]
fn disconnect_with_a_session_expiry_nobody_asked_for_is_a_violation() {
    let line = "E0 ~ 00 ( 11 0000000A )";
    assert_eq!(Bench::v5().violation(line), Violation::SessionExpiry);
    let mut bench = Bench::open("10 ~ 'MQTT' 05 02 003C ( 11 00000001 ) 'a'");
    assert_eq!(bench.one(line), Event::Disconnect);
}

#[test]
fn suback_grants_at_most_qos_1_and_refuses_per_filter() {
    let granted = [
        Some(QoS::AtMostOnce),
        Some(QoS::AtLeastOnce),
        Some(QoS::ExactlyOnce),
        None,
    ];
    let mut bench = Bench::v311();
    assert!(bench.session.suback(ONE, &granted, &mut bench.out));
    assert_eq!(bench.answered(), assemble("90 ~ 0001 00 01 01 80"));
    let mut bench = Bench::v5();
    assert!(bench.session.suback(ONE, &granted, &mut bench.out));
    assert_eq!(bench.answered(), assemble("90 ~ 0001 00 00 01 01 87"));
}

#[test]
fn unsuback_answers_each_filter_in_mqtt_5_only() {
    let mut bench = Bench::v311();
    let existed = [true, false, true];
    assert!(bench.session.unsuback(ONE, &existed, &mut bench.out));
    assert_eq!(bench.answered(), assemble("B0 02 0001"));
    let mut bench = Bench::v5();
    let existed = [true, false, true];
    assert!(bench.session.unsuback(ONE, &existed, &mut bench.out));
    assert_eq!(bench.answered(), assemble("B0 ~ 0001 00 00 11 00"));
}

#[test]
fn goodbye_has_a_reason_in_mqtt_5_and_no_words_in_3_1_1() {
    for (reason, code) in [
        (Goodbye::NotAuthorized, "87"),
        (Goodbye::ServerBusy, "89"),
        (Goodbye::ShuttingDown, "8B"),
        (Goodbye::KeepAliveTimeout, "8D"),
        (Goodbye::TakenOver, "8E"),
        (Goodbye::Administrative, "98"),
    ] {
        let mut bench = Bench::v5();
        bench.session.goodbye(reason, "why", &mut bench.out);
        assert_eq!(
            bench.answered(),
            assemble(&format!("E0 ~ {code} ( 1F 'why' )"))
        );
        let mut bench = Bench::v311();
        bench.session.goodbye(reason, "why", &mut bench.out);
        assert!(bench.answered().is_empty());
    }
}

#[test]
fn a_long_reason_is_cut_between_characters_and_its_lengths_stay_true() {
    let mut bench = Bench::v5();
    let text = "é".repeat(1000);
    bench
        .session
        .goodbye(Goodbye::Administrative, &text, &mut bench.out);
    let want = format!("E0 ~ 98 ( 1F '{}' )", "é".repeat(128));
    assert_eq!(bench.answered(), assemble(&want));
    assert_eq!(encode::cap("aé", 2), "a");
}
