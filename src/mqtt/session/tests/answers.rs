//! The bytes of the answers, both versions.

use super::*;
use std::num::NonZeroU16;

const ONE: PacketId = PacketId(NonZeroU16::MIN);

#[test]
fn connack_of_3_1_1_is_four_bytes_without_session_present() {
    let mut bench = Bench::new();
    bench.one("10 ~ 'MQTT' 04 00 003C 'a'");
    bench.session.accept(&mut bench.out, at(0));
    assert_eq!(bench.answered(), [0x20, 2, 0, 0]);
}

#[test]
fn connack_of_5_says_what_this_gateway_takes() {
    let mut bench = Bench::new();
    bench.one("10 ~ 'MQTT' 05 02 003C 00 'a'");
    bench.session.accept(&mut bench.out, at(0));
    let plain = assemble("20 ~ 00 00 ( 21 0004 24 01 25 00 27 00000400 29 00 2A 00 )");
    assert_eq!(bench.answered(), plain);

    // A keep-alive above the cap and a session expiry are answered with what is in force.
    for asked in ["0000", "FFFF"] {
        let mut bench = Bench::new();
        bench.one(&format!("10 ~ 'MQTT' 05 02 {asked} ( 11 FFFFFFFF ) 'a'"));
        bench.session.accept(&mut bench.out, at(0));
        let all = "20 ~ 00 00 ( 11 00000000 21 0004 24 01 25 00 27 00000400 29 00 2A 00 13 0499 )";
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
        ("10 ~ 'MQIsdp' 03 02 003C 'a'", "20 02 00 01"),
        ("10 ~ 'MQTT' 06 02 003C 00 'a'", "20 03 00 84 00"),
        ("10 ~ 'MQTT' 04 00 003C ''", "20 02 00 02"),
        ("10 ~ 'MQTT' 04 03 003C 'a'", ""),
        ("10 ~ 'HTTP' 04 02 003C 'a'", ""),
        ("10 ~ 'MQTT' 04", ""),
        ("10 ~ 'MQTT' 05 03 003C 00 'a'", "20 03 00 81 00"),
        ("10 ~ 'MQTT' 05 02 003C ( 15 'SAS' ) 'a'", "20 03 00 8C 00"),
        ("10 ~ 'MQTT' 05 16 003C 00 'a' 00 't' 'm'", "20 03 00 9B 00"),
        (
            "10 ~ 'MQTT' 05 02 003C ( 27 00000010 ) 'a'",
            "20 03 00 83 00",
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
    let mut bench = Bench::open("10 ~ 'MQTT' 05 02 003C ( 27 00000040 ) 'a'");
    bench.violation("34");
    assert_eq!(bench.answered(), [0xE0, 1, 0x9B]);
}

#[test]
fn a_client_without_room_for_our_answers_is_refused() {
    let mut bench = Bench::new();
    let small = "10 ~ 'MQTT' 05 02 003C ( 27 0000003F ) 'a'";
    assert_eq!(bench.violation(small), Violation::ClientMaximumTooSmall);
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
    bench.session.suback(ONE, &granted, &mut bench.out);
    assert_eq!(bench.answered(), assemble("90 ~ 0001 00 01 01 80"));
    let mut bench = Bench::v5();
    bench.session.suback(ONE, &granted, &mut bench.out);
    assert_eq!(bench.answered(), assemble("90 ~ 0001 00 00 01 01 87"));
}

#[test]
fn unsuback_answers_each_filter_in_mqtt_5_only() {
    let mut bench = Bench::v311();
    bench.session.unsuback(ONE, 3, &mut bench.out);
    assert_eq!(bench.answered(), assemble("B0 02 0001"));
    let mut bench = Bench::v5();
    bench.session.unsuback(ONE, 3, &mut bench.out);
    assert_eq!(bench.answered(), assemble("B0 ~ 0001 00 00 00 00"));
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
