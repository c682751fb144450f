//! Every way a peer can break the protocol, one row each: clause, reason code, metric label.

/// Declares the enum and its three look-ups from one table, so that no variant can lack a column.
macro_rules! violations {
    ($($variant:ident, $reason:literal, $label:literal, $clause:literal, $text:literal;)*) => {
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

            /// The metric label: `disconnects_total{reason}`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
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
    RemainingLength, 0x81, "malformed_length", "MQTT-2.2.3",
        "the remaining length takes more than four bytes";
    RemainingLengthOverlong, 0x81, "overlong_length", "MQTT5 MQTT-1.5.5-1",
        "the remaining length is not written in the fewest bytes";
    ReservedType, 0x81, "reserved_packet_type", "MQTT-2.2.1",
        "the packet type is reserved";
    FixedHeaderFlags, 0x81, "fixed_header_flags", "MQTT-2.2.2-2",
        "the flags of the fixed header are not those of the packet type";
    PacketTooLarge, 0x95, "packet_too_large", "MQTT5 MQTT-3.2.2-15",
        "the packet is larger than this gateway takes";
    FirstPacketNotConnect, 0x82, "first_packet_not_connect", "MQTT-3.1.0-1",
        "the first packet is not CONNECT";
    SecondConnect, 0x82, "second_connect", "MQTT-3.1.0-2",
        "a second CONNECT on one connection";
    ServerPacket, 0x82, "server_packet", "MQTT-2.2.1",
        "a packet only a server may send";
    AuthPacket, 0x82, "auth_packet", "MQTT5 MQTT-4.12.0-6",
        "AUTH without an authentication method in CONNECT";
    Qos2Flow, 0x82, "qos2_flow", "MQTT-4.3.3",
        "a packet of a QoS 2 exchange, which this gateway never begins";

    // What every packet is made of.
    Truncated, 0x81, "truncated_packet", "MQTT-2.2.3",
        "a field runs past the end of the packet";
    TrailingBytes, 0x81, "trailing_bytes", "MQTT-2.2.3",
        "bytes follow the last field of the packet";
    Utf8, 0x81, "invalid_utf8", "MQTT-1.5.3-1",
        "a string is not well-formed UTF-8";
    NulCharacter, 0x81, "nul_in_string", "MQTT-1.5.3-2",
        "a string holds the character U+0000";
    ControlCharacter, 0x81, "control_in_string", "MQTT-1.5.3",
        "a topic, client id or user name holds a control character or a non-character";
    PacketIdZero, 0x82, "packet_id_zero", "MQTT-2.3.1-1",
        "the packet identifier is zero";
    PacketIdInUse, 0x82, "packet_id_in_use", "MQTT-2.3.1-2",
        "the packet identifier belongs to a message that is not acknowledged yet";

    // CONNECT.
    ProtocolName, 0x84, "protocol_name", "MQTT-3.1.2-1",
        "the protocol name is neither MQTT nor MQIsdp";
    ProtocolLevel, 0x84, "protocol_level", "MQTT-3.1.2-2",
        "the protocol level is not 3 (MQTT 3.1, MQIsdp), 4 (MQTT 3.1.1) or 5";
    VersionNotServed, 0x84, "version_not_served", "listener.mqtt_versions",
        "the listener does not serve this MQTT version; its mqtt_versions lists those it serves";
    ConnectReservedFlag, 0x81, "connect_reserved_flag", "MQTT-3.1.2-3",
        "the reserved flag of CONNECT is set";
    WillFlags, 0x81, "will_flags", "MQTT-3.1.2-11",
        "will QoS or will retain is set without the will flag";
    WillQos, 0x81, "will_qos", "MQTT-3.1.2-14",
        "the will QoS is 3";
    WillQos2, 0x9B, "will_qos2", "MQTT5 MQTT-3.2.2-12",
        "the will asks for QoS 2; use QoS 0 or 1";
    PasswordWithoutUsername, 0x81, "password_without_username", "MQTT-3.1.2-22",
        "CONNECT has a password but no user name";
    ClientIdRequired, 0x85, "client_id_required", "MQTT-3.1.3-8",
        "an empty client id needs clean session 1, and MQTT 3.1 takes none";
    AuthenticationMethod, 0x8C, "authentication_method", "MQTT5 MQTT-4.12.0-1",
        "the authentication method is not supported; use user name and password";
    AuthenticationData, 0x82, "authentication_data", "MQTT5 3.1.2.11.10",
        "authentication data without an authentication method";
    ClientMaximumTooSmall, 0x95, "client_maximum_too_small", "MQTT5 MQTT-3.1.2-24",
        "the client's Maximum Packet Size has no room for an answer that must be given";

    // PUBLISH and topics.
    QosReserved, 0x81, "qos_reserved", "MQTT-3.3.1-4",
        "the QoS of PUBLISH is 3";
    Qos2Publish, 0x9B, "qos2_publish", "MQTT5 MQTT-3.2.2-11",
        "QoS 2 is not supported; publish with QoS 0 or 1";
    DupQos0, 0x81, "dup_qos0", "MQTT-3.3.1-2",
        "DUP is set on a QoS 0 message";
    TopicEmpty, 0x90, "topic_empty", "MQTT-4.7.3-1",
        "the topic is empty";
    TopicWildcard, 0x90, "topic_wildcard", "MQTT-3.3.2-2",
        "a topic name holds a wildcard";
    TopicTooLong, 0x90, "topic_too_long", "limits.topic_bytes",
        "the topic is longer than this gateway takes";
    TopicTooDeep, 0x90, "topic_too_deep", "limits.topic_levels",
        "the topic has more levels than this gateway takes";
    RetainUnsupported, 0x9A, "retain_unsupported", "MQTT5 MQTT-3.2.2-14",
        "the retain flag is set although CONNACK said Retain Available 0";
    ReceiveMaximumExceeded, 0x93, "receive_maximum_exceeded", "MQTT5 MQTT-3.3.4-9",
        "more unacknowledged messages than the Receive Maximum of CONNACK";
    TopicAlias, 0x94, "topic_alias", "MQTT5 MQTT-3.3.2-9",
        "a topic alias is used although CONNACK granted none";
    ResponseTopic, 0x82, "response_topic", "MQTT5 MQTT-3.3.2-14",
        "the response topic is empty or holds a wildcard";

    // SUBSCRIBE and UNSUBSCRIBE.
    SubscribeEmpty, 0x82, "subscribe_empty", "MQTT-3.8.3-3",
        "SUBSCRIBE without a filter";
    SubscribeOptions, 0x81, "subscribe_options", "MQTT-3.8.3-4",
        "reserved bits, QoS 3 or retain handling 3 in a subscription";
    UnsubscribeEmpty, 0x82, "unsubscribe_empty", "MQTT-3.10.3-2",
        "UNSUBSCRIBE without a filter";
    FilterWildcard, 0x8F, "filter_wildcard", "MQTT-4.7.1-2",
        "a wildcard of the filter shares its level or is not last";
    TooManyFilters, 0x97, "too_many_filters", "limits.filters_per_packet",
        "more filters in one packet than this gateway takes";
    SharedSubscription, 0x9E, "shared_subscription", "MQTT5 3.8.4",
        "shared subscriptions are not supported, as CONNACK said";
    SubscriptionId, 0xA1, "subscription_id", "MQTT5 3.8.4",
        "subscription identifiers are not supported, as CONNACK said";

    // MQTT 5 properties and reason codes.
    PropertyLength, 0x81, "property_length", "MQTT5 2.2.2.1",
        "a property runs past the property length";
    PropertyMisplaced, 0x81, "property_misplaced", "MQTT5 2.2.2.2",
        "the property is unknown or does not belong to this packet";
    PropertyDuplicate, 0x82, "property_duplicate", "MQTT5 2.2.2.2",
        "a property that may come once comes twice";
    PropertyValue, 0x82, "property_value", "MQTT5 2.2.2.2",
        "the value of a property is out of its range";
    TooManyProperties, 0x97, "too_many_properties", "limits.properties",
        "more user properties than this gateway takes";
    ReasonCode, 0x81, "reason_code", "MQTT5 2.4",
        "the reason code does not belong to this packet";
    SessionExpiry, 0x82, "session_expiry", "MQTT5 3.14.2.2.2",
        "DISCONNECT sets a session expiry although CONNECT had none";

    // Silence.
    ConnectTimeout, 0x87, "connect_timeout", "MQTT-3.1.4",
        "no CONNECT within the time allowed";
    KeepAliveTimeout, 0x8D, "keep_alive_timeout", "MQTT-3.1.2-24",
        "no packet within one and a half times the keep-alive";
}
