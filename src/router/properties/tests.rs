//! The property bag, row by row of wire sheet §8.2.

use super::*;
use proptest::prelude::*;

fn bag(text: &str) -> Result<Gathered, TopicError> {
    let mut gathered = Gathered::new(8, Properties::Strict);
    gathered.bag(text).map(|()| gathered)
}

fn system(text: &str) -> SystemProperties {
    let gathered = bag(text).unwrap();
    assert_eq!(gathered.application, [], "{text}");
    gathered.system
}

fn application(text: &str) -> Vec<(String, Option<String>)> {
    let gathered = bag(text).unwrap();
    assert_eq!(gathered.system, SystemProperties::default(), "{text}");
    gathered.application
}

fn pair(key: &str, value: &str) -> (String, Option<String>) {
    (key.to_owned(), Some(value.to_owned()))
}

fn refused(text: &str, want: TopicError) {
    assert_eq!(bag(text).err(), Some(want), "{text}");
}

#[test]
fn every_system_key_reaches_its_property_in_both_spellings() {
    type Field = fn(&SystemProperties) -> &Option<String>;
    let rows: [(&str, Field); 8] = [
        ("mid", |s| &s.message_id),
        ("cid", |s| &s.correlation_id),
        ("uid", |s| &s.user_id),
        ("to", |s| &s.to),
        ("ct", |s| &s.content_type),
        ("ce", |s| &s.content_encoding),
        ("ifid", |s| &s.interface_id),
        ("sub", |s| &s.component),
    ];
    for (key, field) in rows {
        // `$.` as Node and Python write it, `%24.` as the C SDK does, and a dot escaped for fun.
        for begin in ["$.", "%24.", "%24%2E", "%24%2e"] {
            let found = system(&format!("{begin}{key}=a%2Fb"));
            assert_eq!(field(&found).as_deref(), Some("a/b"), "{begin}{key}");
            let null = system(&format!("{begin}{key}"));
            assert_eq!(null, SystemProperties::default(), "{begin}{key}");
        }
    }
}

#[test]
fn output_name_creation_time_and_schema_travel_as_application_properties() {
    for (text, name) in [
        ("$.on=x", "iothub-outputname"),
        ("$.ctime=x", "iothub-creation-time-utc"),
        ("$.schema=x", "iothub-message-schema"),
        ("%24.schema=x", "iothub-message-schema"),
        ("iothub-operation=x", "iothub-operation"),
        ("iothub-ack=x", "iothub-ack"),
        ("ack=x", "ack"),
        ("iothub-creation-time-utc=x", "iothub-creation-time-utc"),
    ] {
        assert_eq!(application(text), [pair(name, "x")], "{text}");
    }
    refused(
        "$.ctime=x&iothub-creation-time-utc=y",
        TopicError::DuplicateProperty,
    );
}

#[test]
fn the_expiry_is_iso_8601_and_a_malformed_one_is_refused() {
    for (text, want) in [
        ("2030-01-31T12:00:00Z", 1_896_091_200_000),
        ("2030-01-31T12%3A00%3A00Z", 1_896_091_200_000),
        ("2030-01-31T12:00:00.123Z", 1_896_091_200_123),
        ("2030-01-31T12:00:00.1239999Z", 1_896_091_200_123),
        ("2030-01-31T13:30:00%2B01:30", 1_896_091_200_000),
        ("2030-01-31T12:00:00", 1_896_091_200_000),
        ("1969-12-31T23:59:59.999Z", -1),
    ] {
        assert_eq!(
            system(&format!("$.exp={text}")).expiry_ms,
            Some(want),
            "{text}"
        );
    }
    for text in [
        "",
        "soon",
        "1896091200",
        "2030-13-01T00:00:00Z",
        "2030-01-31",
        "12:00:00Z",
    ] {
        refused(&format!("$.exp={text}"), TopicError::MalformedExpiry);
    }
}

#[test]
fn a_key_without_equals_is_null_and_with_it_empty() {
    assert_eq!(
        application("prop1&prop2=&prop3=a%20string"),
        [
            ("prop1".to_owned(), None),
            pair("prop2", ""),
            pair("prop3", "a string")
        ]
    );
    assert_eq!(application(""), []);
    assert_eq!(application("&&a=1&"), [pair("a", "1")]);
    assert_eq!(application("a=b=c"), [pair("a", "b=c")]);
}

#[test]
fn escapes_are_those_of_rfc_3986() {
    assert_eq!(application("a%20b=c%26d%3De"), [pair("a b", "c&d=e")]);
    assert_eq!(application("a=1+1"), [pair("a", "1+1")]);
    assert_eq!(application("%C3%A9=%F0%9F%98%80"), [pair("é", "😀")]);
    assert_eq!(application("é=%0D%0A%00"), [pair("é", "\r\n\0")]);
    assert_eq!(application("a=%2525"), [pair("a", "%25")]);
    for text in [
        "a=%",
        "a=%2",
        "a=%G0",
        "a=%0G",
        "%=a",
        "a=%FF",
        "a=%C3",
        "a=%+1",
        "a=%ED%A0%80",
    ] {
        refused(text, TopicError::MalformedEscape);
    }
}

#[test]
fn names_the_hub_or_the_gateway_vouches_with_are_refused() {
    for key in [
        "iothub-connection-device-id",
        "iothub-connection-module-id",
        "iothub-connection-auth-method",
        "iothub-connection-auth-generation-id",
        "IOTHUB-CONNECTION-DEVICE-ID",
        "IotHub-Connection-Device-Id",
        "iothub%2Dconnection%2Ddevice%2Did",
        "%69othub-connection-device-id",
        "%20iothub-connection-device-id",
        "iothub-connection-device-id%20",
        "iothub-enqueuedtime",
        "iothub-message-source",
        "iothub-MessageType",
        "iothub-messagetype",
        "iothub-outputname",
        "iothub-interface-id",
        "iothub-anything",
        "IoTHub-Ack",
        "IOTHUB-OPERATION",
        "x-opt-sequence-number",
        "x-opt-retain",
        "X-Opt-Offset",
        "mqtt-retain",
        "MQTT-Retain",
        "dt-subject",
        "dt-dataschema",
        "to",
        "To",
        "user-id",
        "USER-ID",
    ] {
        refused(&format!("{key}=x"), TopicError::ReservedProperty);
        refused(key, TopicError::ReservedProperty);
    }
    for key in [
        "total",
        "user-idea",
        "x-option",
        "iothub",
        "dt-x",
        "message",
        "my-iothub-id",
    ] {
        assert_eq!(application(&format!("{key}=x")), [pair(key, "x")]);
    }
}

#[test]
fn unknown_system_keys_and_their_case_variants_are_refused() {
    for key in [
        "$.cdid", "$.cmid", "%24.cdid", "$.", "$.x", "$.MID", "$.Mid", "%24.CT", "$.mid%20",
        "%20$.mid", "%09$.mid", "$.mid.", "$.exp%00",
    ] {
        refused(&format!("{key}=x"), TopicError::UnknownSystemProperty);
        refused(key, TopicError::UnknownSystemProperty);
    }
}

#[test]
fn a_name_given_twice_is_refused_however_it_is_spelled() {
    for text in [
        "a=1&a=2",
        "a&a",
        "a=1&%61=2",
        "$.mid=1&%24.mid=2",
        "$.mid&$.mid",
        "$.on=1&$.on=2",
    ] {
        refused(text, TopicError::DuplicateProperty);
    }
    assert_eq!(application("a=1&A=2"), [pair("a", "1"), pair("A", "2")]);
}

#[test]
fn ids_and_symbols_keep_to_what_the_hub_takes() {
    let long = "x".repeat(128);
    for key in ["$.mid", "$.cid", "$.uid"] {
        system(&format!("{key}={long}"));
        refused(&format!("{key}={long}y"), TopicError::MalformedId);
        refused(&format!("{key}=%C3%A9"), TopicError::MalformedId);
        refused(&format!("{key}=a%0Ab"), TopicError::MalformedId);
    }
    refused("$.ct=%C3%A9", TopicError::NotAscii);
    refused("$.ce=%C3%A9", TopicError::NotAscii);
}

#[test]
fn the_number_of_properties_is_bounded_with_system_keys_counted() {
    let eight = "$.mid=1&a&b&c&d&e&f&g";
    assert!(bag(eight).is_ok());
    refused(&format!("{eight}&h"), TopicError::TooManyProperties);
    let thousand: Vec<String> = (0..1000).map(|i| format!("k{i}")).collect();
    refused(&thousand.join("&"), TopicError::TooManyProperties);
}

#[test]
fn a_property_without_a_name_is_refused() {
    refused("=x", TopicError::EmptyKey);
    refused("a=1&=", TopicError::EmptyKey);
}

fn leniently(text: &str) -> (Gathered, Mended) {
    let mut gathered = Gathered::new(8, Properties::Lenient);
    assert_eq!(gathered.bag(text), Ok(()), "{text}");
    let mended = gathered.mended;
    (gathered, mended)
}

#[test]
fn a_lenient_reading_keeps_bad_escapes_takes_the_last_of_equals_and_drops_the_nameless() {
    let rows = [
        ("a=%ZZ", vec![pair("a", "%ZZ")], (1, 0, 0)),
        ("a=100%", vec![pair("a", "100%")], (1, 0, 0)),
        ("a=%20%ZZ%41", vec![pair("a", " %ZZA")], (1, 0, 0)),
        ("a=%41%FF", vec![pair("a", "%41%FF")], (1, 0, 0)),
        ("%=%", vec![pair("%", "%")], (2, 0, 0)),
        (
            "a=1&b=2&a=3",
            vec![pair("a", "3"), pair("b", "2")],
            (0, 1, 0),
        ),
        ("a=1&%61=2&a", vec![("a".to_owned(), None)], (0, 2, 0)),
        ("=x&a=1&=", vec![pair("a", "1")], (0, 0, 2)),
        (
            "$.on=1&$.on=2",
            vec![pair("iothub-outputname", "2")],
            (0, 1, 0),
        ),
        ("a=1&&b=2", vec![pair("a", "1"), pair("b", "2")], (0, 0, 0)),
    ];
    for (text, want, (escapes, repeated, nameless)) in rows {
        let (gathered, mended) = leniently(text);
        assert_eq!(gathered.application, want, "{text}");
        let counted = (mended.escapes, mended.repeated, mended.nameless);
        assert_eq!(counted, (escapes, repeated, nameless), "{text}");
    }
    let (gathered, mended) = leniently("$.mid=1&%24.mid=2");
    assert_eq!(gathered.system.message_id.as_deref(), Some("2"));
    assert_eq!(mended.repeated, 1);
}

#[test]
fn a_lenient_reading_vouches_for_nothing_a_strict_one_would_not() {
    for text in [
        "iothub-connection-device-id=x",
        "%69othub-%ZZ=x",
        "a=1&to=x",
        "$.cdid=x",
        "$.mid=%C3%A9",
        "$.exp=never",
        "a&b&c&d&e&f&g&h&i",
    ] {
        let mut gathered = Gathered::new(8, Properties::Lenient);
        assert!(gathered.bag(text).is_err(), "{text}");
    }
}

fn command(system: SystemProperties, application: &[(&str, Option<&str>)]) -> Command {
    let owned = |text: &str| text.to_owned();
    let pairs = application
        .iter()
        .map(|(key, value)| (owned(key), value.map(owned)));
    Command {
        delivery: 1,
        system,
        application: pairs.collect(),
        body: bytes::Bytes::new(),
        delivery_count: 0,
    }
}

fn written(command: &Command) -> String {
    let mut topic = String::new();
    write_command_bag(&mut topic, command, "/devices/d/messages/devicebound");
    topic
}

#[test]
fn a_command_bag_has_system_keys_first_and_escapes_all_but_the_unreserved() {
    let system = SystemProperties {
        message_id: Some("m/1".into()),
        correlation_id: Some("c".into()),
        user_id: Some("u".into()),
        to: Some("/devices/d/messages/deviceBound".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        expiry_ms: Some(1_896_091_200_123),
        ..SystemProperties::default()
    };
    let application = [
        ("k", Some("a b+c")),
        ("null", None),
        ("é", Some("")),
        ("-._~", Some("&=#")),
    ];
    assert_eq!(
        written(&command(system, &application)),
        "%24.mid=m%2F1&%24.to=%2Fdevices%2Fd%2Fmessages%2FdeviceBound&%24.cid=c&%24.uid=u\
         &%24.ct=application%2Fjson&%24.ce=utf-8&%24.exp=2030-01-31T12%3A00%3A00.123Z\
         &k=a%20b%2Bc&null&%C3%A9=&-._~=%26%3D%23"
    );
    // A time no calendar has is left out rather than invented.
    let odd = SystemProperties {
        expiry_ms: Some(i64::MAX),
        ..SystemProperties::default()
    };
    assert_eq!(
        written(&command(odd, &[])),
        "%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound"
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        id in prop::option::of("[ -~]{1,128}"),
        content_type in prop::option::of("[ -~]{0,40}"),
        expiry in prop::option::of(-62_000_000_000_000_i64..250_000_000_000_000),
        pairs in prop::collection::btree_map("\\PC{1,20}", prop::option::of(any::<String>()), 0..5),
    ) {
        let ours = |key: &String| !is_reserved(key) && !key.trim_start().starts_with("$.");
        let pairs: Vec<_> = pairs.into_iter().filter(|(key, _)| ours(key)).collect();
        let system = SystemProperties {
            message_id: id,
            to: Some("/devices/d/messages/devicebound".into()),
            content_type,
            expiry_ms: expiry,
            ..SystemProperties::default()
        };
        let command = Command { application: pairs, ..command(system, &[]) };
        let text = written(&command);
        prop_assert!(!text.contains(['+', '#', '/', '$', '\0']));
        let mut read = Gathered::new(64, Properties::Strict);
        prop_assert_eq!(read.bag(&text), Ok(()));
        prop_assert_eq!(read.system, command.system);
        prop_assert_eq!(read.application, command.application);
    }

    #[test]
    fn arbitrary_bags_never_panic_and_stay_bounded(text in "[a-c$%.&=0-9A-F\\PC]{0,80}") {
        for manner in [Properties::Strict, Properties::Lenient] {
            let mut gathered = Gathered::new(4, manner);
            let _ = gathered.bag(&text);
            prop_assert!(gathered.application.len() <= 4);
        }
    }

    #[test]
    fn what_is_well_formed_reads_the_same_in_both_manners(text in "[a-c$%.&=0-9A-F\\PC]{0,40}") {
        let mut strict = Gathered::new(8, Properties::Strict);
        if strict.bag(&text).is_ok() {
            let mut lenient = Gathered::new(8, Properties::Lenient);
            prop_assert_eq!(lenient.bag(&text), Ok(()));
            prop_assert_eq!(lenient.application, strict.application);
            prop_assert_eq!(lenient.system, strict.system);
            prop_assert_eq!(lenient.mended, Mended::default());
        }
    }
}
