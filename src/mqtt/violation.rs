//! Every way a peer can break the protocol, one row each: clause, reason code, metric label.

use crate::telemetry::reason::Reason;

/// Declares the enum and its three look-ups from one table, so that no variant can lack a column.
macro_rules! violations {
    ($($variant:ident, $reason:literal, $word:ident, $clause:literal, $text:literal;)*) => {
        /// A protocol violation. Each variant names the clause it breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Violation {
            $(
                #[doc = concat!($clause, ": ", $text, ".")]
                #[error($text)]
                $variant,
            )*
        }

        impl Violation {
            /// Every variant, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its word in logs and metrics.
            #[must_use]
            pub const fn word(self) -> Reason {
                match self { $(Self::$variant => Reason::$word),* }
            }

            /// The clause of the specification; ids without a version are those of 3.1.1.
            #[must_use]
            pub const fn clause(self) -> &'static str {
                match self { $(Self::$variant => $clause),* }
            }

            /// The MQTT 5 reason code (MQTT 5 §2.4) of the CONNACK or DISCONNECT that says so.
            #[must_use]
            pub const fn reason(self) -> u8 {
                match self { $(Self::$variant => $reason),* }
            }
        }
    };
}

impl Violation {
    /// Whether it is the fault of a message, which the device may send again for ever.
    #[must_use]
    pub const fn is_of_a_publish(self) -> bool {
        matches!(
            self,
            Self::PacketTooLarge
                | Self::Qos2Publish
                | Self::TopicEmpty
                | Self::TopicWildcard
                | Self::TopicTooLong
                | Self::TopicTooDeep
        )
    }
}

violations! {
    // The fixed header.
    RemainingLength, 0x81, MalformedLength, "MQTT-2.2.3",
        "the remaining length takes more than four bytes";
    RemainingLengthOverlong, 0x81, OverlongLength, "MQTT5 MQTT-1.5.5-1",
        "the remaining length is not written in the fewest bytes";
    ReservedType, 0x81, ReservedPacketType, "MQTT-2.2.1",
        "the packet type is reserved";
    FixedHeaderFlags, 0x81, FixedHeaderFlags, "MQTT-2.2.2-2",
        "the flags of the fixed header are not those of the packet type";
    PacketTooLarge, 0x95, PacketTooLarge, "MQTT5 MQTT-3.2.2-15",
        "the packet is larger than this gateway takes";
    FirstPacketNotConnect, 0x82, FirstPacketNotConnect, "MQTT-3.1.0-1",
        "the first packet is not CONNECT";
    SecondConnect, 0x82, SecondConnect, "MQTT-3.1.0-2",
        "a second CONNECT on one connection";
    ServerPacket, 0x82, ServerPacket, "MQTT-2.2.1",
        "a packet only a server may send";
    AuthPacket, 0x82, AuthPacket, "MQTT5 MQTT-4.12.0-6",
        "AUTH without an authentication method in CONNECT";
    Qos2Flow, 0x82, Qos2Flow, "MQTT-4.3.3",
        "a packet of a QoS 2 exchange, which this gateway never begins";

    // What every packet is made of.
    Truncated, 0x81, TruncatedPacket, "MQTT-2.2.3",
        "a field runs past the end of the packet";
    TrailingBytes, 0x81, TrailingBytes, "MQTT-2.2.3",
        "bytes follow the last field of the packet";
    Utf8, 0x81, InvalidUtf8, "MQTT-1.5.3-1",
        "a string is not well-formed UTF-8";
    NulCharacter, 0x81, NulInString, "MQTT-1.5.3-2",
        "a string holds the character U+0000";
    ControlCharacter, 0x81, ControlInString, "MQTT-1.5.3",
        "a topic, client id or user name holds a control character or a non-character";
    PacketIdZero, 0x82, PacketIdZero, "MQTT-2.3.1-1",
        "the packet identifier is zero";
    PacketIdInUse, 0x82, PacketIdInUse, "MQTT-2.3.1-2",
        "the packet identifier belongs to a message that is not acknowledged yet";

    // CONNECT.
    ProtocolName, 0x84, ProtocolName, "MQTT-3.1.2-1",
        "the protocol name is neither MQTT nor MQIsdp";
    ProtocolLevel, 0x84, ProtocolLevel, "MQTT-3.1.2-2",
        "the protocol level is not 3 (MQTT 3.1, MQIsdp), 4 (MQTT 3.1.1) or 5";
    VersionNotServed, 0x84, VersionNotServed, "listener.mqtt_versions",
        "the listener does not serve this MQTT version; its mqtt_versions lists those it serves";
    ConnectReservedFlag, 0x81, ConnectReservedFlag, "MQTT-3.1.2-3",
        "the reserved flag of CONNECT is set";
    WillFlags, 0x81, WillFlags, "MQTT-3.1.2-11",
        "will QoS or will retain is set without the will flag";
    WillQos, 0x81, WillQos, "MQTT-3.1.2-14",
        "the will QoS is 3";
    WillQos2, 0x9B, WillQos2, "MQTT5 MQTT-3.2.2-12",
        "the will asks for QoS 2; use QoS 0 or 1";
    PasswordWithoutUsername, 0x81, PasswordWithoutUsername, "MQTT-3.1.2-22",
        "CONNECT has a password but no user name";
    ClientIdRequired, 0x85, ClientIdRequired, "MQTT-3.1.3-8",
        "an empty client id needs clean session 1, and MQTT 3.1 takes none";
    AuthenticationMethod, 0x8C, AuthenticationMethod, "MQTT5 MQTT-4.12.0-1",
        "the authentication method is not supported; use user name and password";
    AuthenticationData, 0x82, AuthenticationData, "MQTT5 3.1.2.11.10",
        "authentication data without an authentication method";
    ClientMaximumTooSmall, 0x95, ClientMaximumTooSmall, "MQTT5 MQTT-3.1.2-24",
        "the client's Maximum Packet Size has no room for an answer that must be given";

    // PUBLISH and topics.
    QosReserved, 0x81, QosReserved, "MQTT-3.3.1-4",
        "the QoS of PUBLISH is 3";
    Qos2Publish, 0x9B, Qos2Publish, "MQTT5 MQTT-3.2.2-11",
        "QoS 2 is not supported; publish with QoS 0 or 1";
    DupQos0, 0x81, DupQos0, "MQTT-3.3.1-2",
        "DUP is set on a QoS 0 message";
    TopicEmpty, 0x90, TopicEmpty, "MQTT-4.7.3-1",
        "the topic is empty";
    TopicWildcard, 0x90, TopicWildcard, "MQTT-3.3.2-2",
        "a topic name holds a wildcard";
    TopicTooLong, 0x90, TopicTooLong, "limits.topic_bytes",
        "the topic is longer than this gateway takes";
    TopicTooDeep, 0x90, TopicTooDeep, "limits.topic_levels",
        "the topic has more levels than this gateway takes";
    RetainUnsupported, 0x9A, RetainUnsupported, "MQTT5 MQTT-3.2.2-14",
        "the retain flag is set although CONNACK said Retain Available 0";
    ReceiveMaximumExceeded, 0x93, ReceiveMaximumExceeded, "MQTT5 MQTT-3.3.4-9",
        "more unacknowledged messages than the Receive Maximum of CONNACK";
    TopicAlias, 0x94, TopicAlias, "MQTT5 MQTT-3.3.2-9",
        "a topic alias is used although CONNACK granted none";
    ResponseTopic, 0x82, ResponseTopic, "MQTT5 MQTT-3.3.2-14",
        "the response topic is empty or holds a wildcard";

    // SUBSCRIBE and UNSUBSCRIBE.
    SubscribeEmpty, 0x82, SubscribeEmpty, "MQTT-3.8.3-3",
        "SUBSCRIBE without a filter";
    SubscribeOptions, 0x81, SubscribeOptions, "MQTT-3.8.3-4",
        "reserved bits, QoS 3 or retain handling 3 in a subscription";
    UnsubscribeEmpty, 0x82, UnsubscribeEmpty, "MQTT-3.10.3-2",
        "UNSUBSCRIBE without a filter";
    FilterWildcard, 0x8F, FilterWildcard, "MQTT-4.7.1-2",
        "a wildcard of the filter shares its level or is not last";
    TooManyFilters, 0x97, TooManyFilters, "limits.filters_per_packet",
        "more filters in one packet than this gateway takes";
    SharedSubscription, 0x9E, SharedSubscription, "MQTT5 3.8.4",
        "shared subscriptions are not supported, as CONNACK said";
    SubscriptionId, 0xA1, SubscriptionId, "MQTT5 3.8.4",
        "subscription identifiers are not supported, as CONNACK said";

    // MQTT 5 properties and reason codes.
    PropertyLength, 0x81, PropertyLength, "MQTT5 2.2.2.1",
        "a property runs past the property length";
    PropertyMisplaced, 0x81, PropertyMisplaced, "MQTT5 2.2.2.2",
        "the property is unknown or does not belong to this packet";
    PropertyDuplicate, 0x82, PropertyDuplicate, "MQTT5 2.2.2.2",
        "a property that may come once comes twice";
    PropertyValue, 0x82, PropertyValue, "MQTT5 2.2.2.2",
        "the value of a property is out of its range";
    TooManyProperties, 0x97, TooManyProperties, "limits.properties",
        "more user properties than this gateway takes";
    ReasonCode, 0x81, ReasonCode, "MQTT5 2.4",
        "the reason code does not belong to this packet";
    SessionExpiry, 0x82, SessionExpiry, "MQTT5 3.14.2.2.2",
        "DISCONNECT sets a session expiry although CONNECT had none";

    // Silence.
    ConnectTimeout, 0x87, ConnectTimeout, "MQTT-3.1.4",
        "no CONNECT within the time allowed";
    KeepAliveTimeout, 0x8D, KeepAliveTimeout, "MQTT-3.1.2-24",
        "no packet within one and a half times the keep-alive";
}
