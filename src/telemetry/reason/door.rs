//! Reasons of what stands before TLS or between it and MQTT: the PROXY header, the WebSocket.

macro_rules! door_reasons {
    ($($rows:tt)*) => { connect_reasons! { $($rows)*
        // The PROXY header in front of everything.
        ProxyUntrusted "proxy_untrusted" State [Handshake]
            "the address is none of `proxy_protocol` of the [[listener]]";
            "add the proxy's address, or connect through the proxy";
        ProxyTimeout "proxy_timeout" Wire [Handshake]
            "no whole PROXY header within `limits.hello_timeout`";
            "let the proxy send the header at once, as in `send-proxy-v2`";
        ProxyMalformed "proxy_malformed" Wire [Handshake]
            "there is no PROXY header, or it cannot be read";
            "let the proxy send it, as in `send-proxy-v2`";
        ProxyTooLarge "proxy_too_large" Wire [Handshake]
            "the PROXY header is larger than 4 KiB";
            "let the proxy add less to it";
        ProxyAddress "proxy_address" Wire [Handshake]
            "the PROXY header names an address or port nobody connects from";
            "look at what stands in front of the proxy";
        ProxyUnexpected "proxy_unexpected" Wire [Handshake Connect]
            "a PROXY header on a [[listener]] without `proxy_protocol`";
            "add the proxy's address to `proxy_protocol`, or let the proxy send no header";

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
