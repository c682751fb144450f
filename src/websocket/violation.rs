//! What a WebSocket client can do wrong after the upgrade, one row each: close code, word, clause.

use crate::telemetry::reason::Reason;

macro_rules! violations {
    ($($variant:ident, $code:literal, $word:ident, $clause:literal, $text:literal;)*) => {
        /// A broken rule of the framing. Each variant names the clause it breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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

            /// The code of the Close frame that says so (RFC 6455 §7.4.1).
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code),* }
            }

            /// The clause of the specification.
            #[must_use]
            pub const fn clause(self) -> &'static str {
                match self { $(Self::$variant => $clause),* }
            }
        }
    };
}

violations! {
    Unmasked, 1002, WebsocketUnmasked, "RFC 6455 §5.1",
        "a frame of a client is not masked";
    Text, 1003, WebsocketText, "MQTT-6.0.0-1",
        "a text frame: MQTT is sent in binary frames";
    Reserved, 1002, WebsocketHeader, "RFC 6455 §5.2",
        "a reserved bit of the frame is set, and no extension was agreed on";
    Opcode, 1002, WebsocketHeader, "RFC 6455 §5.2",
        "the opcode of the frame is reserved";
    Length, 1002, WebsocketHeader, "RFC 6455 §5.2",
        "the length of the frame is not written in the fewest bytes, or has its highest bit set";
    TooLarge, 1009, WebsocketFrameSize, "RFC 6455 §10.4",
        "the frame is larger than limits.websocket_frame_bytes";
    ControlLength, 1002, WebsocketControl, "RFC 6455 §5.5",
        "a control frame of more than 125 bytes";
    ControlFragment, 1002, WebsocketControl, "RFC 6455 §5.5",
        "a control frame in fragments";
    Continuation, 1002, WebsocketFragment, "RFC 6455 §5.4",
        "a continuation of no message";
    Interleaved, 1002, WebsocketFragment, "RFC 6455 §5.4",
        "a new message within one that has not ended";
    CloseLength, 1002, WebsocketClose, "RFC 6455 §5.5.1",
        "a Close frame with half a code";
    CloseCode, 1002, WebsocketClose, "RFC 6455 §7.4",
        "a Close frame with a code nobody may send";
    CloseText, 1007, WebsocketClose, "RFC 6455 §5.5.1",
        "the reason of a Close frame is not UTF-8";
}
