//! Reasons of the MQTT protocol, from CONNECT on; `mqtt::violation` has their clauses.

macro_rules! protocol_reasons {
    ($($rows:tt)*) => { session_reasons! { $($rows)*
        // The MQTT protocol.
        ConnectTimeout "connect_timeout" Wire [Connect]
            "no CONNECT within `limits.connect_timeout`";
            "look at the network path, or raise `limits.connect_timeout`";
        FirstPacketNotConnect "first_packet_not_connect" Wire [Connect]
            "the first packet is not CONNECT";
            "look at what the device speaks on this port";
        ProtocolName "protocol_name" Wire [Connect]
            "the protocol name is neither MQTT nor MQIsdp";
            "look at what the device speaks on this port";
        ProtocolLevel "protocol_level" Wire [Connect]
            "the protocol level is not 3 (MQTT 3.1), 4 (3.1.1) or 5";
            "use one of those versions";
        VersionNotServed "version_not_served" Wire [Connect]
            "the listener does not serve this MQTT version";
            "add it to `mqtt_versions` of the [[listener]]";
        ConnectReservedFlag "connect_reserved_flag" Wire [Connect]
            "the reserved flag of CONNECT is set";
            "correct the device's MQTT library";
        WillFlags "will_flags" Wire [Connect]
            "will QoS or will retain is set without the will flag";
            "correct the device's MQTT library";
        WillQos "will_qos" Wire [Connect]
            "the will QoS is 3";
            "use QoS 0 or 1 for the will";
        WillQos2 "will_qos2" Wire [Connect]
            "the will asks for QoS 2";
            "use QoS 0 or 1 for the will";
        PasswordWithoutUsername "password_without_username" Wire [Connect]
            "CONNECT has a password but no user name";
            "send the user name too";
        ClientIdRequired "client_id_required" Wire [Connect]
            "an empty client id needs clean session 1, and MQTT 3.1 takes none";
            "send the device id as client id";
        AuthenticationMethod "authentication_method" Wire [Connect]
            "the authentication method of MQTT 5 is not supported";
            "use user name and password";
        AuthenticationData "authentication_data" Wire [Connect]
            "authentication data without an authentication method";
            "correct the device's MQTT library";
        ClientMaximumTooSmall "client_maximum_too_small" Wire [Connect Session]
            "the device's Maximum Packet Size has no room for an answer that must be given";
            "raise Maximum Packet Size in the device";
        MalformedLength "malformed_length" Wire [Connect Session]
            "the remaining length takes more than four bytes";
            "correct the device's MQTT library";
        OverlongLength "overlong_length" Wire [Connect Session]
            "the remaining length is not written in the fewest bytes";
            "correct the device's MQTT library";
        ReservedPacketType "reserved_packet_type" Wire [Connect Session]
            "the packet type is reserved";
            "correct the device's MQTT library";
        FixedHeaderFlags "fixed_header_flags" Wire [Connect Session]
            "the flags of the fixed header are not those of the packet type";
            "correct the device's MQTT library";
        PacketTooLarge "packet_too_large" Wire [Connect Session]
            "the packet is larger than `limits.connect_bytes` or `limits.packet_bytes`";
            "send smaller packets, or raise the limit";
        TruncatedPacket "truncated_packet" Wire [Connect Session]
            "a field runs past the end of the packet";
            "correct the device's MQTT library";
        TrailingBytes "trailing_bytes" Wire [Connect Session]
            "bytes follow the last field of the packet";
            "correct the device's MQTT library";
        InvalidUtf8 "invalid_utf8" Wire [Connect Session]
            "a string is not well-formed UTF-8";
            "write topics, ids and names in UTF-8";
        NulInString "nul_in_string" Wire [Connect Session]
            "a string holds the character U+0000";
            "take it out; look for a length that counts the C string's end";
        ControlInString "control_in_string" Wire [Connect Session]
            "a topic, client id or user name holds a control character or a non-character";
            "take it out";
        PropertyLength "property_length" Wire [Connect Session]
            "an MQTT 5 property runs past the property length";
            "correct the device's MQTT library";
        PropertyMisplaced "property_misplaced" Wire [Connect Session]
            "an MQTT 5 property is unknown or does not belong to this packet";
            "correct the device's MQTT library";
        PropertyDuplicate "property_duplicate" Wire [Connect Session]
            "an MQTT 5 property that may come once comes twice";
            "correct the device's MQTT library";
        PropertyValue "property_value" Wire [Connect Session]
            "the value of an MQTT 5 property is out of its range";
            "correct the device's MQTT library";
        TooManyProperties "too_many_properties" Wire [Connect Session Message]
            "more properties than `limits.properties` allows";
            "send fewer, or raise `limits.properties`";
        SecondConnect "second_connect" Wire [Session]
            "a second CONNECT on one connection";
            "open a new connection for it";
        ServerPacket "server_packet" Wire [Connect Session]
            "a packet only a server may send";
            "correct the device's MQTT library";
        AuthPacket "auth_packet" Wire [Session]
            "AUTH without an authentication method in CONNECT";
            "correct the device's MQTT library";
        Qos2Flow "qos2_flow" Wire [Session]
            "a packet of a QoS 2 exchange, which this gateway never begins";
            "use QoS 0 or 1";
        PacketIdZero "packet_id_zero" Wire [Session]
            "the packet identifier is zero";
            "correct the device's MQTT library";
        PacketIdInUse "packet_id_in_use" Wire [Session]
            "the packet identifier belongs to a message that is not acknowledged yet";
            "correct the device's MQTT library";
        QosReserved "qos_reserved" Wire [Session]
            "the QoS of PUBLISH is 3";
            "use QoS 0 or 1";
        Qos2Publish "qos2_publish" Wire [Session]
            "PUBLISH with QoS 2, which this gateway does not take";
            "publish with QoS 0 or 1";
        DupQos0 "dup_qos0" Wire [Session]
            "DUP is set on a QoS 0 message";
            "correct the device's MQTT library";
        TopicEmpty "topic_empty" Wire [Session]
            "the topic is empty";
            "publish to `devices/ID/messages/events/`";
        TopicWildcard "topic_wildcard" Wire [Session]
            "a topic name holds a wildcard";
            "publish to `devices/ID/messages/events/`";
        TopicTooLong "topic_too_long" Wire [Session]
            "the topic is longer than `limits.topic_bytes`";
            "send fewer properties in it, or raise `limits.topic_bytes`";
        TopicTooDeep "topic_too_deep" Wire [Session]
            "the topic has more levels than `limits.topic_levels`";
            "publish to `devices/ID/messages/events/`";
        RetainUnsupported "retain_unsupported" Wire [Session]
            "the retain flag is set although CONNACK said Retain Available 0";
            "publish without retain";
        ReceiveMaximumExceeded "receive_maximum_exceeded" Wire [Session]
            "more unacknowledged messages than the Receive Maximum of CONNACK";
            "wait for PUBACKs";
        TopicAlias "topic_alias" Wire [Session]
            "a topic alias is used although CONNACK granted none";
            "publish with the topic's name";
        ResponseTopic "response_topic" Wire [Session]
            "the response topic is empty or holds a wildcard";
            "correct the response topic";
        SubscribeEmpty "subscribe_empty" Wire [Session]
            "SUBSCRIBE without a filter";
            "correct the device's MQTT library";
        SubscribeOptions "subscribe_options" Wire [Session]
            "reserved bits, QoS 3 or retain handling 3 in a subscription";
            "correct the device's MQTT library";
        UnsubscribeEmpty "unsubscribe_empty" Wire [Session]
            "UNSUBSCRIBE without a filter";
            "correct the device's MQTT library";
        FilterWildcard "filter_wildcard" Wire [Session]
            "a wildcard of the filter shares its level or is not last";
            "subscribe to `devices/ID/messages/devicebound/#`";
        TooManyFilters "too_many_filters" Wire [Session]
            "more filters in one packet than `limits.filters_per_packet`";
            "send fewer in one packet, or raise the limit";
        SharedSubscription "shared_subscription" Wire [Session]
            "shared subscriptions are not supported, as CONNACK said";
            "subscribe to `devices/ID/messages/devicebound/#`";
        SubscriptionId "subscription_id" Wire [Session]
            "subscription identifiers are not supported, as CONNACK said";
            "subscribe without one";
        ReasonCode "reason_code" Wire [Session]
            "the reason code does not belong to this packet";
            "correct the device's MQTT library";
        SessionExpiry "session_expiry" Wire [Session]
            "DISCONNECT sets a session expiry although CONNECT had none";
            "correct the device's MQTT library";
    } };
}
