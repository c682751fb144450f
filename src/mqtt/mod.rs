//! MQTT 3.1.1 and 5 on the device's side, pure: no sockets, no tokio, no clock.

pub mod packet;
pub mod session;
pub mod violation;
