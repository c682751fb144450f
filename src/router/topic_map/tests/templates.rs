//! Topics of a rule's own: telemetry by templates, unmatched topics, retain, commands.

use super::super::{Party, Subscription, TopicError, check_filter, delivery_topic, telemetry};
use super::{ALL, Command, Properties, message, pair, up};
use crate::auth::rules::{Probe, Resolvers, RuleSet, RulesText, Topics};
use crate::telemetry::reason::Reason;
use bytes::Bytes;
use std::sync::Arc;

/// The topics of a rule with these lines, as a rules file gives them.
fn topics(lines: &str) -> Arc<Topics> {
    let key = "psk = { identity = \"d\", key = \"raw:sixteen-byte-key\" }";
    let text = format!("[[device]]\nid = \"d\"\n{key}\n{lines}");
    let resolvers = Resolvers {
        read: &|_| Err("no files".to_owned()),
        read_secret: &|_| Err("no files".to_owned()),
        secret: &|text| Ok(text.to_owned()),
    };
    let name = "rules.toml";
    let rules = RuleSet::parse(&[RulesText { name, text: &text }], &resolvers);
    let rules = rules.unwrap_or_else(|problems| panic!("{problems:?}"));
    let probe = Probe::parse("psk:d").expect("a probe");
    let outcome = rules.explain_as(&probe).outcome.expect("admitted");
    outcome.topics.expect("topics of its own")
}

fn party<'a>(topics: &'a Topics, module: Option<&'a str>) -> Party<'a> {
    Party {
        device: "d",
        module,
        permissions: ALL,
        topics: Some(topics),
    }
}

#[test]
fn a_template_makes_telemetry_with_the_properties_of_its_holes() {
    let topics = topics("publish = [\"factory/{line}/{device}/temp\", \"x/{a}/{b}\"]\n");
    let device = party(&topics, None);
    let found = up(&device, "factory/7/d/temp").unwrap();
    assert_eq!(found.application, [pair("line", "7")]);
    assert_eq!(&found.body[..], b"21.5");
    let found = up(&device, "x/1%20/2").unwrap();
    assert_eq!(found.application, [pair("a", "1%20"), pair("b", "2")]);
    // IoT Hub's topic still serves, and its bag.
    let found = up(&device, "devices/d/messages/events/a=1").unwrap();
    assert_eq!(found.application, [pair("a", "1")]);
    for (topic, error) in [
        ("factory/7/e/temp", TopicError::ForeignDevice),
        ("factory/7/d/hum", TopicError::Unknown),
        ("devices/e/messages/events/", TopicError::ForeignDevice),
        ("", TopicError::Unknown),
    ] {
        assert_eq!(up(&device, topic).unwrap_err(), error, "{topic}");
    }
    let mute = Party {
        permissions: crate::auth::Permissions {
            telemetry: false,
            ..ALL
        },
        ..device
    };
    let denied = up(&mute, "factory/7/d/temp").unwrap_err();
    assert_eq!(denied, TopicError::TelemetryDenied);
}

#[test]
fn more_holes_than_properties_are_allowed_are_too_many() {
    let topics = topics("publish = \"{a}/{b}/{c}\"\n");
    let device = party(&topics, None);
    let error = telemetry(&device, message("1/2/3"), 2, Properties::Strict).unwrap_err();
    assert_eq!(error, TopicError::TooManyProperties);
}

#[test]
fn an_unmatched_topic_is_telemetry_where_the_rule_says_so_and_never_one_of_the_hubs() {
    let topics = topics("unmatched = \"telemetry\"\n");
    let device = party(&topics, None);
    let found = up(&device, "any/thing at/all").unwrap();
    assert_eq!(found.application, [pair("mqtt-topic", "any/thing at/all")]);
    for (topic, error) in [
        ("devices/d/other", TopicError::Unknown),
        ("devices/e/messages/events/", TopicError::ForeignDevice),
        ("$iothub/other", TopicError::Unknown),
        (
            "devices/d/messages/events/mqtt-topic=x",
            TopicError::ReservedProperty,
        ),
    ] {
        assert_eq!(up(&device, topic).unwrap_err(), error, "{topic}");
    }
}

#[test]
fn the_retain_flag_is_a_property_by_either_name_or_refused() {
    let retained = |lines: &str| {
        let topics = topics(lines);
        let mut message = message("devices/d/messages/events/");
        message.retain = true;
        let mapped = telemetry(&party(&topics, None), message, 64, Properties::Strict);
        mapped.map(|mapped| mapped.telemetry.application)
    };
    let named = |name: &str| Ok(vec![pair(name, "true")]);
    assert_eq!(retained("unmatched = \"drop\"\n"), named("mqtt-retain"));
    assert_eq!(
        retained("retain = \"x-opt-retain\"\n"),
        named("x-opt-retain")
    );
    let refused = retained("retain = \"refuse\"\n").unwrap_err();
    assert_eq!(refused, TopicError::RetainRefused);
    assert_eq!(refused.reason(), Reason::RetainRefused);
    assert_eq!(refused.mqtt5_reason(), 0x9a, "MQTT5 §3.4.2.1");
}

#[test]
fn a_will_goes_by_a_template_too_and_is_marked() {
    let topics = topics("publish = \"status/{device}\"\n");
    let mut will = message("status/d");
    will.will = true;
    let mapped = telemetry(&party(&topics, None), will, 64, Properties::Strict).unwrap();
    let marked = pair("iothub-MessageType", "Will");
    assert_eq!(mapped.telemetry.application, [marked]);
}

#[test]
fn commands_come_on_the_rules_own_topic_where_the_device_listens_there() {
    let topics = topics("subscribe = \"cmd/{device}/#\"\n");
    let device = party(&topics, None);
    assert_eq!(check_filter(&device, "cmd/d/#"), Ok(Subscription::Own));
    let usual = check_filter(&device, "devices/d/messages/devicebound/#");
    assert_eq!(usual, Ok(Subscription::Commands));
    for filter in ["cmd/e/#", "cmd/#", "cmd/+/#"] {
        assert!(check_filter(&device, filter).is_err(), "{filter}");
    }
    let command = Command {
        body: Bytes::from_static(b"on"),
        system: Default::default(),
        application: vec![pair("a b", "1/2")],
        delivery: 1,
        delivery_count: 0,
    };
    let topic = delivery_topic(&device, &command, true);
    assert!(topic.starts_with("cmd/d/%24.to="), "{topic}");
    assert!(topic.ends_with("&a%20b=1%2F2"), "{topic}");
    let topic = delivery_topic(&device, &command, false);
    assert!(
        topic.starts_with("devices/d/messages/devicebound/"),
        "{topic}"
    );
    let fixed = self::topics("subscribe = \"in/{device}\"\n");
    assert_eq!(delivery_topic(&party(&fixed, None), &command, true), "in/d");
}
