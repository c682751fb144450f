//! What the test of hints provokes and asks.

/// Devices, rules and terms beside the usual ones.
pub const RULES: &str = r#"
[[device]]
id = "off-1"
enabled = false
psk = { key = "hex:30313233343536373839414243444546" }

[[device]]
id = "cert-reserved"
psk = { key = "hex:30313233343536373839414243444546" }

[[device]]
id = "two-a"
assign_client_id = true
psk = { key = "hex:30313233343536373839414243444546" }

[[device]]
id = "listener-1"
allow = ["commands"]
psk = { key = "hex:30313233343536373839414243444546" }

[[device]]
id = "talker-1"
allow = ["telemetry"]
psk = { key = "hex:30313233343536373839414243444546" }

[[device]]
id = "printed-1"
x509 = { thumbprint = "1111111111111111111111111111111111111111111111111111111111111111" }

[[rule]]
name = "not these"
when = { credential = "psk", identity = "load-*" }
deny = true
"#;

/// Topics that are published to and, as filters, subscribed to.
pub const EITHER: &[&str] = &[
    "a",
    "a/b",
    "it's/a topic",
    "devices",
    "devices/",
    "devices/cert-reserved",
    "devices/cert-reserved/messages",
    "devices/cert-reserved/messages/events",
    "devices/cert-reserved/messages/events/",
    "devices/cert-reserved/messages/events/a=1",
    "devices/cert-reserved/messages/events/a=%ZZ",
    "devices/cert-reserved/messages/devicebound",
    "devices/cert-reserved/messages/devicebound/",
    "devices/cert-reserved/messages/devicebound/x",
    "devices/cert-reserved/messages/devicebound/a=1",
    "devices/cert-reserved/modules/m/messages/events/",
    "devices/other/messages/events/",
    "devices/other/messages/devicebound/x",
    "devices/other/modules/m/inputs/x",
    "$iothub/twin/GET/?$rid=1",
    "$iothub/twin/PATCH/properties/reported/?$rid=1",
    "$iothub/twin/res/",
    "$iothub/methods/POST/",
    "$iothub/methods/res/200/?$rid=1",
    "$iothub/other",
    "$SYS/broker",
    "/",
];

/// What no rule decides and is provoked all the same.
pub const PROVOKED: &[&str] = &[
    "bad_password",
    "first_packet_not_connect",
    "not_tls",
    "plain_mqtt",
    "protocol_level",
    "psk_wrong_key",
    "qos2_publish",
    "sas_expired",
    "sas_malformed",
    "sas_scope",
    "sas_signature",
    "throttled_identity",
];

/// What the rules can refuse and is not provoked above, as a hint would have it.
pub const BESIDE: &[(&str, &str)] = &[
    ("username_missing", "--as password: --client-id pass-1"),
    (
        "x509_thumbprint",
        "--as thumbprint:0000000000000000000000000000000000000000000000000000000000000000 --cn x \
         --client-id printed-1",
    ),
    (
        "property_id",
        "--as psk:talker-1 --topic devices/talker-1/messages/events/$.mid=%00",
    ),
    (
        "property_not_ascii",
        "--as psk:talker-1 --topic devices/talker-1/messages/events/$.ct=%C3%A4",
    ),
    (
        "twin_denied",
        "--as psk:talker-1 --topic '$iothub/twin/GET/?$rid=1'",
    ),
    (
        "methods_denied",
        "--as psk:talker-1 --topic '$iothub/methods/POST/#'",
    ),
    (
        "twin_request_malformed",
        "--as psk:psk-1 --topic '$iothub/twin/GET/'",
    ),
    (
        "method_answer_malformed",
        "--as psk:psk-1 --topic '$iothub/methods/res/200/'",
    ),
];
