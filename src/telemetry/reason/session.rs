//! Reasons a session ends for, and those of messages and subscriptions.

macro_rules! session_reasons {
    ($($rows:tt)*) => { reasons! { $($rows)*
        // The end of a session.
        Clean "clean" End [Session]
            "the device disconnected";
            "";
        PeerClosed "peer_closed" End [Handshake Connect Session]
            "the device closed the connection without a word";
            "";
        PeerReset "peer_reset" End [Session]
            "the device reset the connection";
            "";
        PeerLost "peer_lost" End [Session]
            "the device's network took no bytes any more";
            "";
        IoError "io_error" End [Handshake Session]
            "the socket failed";
            "";
        KeepAliveTimeout "keep_alive_timeout" End [Session]
            "no packet within one and a half times the keep-alive";
            "";
        PacketTimeout "packet_timeout" Wire [Session]
            "a packet was not finished within `limits.packet_timeout`";
            "look at the network path, or raise `limits.packet_timeout`";
        WriteStall "write_stall" Wire [Session]
            "the device took no bytes within `limits.write_timeout`";
            "let the device read while it writes, or raise `limits.write_timeout`";
        CredentialExpired "credential_expired" End [Session]
            "the token the session lived from ended";
            "";
        TakenOver "taken_over" End [Session]
            "the device connected again";
            "";
        Kicked "kicked" End [Session]
            "an operator ended the connection";
            "";
        Drain "drain" State [Handshake Connect Session]
            "the gateway is stopping";
            "nothing: the device may connect elsewhere or come again";
        RightsRevoked "rights_revoked" State [Session]
            "a reload took the device's rights or credential away";
            "look at what changed in the rules, PSK files and CAs";
        GoneDeviceNotFound "gone_device_not_found" State [Session]
            "the hub has no such device";
            "create the device in the hub's registry";
        GoneDeviceDisabled "gone_device_disabled" State [Session]
            "the device is disabled at the hub";
            "enable it there if it shall connect";
        GoneStolen "gone_stolen" State [Session]
            "another client has the device's place at the hub";
            "look for the same device connected to the hub directly or by another gateway";
        GoneHubFull "gone_hub_full" State [Session]
            "every hub connection has `hub.max_devices_per_connection` devices";
            "raise `hub.connections`, or add a gateway";
        Gone "gone" State [Session]
            "the hub's side ended the device's connection";
            "look at the hub's own words in the line";
        Panic "panic" End [Session]
            "the connection's task broke off; a fault of the gateway";
            "";
        Dropped "dropped" End [Session]
            "the connection ended and nothing said why; a fault of the gateway";
            "";

        // Messages and subscriptions.
        TopicUnknown "topic_unknown" Rules [Connect Message]
            "the topic fits no template";
            "publish to `devices/ID/messages/events/`";
        TopicForeignDevice "topic_foreign_device" Rules [Connect Message]
            "the topic names another device or module";
            "use the id of the client id in the topic";
        TelemetryDenied "telemetry_denied" Rules [Connect Message]
            "the rule does not let this device send telemetry";
            "add \"telemetry\" to its `allow`";
        CommandsDenied "commands_denied" Rules [Message]
            "the rule does not let this device receive commands";
            "add \"commands\" to its `allow`";
        BagSlash "bag_slash" Rules [Connect Message]
            "the property bag holds a slash";
            "write it as %2F";
        BagEscape "bag_escape" Rules [Connect Message]
            "the property bag is not percent-encoded UTF-8";
            "write a percent sign as %25, or set `properties = \"lenient\"`";
        BagEmptyKey "bag_empty_key" Rules [Connect Message]
            "a property of the bag has no name";
            "write name=value, or set `properties = \"lenient\"`";
        BagDuplicate "bag_duplicate" Rules [Connect Message]
            "the property bag gives a name twice";
            "send each name once, or set `properties = \"lenient\"`";
        PropertyReserved "property_reserved" Rules [Connect Message]
            "the property name is reserved for the hub and this gateway";
            "rename the property";
        PropertyUnknownSystem "property_unknown_system" Rules [Connect Message]
            "the system property is unknown or not a device's to set";
            "use the lower-case $. keys";
        PropertyId "property_id" Rules [Connect Message]
            "a message, correlation or user id is too long or not ASCII";
            "use at most 128 printable ASCII characters";
        PropertyNotAscii "property_not_ascii" Rules [Connect Message]
            "content type or content encoding is not ASCII";
            "write them without other characters";
        PropertyExpiry "property_expiry" Rules [Connect Message]
            "$.exp is not an ISO 8601 time";
            "write it like 2030-01-31T12:00:00Z, percent-encoded";
        FilterUnknown "filter_unknown" Rules [Message]
            "the filter fits no template";
            "subscribe to `devices/ID/messages/devicebound/#`";
        FilterTooWide "filter_too_wide" Rules [Message]
            "the filter is wider than this device";
            "subscribe to `devices/ID/messages/devicebound/#`";
        RetainRefused "retain_refused" Wire [Connect Message]
            "the message has the retain flag, and the rule says `retain = \"refuse\"`";
            "publish without retain, or change `retain` of the rule";
        MethodsDenied "methods_denied" Rules [Message]
            "the rule does not let this device be called methods";
            "add \"methods\" to its `allow`";
        TwinDenied "twin_denied" Rules [Message]
            "the rule does not let this device use its twin";
            "add \"twin\" to its `allow`";
        MethodAnswerMalformed "method_answer_malformed" Rules [Message]
            "the answer's topic has no status or no request id";
            "answer on `$iothub/methods/res/STATUS/?$rid=ID`";
        MethodAnswerNotJson "method_answer_not_json" Wire [Message]
            "the answer to a method is no JSON";
            "answer with JSON, or with nothing";
        MethodAnswerTooLarge "method_answer_too_large" Wire [Message]
            "the answer to a method is larger than `limits.method_bytes`";
            "answer with less: IoT Hub takes 128 KiB";
        MethodAnswerLate "method_answer_late" State [Message]
            "the time for the answer was over (`limits.method_timeout`)";
            "answer sooner; the caller has been told of a time-out";
        MethodAnswerRepeated "method_answer_repeated" State [Message]
            "the call has been answered";
            "answer once; the first answer counts";
        MethodAnswerUnknown "method_answer_unknown" State [Message]
            "no call of this connection has this request id";
            "answer with the id of the call's topic, on the same connection";
        TwinRequestMalformed "twin_request_malformed" Rules [Message]
            "the twin request's topic has no request id, or a version that is no number";
            "ask on `$iothub/twin/GET/?$rid=ID`";
        TwinRequestTooLarge "twin_request_too_large" Wire [Message]
            "the twin request is larger than `limits.twin_bytes`";
            "report less at once: IoT Hub takes 32 KiB";
        TwinRequestBusy "twin_request_busy" State [Message]
            "`limits.twin_requests` or `limits.twin_bytes` of unanswered requests are reached";
            "wait for answers; the device is answered 429";
        PayloadTooLarge "payload_too_large" Wire [Message]
            "the payload is larger than `limits.payload` of the device's rule";
            "send smaller messages, or raise it";
        MessageTooLarge "message_too_large" State [Message]
            "the hub takes no message of this size";
            "send smaller messages: IoT Hub takes 256 KiB";
        MessageMalformed "message_malformed" State [Message]
            "the hub does not take the message's form";
            "look at the hub's own words in the line";
        Rejected "rejected" State [Message]
            "the hub rejected the message";
            "look at the hub's own words in the line";
    } };
}
