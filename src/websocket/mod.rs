//! WebSocket as a road for MQTT (RFC 6455, MQTT 3.1.1 and 5 §6): the upgrade and the frames; pure.
//!
//! `head` judges the HTTP request, `frame` turns bytes of frames into bytes of MQTT and back,
//! without ever collecting a message: frames carry a stream, their borders mean nothing (MQTT
//! §6.0.0-4). `violation` has the close code of everything that is refused. Sockets and deadlines
//! are `listener::websocket`'s.

pub mod frame;
pub mod head;
#[cfg(test)]
pub(crate) mod tests;
pub mod violation;

/// The one sub-protocol spoken (MQTT-6.0.0-3).
pub const PROTOCOL: &str = "mqtt";

/// Where devices find it: IoT Hub's path, and the one MQTT libraries have by default.
pub const PATHS: [&str; 2] = ["/$iothub/websocket", "/mqtt"];
