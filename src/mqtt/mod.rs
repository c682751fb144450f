//! MQTT 3.1.1 and 5 on the device's side, pure: no sockets, no tokio, no clock.
//!
//! Bytes come in through [`session::Session::next`] and leave as [`session::Event`]s; answers go
//! to a buffer the driver flushes. What this station must never do: buffer a packet it will
//! refuse, guess at a malformed one, or write a PUBACK without a [`session::Receipt`].
//! Before it: `tls`. After it: `auth` for CONNECT, `router` for everything else.

pub mod decode;
pub mod encode;
pub mod packet;
pub mod session;
pub mod topic;
pub mod violation;

mod inflight;
mod read;

#[cfg(test)]
mod tests;
