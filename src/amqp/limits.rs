//! What a peer may make the engine hold or do, each with a name.

use std::time::Duration;

/// Bounds of one connection. The defaults fit a connection to IoT Hub.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest frame we accept, bytes; sent in OPEN (2.7.1 max-frame-size). At least 512. It is
    /// also the most that waits in the driver's read buffer for a frame to become whole, and the
    /// largest frame we write, whatever the peer allows.
    pub frame_size: u32,
    /// Highest channel number; sent in OPEN (2.7.1 channel-max). One session is some 300 bytes.
    pub channel_max: u16,
    /// Highest handle in a session; sent in BEGIN (2.7.2 handle-max). A peer that uses the highest
    /// one makes its session hold 4 bytes a handle; an attached link is some 150 bytes.
    pub handle_max: u32,
    /// Transfer frames the peer may send in a session before it must wait for a FLOW (2.5.6
    /// incoming-window). The window opens again when half of it is used.
    pub session_window: u32,
    /// Deliveries without outcome in one session and direction; 40 bytes each. A sender is told to
    /// wait, a receiver's session window closes.
    pub unsettled: u32,
    /// From the oldest delivery without outcome to the newest one, in delivery-ids; 4 bytes each.
    /// A delivery that nobody settles holds the session only after that many others.
    pub delivery_span: u32,
    /// Largest message we accept, bytes; sent in ATTACH (2.7.3 max-message-size) unless the link
    /// asks for less. What is larger is refused before it is buffered.
    pub message_size: u64,
    /// Bytes of messages that have begun to arrive in several frames and are not whole yet, all
    /// links of the connection together. The link that would exceed it is detached.
    pub incoming_bytes: usize,
    /// Bytes waiting to be written. Above it no input is taken and no message is accepted for
    /// sending. One message, or the answer to one frame, may exceed it.
    pub output_bytes: usize,
    /// Events waiting for [`poll_event`](super::Connection::poll_event). Above it no input is
    /// taken; one frame may exceed it by the deliveries it settles.
    pub events: usize,
    /// Values in one performative or message section, every element of lists, maps and arrays
    /// counted: what a decoder may be made to hold.
    pub values: u32,
    /// Nesting of lists, maps, arrays and described types.
    pub depth: u32,
    /// Largest SASL frame, bytes. Clause 5.3.2 says 512; a SAS token as PLAIN password is longer.
    pub sasl_frame_size: u32,
    /// From the first byte to both OPENs.
    pub handshake: Duration,
    /// How long the peer may take to answer our CLOSE.
    pub closing: Duration,
    /// Shortest time between two empty frames, however short an idle time-out the peer asks for.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_size: 65_536,
            channel_max: 255,
            handle_max: 32_767,
            session_window: 5_000,
            unsettled: 65_536,
            delivery_span: 1 << 20,
            message_size: 1 << 20,
            incoming_bytes: 16 << 20,
            output_bytes: 1 << 20,
            events: 4_096,
            values: 8_192,
            depth: 16,
            sasl_frame_size: 8_192,
            handshake: Duration::from_secs(30),
            closing: Duration::from_secs(10),
            ping: Duration::from_millis(50),
        }
    }
}
