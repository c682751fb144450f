//! The acknowledgement windows, both ways.

use super::*;

fn command(qos: QoS, delivery: u64) -> Deliver {
    Deliver {
        topic: "devices/a/messages/devicebound/".into(),
        payload: Bytes::from_static(b"{}"),
        qos,
        delivery,
    }
}

fn publish(id: u16) -> String {
    format!("32 ~ 'a' {id:04X} \"x\"")
}

fn publish_v5(id: u16) -> String {
    format!("32 ~ 'a' {id:04X} 00 \"x\"")
}

/// A session whose window holds messages 1 to 4, and their tickets.
fn full() -> (Bench, Vec<Ticket>) {
    let mut bench = Bench::v311();
    let tickets = (1..=4).map(|id| bench.ticket(&publish(id))).collect();
    (bench, tickets)
}

#[test]
fn pubacks_go_out_in_the_order_of_the_publishes() {
    let mut bench = Bench::v311();
    let tickets = [5, 3, 9].map(|id| bench.ticket(&publish(id)));
    bench.acknowledge(tickets[2]);
    bench.acknowledge(tickets[1]);
    assert!(bench.answered().is_empty());
    bench.acknowledge(tickets[0]);
    assert_eq!(bench.answered(), assemble("4002 0005 4002 0003 4002 0009"));
    // Twice, or a ticket that never was: nothing.
    bench.acknowledge(tickets[0]);
    bench.acknowledge(Ticket(77));
    assert!(bench.answered().is_empty());
}

#[test]
fn qos_0_takes_a_slot_and_gives_it_back_without_an_answer() {
    let mut bench = Bench::v311();
    let first = bench.ticket("30 ~ 'a' \"1\"");
    for _ in 0..3 {
        bench.ticket("30 ~ 'a' \"x\"");
    }
    bench.push("30 ~ 'a' \"5\"");
    assert_eq!(bench.next(), Ok(None));
    assert!(bench.session.paused());
    bench.acknowledge(first);
    assert!(bench.answered().is_empty());
    assert!(!bench.session.paused());
    assert!(matches!(
        bench.next(),
        Ok(Some(Event::Publish(Ticket(4), _)))
    ));
}

#[test]
fn a_full_window_holds_the_next_publish_but_nothing_before_it() {
    let (mut bench, tickets) = full();
    bench.push("C000 40 02 0009 30 05 'a' 0000 C000");
    assert_eq!(bench.next(), Ok(Some(Event::None)));
    assert_eq!(bench.answered(), [0xD0, 0]);
    assert_eq!(bench.next(), Ok(Some(Event::None)));
    assert!(!bench.session.paused());
    let left = bench.input.len();
    for _ in 0..3 {
        assert_eq!(bench.next(), Ok(None));
        assert!(bench.session.paused());
        assert_eq!(bench.input.len(), left);
        assert_eq!(bench.session.needed(&bench.input), 0);
    }
    // A later verdict frees nothing yet: slots leave in order.
    bench.acknowledge(tickets[1]);
    assert!(bench.session.paused());
    bench.acknowledge(tickets[0]);
    assert!(!bench.session.paused());
    assert!(matches!(bench.next(), Ok(Some(Event::Publish(..)))));
    assert_eq!(bench.next(), Ok(Some(Event::None)));
}

#[test]
fn a_held_publish_need_not_be_buffered() {
    let (mut bench, tickets) = full();
    bench.push("32 6F");
    assert_eq!(bench.next(), Ok(None));
    assert!(bench.session.paused());
    bench.acknowledge(tickets[0]);
    assert_eq!(bench.next(), Ok(None));
    assert_eq!(bench.session.needed(&bench.input), 0x6F);
}

#[test]
fn the_window_counts_bytes_and_always_admits_one_message() {
    let mut bench = Bench::v311();
    bench.session.uplink = Uplink::new(4, 300);
    let large = bench.ticket("32 ~ 'a' 0001 \"x\"*500");
    bench.push(&publish(2));
    assert_eq!(bench.next(), Ok(None));
    assert!(bench.session.paused());
    bench.acknowledge(large);
    assert!(matches!(bench.next(), Ok(Some(Event::Publish(..)))));
    // 8 bytes are in flight: a packet of 292 fits beside them, one of 293 does not.
    bench.push("32 ~ 'a' 0003 \"x\"*285");
    assert_eq!(bench.next(), Ok(None));
    bench.input.clear();
    assert!(matches!(
        bench.one("32 ~ 'a' 0003 \"x\"*284"),
        Event::Publish(..)
    ));
}

#[test]
fn the_keep_alive_stands_still_while_paused_and_restarts_after() {
    let (mut bench, tickets) = full();
    bench.now = at(60);
    bench.push(&publish(5));
    assert_eq!(bench.next(), Ok(None));
    assert_eq!(bench.session.deadline(), Mono::far_future());
    assert_eq!(bench.session.expired(at(100_000)), None);
    bench.acknowledge(tickets[0]);
    bench.now = at(5000);
    bench.input.truncate(1);
    assert_eq!(bench.next(), Ok(None));
    assert_eq!(bench.session.deadline(), at(5090));
    assert_eq!(
        bench.session.expired(at(5090)),
        Some(Violation::KeepAliveTimeout)
    );
}

#[test]
fn a_dup_of_a_message_in_flight_is_not_sent_twice() {
    let mut bench = Bench::v311();
    let ticket = bench.ticket(&publish(7));
    assert_eq!(bench.one("3A ~ 'a' 0007 \"x\""), Event::None);
    assert_eq!(bench.one("3A ~ 'a' 0007 \"x\""), Event::None);
    bench.acknowledge(ticket);
    assert_eq!(bench.answered(), assemble("4002 0007"));
    // Acknowledged, the id is free: the same DUP is a message again (at least once).
    let again = bench.ticket("3A ~ 'a' 0007 \"x\"");
    bench.acknowledge(again);
    assert_eq!(bench.answered(), assemble("4002 0007"));
}

#[test]
fn a_dup_passes_a_full_window_only_when_its_message_is_in_it() {
    let (mut bench, _) = full();
    bench.push("3A 06 'a' 0003");
    assert_eq!(bench.next(), Ok(None));
    assert!(!bench.session.paused(), "the rest of it may come");
    assert_eq!(bench.session.needed(&bench.input), 1);
    assert_eq!(bench.one("\"x\""), Event::None);
    bench.push("3A ~ 'a' 0005 \"x\"");
    assert_eq!(bench.next(), Ok(None));
    assert!(bench.session.paused());
}

#[test]
fn another_message_under_an_id_in_flight_is_a_violation() {
    let mut bench = Bench::v311();
    let ticket = bench.ticket(&publish(7));
    bench.acknowledge(ticket);
    bench.ticket(&publish(7));
    assert_eq!(bench.violation(&publish(7)), Violation::PacketIdInUse);
}

#[test]
fn all_packet_ids_can_be_used_and_the_window_ends_empty() {
    let mut bench = Bench::v311();
    for id in 1..=u16::MAX {
        let ticket = bench.ticket(&publish(id));
        bench.acknowledge(ticket);
        assert_eq!(bench.answered().len(), 4);
    }
    assert_eq!(bench.session.uplink.qos1(), 0);
    bench.ticket(&publish(1));
    assert!(bench.session.uplink.fits(4096 - 8), "bytes were given back");
    assert!(!bench.session.uplink.fits(4096 - 7));
}

#[test]
fn more_than_the_receive_maximum_ends_mqtt_5() {
    let mut bench = Bench::v5();
    for id in 1..=4 {
        bench.ticket(&publish_v5(id));
    }
    assert_eq!(
        bench.violation(&publish_v5(5)),
        Violation::ReceiveMaximumExceeded
    );
    // QoS 0 is not counted by the client: it waits.
    let mut bench = Bench::v5();
    for _ in 1..=4 {
        bench.ticket("30 ~ 'a' 00 \"x\"");
    }
    bench.push(&publish_v5(5));
    assert_eq!(bench.next(), Ok(None));
    assert!(bench.session.paused());
}

#[test]
fn a_refused_message_gets_its_reason_in_order_or_closes_3_1_1() {
    let mut bench = Bench::v5();
    let first = bench.ticket(&publish_v5(1));
    let second = bench.ticket(&publish_v5(2));
    assert!(
        bench
            .session
            .refuse_publish(second, 0x97, "too-large", &mut bench.out)
    );
    assert!(bench.answered().is_empty());
    bench.acknowledge(first);
    let refused = assemble("40 ~ 0002 97 ( 1F 'too-large' )");
    assert_eq!(bench.answered(), [assemble("4002 0001"), refused].concat());

    let mut bench = Bench::v311();
    let qos1 = bench.ticket(&publish(1));
    let qos0 = bench.ticket("30 ~ 'a'");
    assert!(bench.session.refuse_publish(qos0, 0x83, "", &mut bench.out));
    assert!(!bench.session.refuse_publish(qos1, 0x83, "", &mut bench.out));
    assert!(bench.answered().is_empty());
}

#[test]
fn a_client_that_wants_no_problem_information_gets_the_bare_code() {
    let mut bench = Bench::open("10 ~ 'MQTT' 05 02 003C ( 17 00 ) 'a'");
    let ticket = bench.ticket(&publish_v5(1));
    assert!(
        bench
            .session
            .refuse_publish(ticket, 0x97, "too-large", &mut bench.out)
    );
    assert_eq!(bench.answered(), assemble("40 03 0001 97"));
}

#[test]
fn commands_keep_to_their_window_and_come_back_acknowledged() {
    let mut bench = Bench::v311();
    assert_eq!(bench.session.downlink_free(), 2);
    assert!(
        bench
            .session
            .deliver(&command(QoS::AtLeastOnce, 70), &mut bench.out)
    );
    let topic = "devices/a/messages/devicebound/";
    assert_eq!(
        bench.answered(),
        assemble(&format!("32 ~ '{topic}' 0001 \"{{}}\""))
    );
    assert!(
        bench
            .session
            .deliver(&command(QoS::AtLeastOnce, 71), &mut bench.out)
    );
    bench.answered();
    assert_eq!(bench.session.downlink_free(), 0);
    assert!(
        !bench
            .session
            .deliver(&command(QoS::AtLeastOnce, 72), &mut bench.out)
    );
    assert!(bench.answered().is_empty());
    assert!(
        bench
            .session
            .deliver(&command(QoS::AtMostOnce, 73), &mut bench.out)
    );
    assert_eq!(
        bench.answered(),
        assemble(&format!("30 ~ '{topic}' \"{{}}\""))
    );
    assert_eq!(bench.one("40 02 0002"), Event::Delivered(71));
    assert_eq!(
        bench.one("40 02 0002"),
        Event::None,
        "late and twice is harmless"
    );
    assert_eq!(bench.one("40 02 0001"), Event::Delivered(70));
    assert_eq!(bench.session.downlink_free(), 2);
}

#[test]
fn packet_ids_of_commands_wrap_around_those_still_in_use() {
    let mut bench = Bench::v311();
    assert!(
        bench
            .session
            .deliver(&command(QoS::AtLeastOnce, 1), &mut bench.out)
    );
    bench.answered();
    for delivery in 2..=70_000 {
        assert!(
            bench
                .session
                .deliver(&command(QoS::AtLeastOnce, delivery), &mut bench.out)
        );
        let written = bench.answered();
        let id = u16::from_be_bytes([written[written.len() - 4], written[written.len() - 3]]);
        assert!(id > 1, "0 is no id and 1 is in use");
        assert_eq!(
            bench.one(&format!("40 02 {id:04X}")),
            Event::Delivered(delivery)
        );
    }
    assert_eq!(bench.one("40 02 0001"), Event::Delivered(1));
}

#[test]
fn mqtt_5_clients_bound_what_they_are_sent_and_may_refuse_it() {
    let mut bench = Bench::open("10 ~ 'MQTT' 05 02 003C ( 21 0001 27 00000040 ) 'a'");
    assert_eq!(bench.session.downlink_free(), 1);
    let mut large = command(QoS::AtLeastOnce, 1);
    // 2 + 2 + 31 + 2 + 1 bytes stand before the payload.
    large.payload = Bytes::from(vec![0; 64 - 38 + 1]);
    assert!(!bench.session.fits(&large));
    assert!(!bench.session.deliver(&large, &mut bench.out));
    large.payload.truncate(64 - 38);
    assert!(bench.session.deliver(&large, &mut bench.out));
    assert_eq!(bench.answered().len(), 64);
    assert_eq!(bench.one("40 03 0001 87"), Event::Rejected(1));
    assert_eq!(bench.session.downlink_free(), 1);
}

#[test]
fn a_topic_beyond_its_length_field_does_not_fit() {
    let mut bench = Bench::v311();
    let mut long = command(QoS::AtMostOnce, 1);
    long.topic = "x".repeat(65_536);
    assert!(!bench.session.fits(&long));
    assert!(!bench.session.deliver(&long, &mut bench.out));
    long.topic.pop();
    assert!(bench.session.fits(&long));
}
