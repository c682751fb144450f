//! Reasons of what stands between TLS and MQTT: the WebSocket.

macro_rules! door_reasons {
    ($($rows:tt)*) => { connect_reasons! { $($rows)*
        // The upgrade to a WebSocket; `websocket::head` has the answers.
        UpgradeMalformed "upgrade_malformed" Wire [Connect]
            "the HTTP request in front of a WebSocket cannot be read";
            "look at what the device speaks on this port";
        UpgradeTooLarge "upgrade_too_large" Wire [Connect]
            "the HTTP request is larger than `limits.connect_bytes` or has more than 64 fields";
            "send fewer header fields, or raise the limit";
        UpgradeTimeout "upgrade_timeout" Wire [Connect]
            "no whole HTTP request within `limits.connect_timeout`";
            "look at the network path, or raise `limits.connect_timeout`";
        UpgradeNone "upgrade_none" Wire [Connect]
            "an HTTP request that asks for no WebSocket";
            "look at what connects to this port: a health check, a browser, a scanner";
        UpgradePath "upgrade_path" Wire [Connect]
            "the HTTP request is for another path";
            "use `/$iothub/websocket` or `/mqtt`";
        UpgradeVersion "upgrade_version" Wire [Connect]
            "the version of WebSocket is not 13";
            "use a library of RFC 6455";
        UpgradeProtocol "upgrade_protocol" Wire [Connect]
            "the WebSocket's sub-protocols do not name `mqtt`";
            "ask for the sub-protocol `mqtt`; AMQP is not served here";

        // Its frames; `websocket::violation` has clauses and close codes.
        WebsocketUnmasked "websocket_unmasked" Wire [Connect Session]
            "a WebSocket frame is not masked";
            "correct the device's WebSocket library";
        WebsocketText "websocket_text" Wire [Connect Session]
            "a text frame on the WebSocket";
            "send MQTT in binary frames";
        WebsocketHeader "websocket_header" Wire [Connect Session]
            "a WebSocket frame with a reserved bit or opcode, or a length written wrongly";
            "correct the device's WebSocket library; extensions are not agreed on";
        WebsocketFrameSize "websocket_frame_size" Wire [Connect Session]
            "a WebSocket frame is larger than `limits.websocket_frame_bytes`";
            "send smaller frames, or raise the limit";
        WebsocketControl "websocket_control" Wire [Connect Session]
            "a WebSocket control frame in fragments or of more than 125 bytes";
            "correct the device's WebSocket library";
        WebsocketFragment "websocket_fragment" Wire [Connect Session]
            "WebSocket fragments in the wrong order";
            "correct the device's WebSocket library";
        WebsocketClose "websocket_close" Wire [Connect Session]
            "a Close frame of the WebSocket cannot be read";
            "correct the device's WebSocket library";
    } };
}
