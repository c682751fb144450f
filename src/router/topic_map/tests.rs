//! Topics: whose they are, and what they carry.

mod filters;
mod templates;

use super::*;
use crate::hub::message::SystemProperties;
use crate::mqtt::packet::QoS;
use std::collections::HashSet;

const ALL: Permissions = Permissions::ALL;

fn party<'a>(device: &'a str, module: Option<&'a str>) -> Party<'a> {
    Party {
        device,
        module,
        permissions: ALL,
        topics: None,
    }
}

fn message(topic: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::from_static(b"21.5"),
        retain: false,
        will: false,
        properties: None,
    }
}

fn up(party: &Party<'_>, topic: &str) -> Result<Telemetry, TopicError> {
    telemetry(party, message(topic), 64, Properties::Strict).map(|mapped| mapped.telemetry)
}

fn pair(key: &str, value: &str) -> (String, Option<String>) {
    (key.to_owned(), Some(value.to_owned()))
}

#[test]
fn telemetry_topics_are_taken_with_and_without_slash_and_bag() {
    let device = party("d", None);
    for (topic, want) in [
        ("devices/d/messages/events", vec![]),
        ("devices/d/messages/events/", vec![]),
        ("devices/d/messages/events/a=1", vec![pair("a", "1")]),
        ("devices/d/messages/events/a=1/", vec![pair("a", "1")]),
        ("devices/d/messages/events/a=%2F", vec![pair("a", "/")]),
    ] {
        let telemetry = up(&device, topic).expect(topic);
        assert_eq!(telemetry.application, want, "{topic}");
        assert_eq!(telemetry.system, SystemProperties::default());
        assert_eq!(&telemetry.body[..], b"21.5");
    }
    let module = party("d", Some("m"));
    let found = up(&module, "devices/d/modules/m/messages/events/$.on=out1/").unwrap();
    assert_eq!(found.application, [pair("iothub-outputname", "out1")]);
}

#[test]
fn the_topics_of_real_sdks_are_understood() {
    let device = party("snoopy", None);
    let c = "devices/snoopy/messages/events/property_key=property_value\
             &%24.mid=msg_id&%24.cid=core_id&%24.ct=application%2Fjson&%24.ce=utf-8";
    let found = up(&device, c).unwrap();
    assert_eq!(found.system.message_id.as_deref(), Some("msg_id"));
    assert_eq!(found.system.correlation_id.as_deref(), Some("core_id"));
    assert_eq!(
        found.system.content_type.as_deref(),
        Some("application/json")
    );
    assert_eq!(found.system.content_encoding.as_deref(), Some("utf-8"));
    assert_eq!(found.application, [pair("property_key", "property_value")]);
    let python = "devices/snoopy/messages/events/%24.mid=1&%24.ct=application%2Fjson&temp=2%3A1";
    let found = up(&device, python).unwrap();
    assert_eq!(found.application, [pair("temp", "2:1")]);
}

#[test]
fn ids_with_every_legal_character_are_compared_as_they_stand() {
    let id = "a-b.c_d:e%2Ff*g?h!i(j),k=l@m$n'";
    let device = party(id, None);
    assert!(up(&device, &format!("devices/{id}/messages/events/")).is_ok());
    let decoded = id.replace("%2F", "/");
    assert!(up(&device, &format!("devices/{decoded}/messages/events/")).is_err());
}

#[test]
fn topics_that_fit_no_template_are_unknown() {
    let device = party("d", None);
    for topic in [
        "devices",
        "devices/d",
        "devices/d/",
        "devices/d/messages",
        "devices/d/messages/",
        "devices/d/messages/event",
        "devices/d/messages/eventsx",
        "devices/d/messages/Events/",
        "Devices/d/messages/events/",
        "devices/d/Messages/events/",
        "/devices/d/messages/events/",
        "devices/d//messages/events/",
        "devices/d/messages//events/",
        "devices/d/messages/devicebound/",
        "$iothub/twin/POST/?$rid=1",
        "$iothub/telemetry",
        "telemetry",
        "/",
    ] {
        assert_eq!(up(&device, topic), Err(TopicError::Unknown), "{topic}");
    }
    for topic in [
        "devices/d/messages/events//",
        "devices/d/messages/events/a/b",
        "devices/d/messages/events/a//",
    ] {
        assert_eq!(up(&device, topic), Err(TopicError::SlashInBag), "{topic}");
    }
}

/// Sixty spellings a device `a` could try to reach device `b` with.
fn spellings(suffix: &str) -> Vec<String> {
    let ids = [
        "b",
        "B",
        "%62",
        "%2562",
        "b%00",
        "b%2F",
        "b%20",
        " b",
        "b ",
        "b.",
        "./b",
        "../b",
        "a/../b",
        "a%2F..%2Fb",
        "a%2Fb",
        "ab",
        "a b",
        "a,b",
        "a;b",
        "a&b",
        "a|b",
        "b\u{200B}",
        "\u{FEFF}b",
        "ｂ",
        "Ь",
        "$b",
        "$a",
        "",
        "/b",
        "//b",
        "b/",
        "*",
        "?",
        "~b",
        "@b",
        "a@b",
        "b@a",
        "A",
        "a%00",
        "a%61",
        "%61",
        "a.",
        "a ",
        " a",
        "a/",
        "a//",
        "/a",
        "a\u{301}",
        "a/modules/b",
        "b/modules/a",
        "a/modules/a",
        "b/modules/b",
        "a/modules/../b",
        "a/b",
        "b/a",
        "a/messages/b",
        "..",
        ".",
        "aa",
        "b/messages/events/../../a",
    ];
    ids.iter()
        .map(|id| format!("devices/{id}/messages/{suffix}"))
        .collect()
}

#[test]
fn sixty_spellings_of_another_devices_topic_are_all_refused() {
    let device = party("a", None);
    let module = party("a", Some("m"));
    let topics = spellings("events/");
    assert!(topics.len() >= 60, "{}", topics.len());
    for topic in &topics {
        assert!(up(&device, topic).is_err(), "{topic}");
        assert!(up(&module, topic).is_err(), "{topic} of a module");
    }
    for filter in spellings("devicebound/#") {
        assert!(check_filter(&device, &filter).is_err(), "{filter}");
        assert!(
            check_filter(&module, &filter).is_err(),
            "{filter} of a module"
        );
    }
}

#[test]
fn a_module_does_not_speak_for_its_device_nor_the_device_for_it() {
    let device = party("d", None);
    let module = party("d", Some("m"));
    for (who, topic) in [
        (&device, "devices/e/messages/events/"),
        (&device, "devices/d/modules/m/messages/events/"),
        (&module, "devices/d/messages/events/"),
        (&module, "devices/d/modules/n/messages/events/"),
        (&module, "devices/e/modules/m/messages/events/"),
    ] {
        assert_eq!(up(who, topic), Err(TopicError::ForeignDevice), "{topic}");
    }
}

#[test]
fn permissions_are_checked_after_the_topic_and_before_the_bag() {
    let mut device = party("d", None);
    device.permissions = Permissions::NONE;
    let events = "devices/d/messages/events/%";
    assert_eq!(up(&device, events), Err(TopicError::TelemetryDenied));
    let commands = "devices/d/messages/devicebound/#";
    assert_eq!(
        check_filter(&device, commands),
        Err(TopicError::CommandsDenied)
    );
}

#[test]
fn retain_and_will_are_marked_and_cannot_be_forged() {
    let device = party("d", None);
    let publish = Publish {
        topic: "devices/d/messages/events/a=1".into(),
        payload: Bytes::new(),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: false,
        packet_id: None,
        properties: None,
    };
    let found = telemetry(&device, publish.into(), 1, Properties::Strict)
        .unwrap()
        .telemetry;
    assert_eq!(
        found.application,
        [pair("a", "1"), pair("mqtt-retain", "true")]
    );
    let will = Will {
        topic: "devices/d/messages/events/".into(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: None,
    };
    let found = telemetry(&device, will.into(), 0, Properties::Strict)
        .unwrap()
        .telemetry;
    assert_eq!(found.application, [pair("iothub-MessageType", "Will")]);
    assert_eq!(&found.body[..], b"gone");
    let forged = up(&device, "devices/d/messages/events/iothub-MessageType=Will");
    assert_eq!(forged, Err(TopicError::ReservedProperty));
}

#[test]
fn properties_of_mqtt_5_travel_under_the_rules_of_the_bag() {
    let device = party("d", None);
    let with = |topic: &str, properties: MessageProperties| {
        let mut message = message(topic);
        message.properties = Some(Box::new(properties));
        telemetry(&device, message, 3, Properties::Strict).map(|mapped| mapped.telemetry)
    };
    let events = "devices/d/messages/events/";
    let full = MessageProperties {
        content_type: Some("text/plain".into()),
        correlation_data: Some(Bytes::from_static(b"c-1")),
        user: vec![("k".into(), "v".into())],
        ..MessageProperties::default()
    };
    let found = with(events, full.clone()).unwrap();
    assert_eq!(found.system.content_type.as_deref(), Some("text/plain"));
    assert_eq!(found.system.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(found.application, [pair("k", "v")]);
    let twice = "devices/d/messages/events/$.ct=a";
    let found = with(twice, full.clone()).unwrap();
    assert_eq!(found.system.content_type.as_deref(), Some("text/plain"));
    let user = |key: &str| MessageProperties {
        user: vec![(key.into(), "v".into())],
        ..MessageProperties::default()
    };
    assert_eq!(
        with(events, user("iothub-x")),
        Err(TopicError::ReservedProperty)
    );
    assert_eq!(
        with(events, user("$.cdid")),
        Err(TopicError::UnknownSystemProperty)
    );
    assert_eq!(with(events, user("")).unwrap().application, []);
    let three = "devices/d/messages/events/x&y&z";
    assert_eq!(with(three, user("k")), Err(TopicError::TooManyProperties));
    let binary = MessageProperties {
        correlation_data: Some(Bytes::from_static(&[0xFF])),
        ..MessageProperties::default()
    };
    assert_eq!(with(events, binary), Err(TopicError::MalformedId));
}

#[test]
fn what_mqtt_5_allows_and_amqp_cannot_hold_is_mended_in_messages_and_wills_and_counted() {
    let device = party("d", None);
    let pairs = [("k", "1"), ("", "x"), ("l", "2"), ("k", "3"), ("", "y")];
    let user = pairs
        .map(|(key, value)| (key.into(), value.into()))
        .to_vec();
    for will in [false, true] {
        let mut message = message("devices/d/messages/events/l=bag");
        message.will = will;
        message.properties = Some(Box::new(MessageProperties {
            user: user.clone(),
            ..MessageProperties::default()
        }));
        let found = telemetry(&device, message, 8, Properties::Strict).unwrap();
        let application = &found.telemetry.application[..2];
        assert_eq!(application, [pair("l", "2"), pair("k", "3")]);
        let mended = Mended {
            repeated: 2,
            nameless: 2,
            escapes: 0,
        };
        assert_eq!(found.mended, mended);
    }
    // The bag is the device's own to write well, in MQTT 5 too.
    let mut message = message("devices/d/messages/events/a=1&a=2");
    message.properties = Some(Box::default());
    let refused = telemetry(&device, message, 8, Properties::Strict).map(|_| ());
    assert_eq!(refused, Err(TopicError::DuplicateProperty));
}

/// The hub's habits: one slash after the bag belongs to the topic, a question mark before it to the
/// bag's form.
#[test]
fn a_slash_after_the_bag_and_a_question_mark_before_it_are_no_part_of_it() {
    let device = party("d", None);
    let a = || vec![pair("a", "1")];
    for (bag, want) in [
        ("a=1/", a()),
        ("?a=1", a()),
        ("?a=1/", a()),
        ("?", vec![]),
        ("?/", vec![]),
        ("a=1%2F", vec![pair("a", "1/")]),
        ("%3Fa=1", vec![pair("?a", "1")]),
        ("a=1?", vec![pair("a", "1?")]),
        ("a=?1", vec![pair("a", "?1")]),
        ("??a=1", vec![pair("?a", "1")]),
    ] {
        let topic = format!("devices/d/messages/events/{bag}");
        assert_eq!(up(&device, &topic).expect(bag).application, want, "{bag}");
    }
    for bag in ["a=1//", "/a=1", "a/b=1"] {
        let topic = format!("devices/d/messages/events/{bag}");
        assert_eq!(up(&device, &topic), Err(TopicError::SlashInBag), "{bag}");
    }
}

#[test]
fn the_command_topic_is_the_one_seen_on_the_wire() {
    let mut command = Command {
        delivery: 1,
        system: SystemProperties {
            message_id: Some("9923d5e1-2759-4706-957a-8c8728d6c7ea".into()),
            to: Some("/devices/snoopy/messages/devicebound".into()),
            ..SystemProperties::default()
        },
        application: vec![],
        body: Bytes::new(),
        delivery_count: 0,
    };
    let wire = "devices/snoopy/messages/devicebound/%24.mid=9923d5e1-2759-4706-957a-8c8728d6c7ea\
                &%24.to=%2Fdevices%2Fsnoopy%2Fmessages%2Fdevicebound";
    assert_eq!(
        delivery_topic(&party("snoopy", None), &command, false),
        wire
    );
    command.system.to = None;
    assert_eq!(
        delivery_topic(&party("snoopy", None), &command, false),
        wire
    );
    command.application = vec![pair("iothub-ack", "full"), ("prop1".to_owned(), None)];
    let more = format!("{wire}&iothub-ack=full&prop1");
    assert_eq!(
        delivery_topic(&party("snoopy", None), &command, false),
        more
    );
    command.system.message_id = None;
    command.application.clear();
    assert_eq!(
        delivery_topic(&party("d", Some("m")), &command, false),
        "devices/d/modules/m/messages/devicebound/\
         %24.to=%2Fdevices%2Fd%2Fmodules%2Fm%2Fmessages%2Fdevicebound"
    );
}

#[test]
fn a_command_topic_always_matches_the_filter_it_was_asked_with() {
    let id = "a-b.c_d:e%2Ff*g?h!i(j),k=l@m$n'";
    let command = Command {
        delivery: 1,
        system: SystemProperties::default(),
        application: vec![pair("a/b", "+#/"), pair("\u{0}", "x")],
        body: Bytes::new(),
        delivery_count: 0,
    };
    let delivered = delivery_topic(&party(id, None), &command, false);
    let filter = format!("devices/{id}/messages/devicebound/#");
    let granted = check_filter(&party(id, None), &filter);
    assert_eq!(granted, Ok(Subscription::Commands));
    assert!(topic::matches(&filter, &delivered));
    let limits = topic::TopicLimits {
        bytes_max: 65_535,
        levels_max: 5,
    };
    assert_eq!(topic::check_name(delivered.as_bytes(), limits), Ok(()));
}

#[test]
fn every_error_has_its_own_label_and_a_sentence() {
    let all = [
        TopicError::Unknown,
        TopicError::ForeignDevice,
        TopicError::TelemetryDenied,
        TopicError::CommandsDenied,
        TopicError::SlashInBag,
        TopicError::MalformedEscape,
        TopicError::EmptyKey,
        TopicError::ReservedProperty,
        TopicError::UnknownSystemProperty,
        TopicError::DuplicateProperty,
        TopicError::TooManyProperties,
        TopicError::MalformedId,
        TopicError::NotAscii,
        TopicError::MalformedExpiry,
        TopicError::FilterUnknown,
        TopicError::FilterTooWide,
    ];
    let labels: HashSet<_> = all.iter().map(|error| error.reason()).collect();
    assert_eq!(labels.len(), all.len());
    assert!(all.iter().all(|error| error.to_string().len() > 30));
}
