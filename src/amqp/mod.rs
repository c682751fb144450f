//! AMQP 1.0, pure: bytes and a time go in, events and bytes come out. No socket, no task, no
//! clock, no lock, and no word about IoT Hub.
//!
//! [`Connection`] is the whole interface. A driver feeds it what it read, handles every
//! [`Event`], lets its users call [`send`](Connection::send), [`settle`](Connection::settle),
//! [`attach`](Connection::attach) … at any time, and writes once per turn what
//! [`write`](Connection::write) gives it. Names are those of the OASIS specification, numbers in
//! brackets its clauses.
//!
//! Cost per message and per attach does not depend on how many links there are: a slab's key is
//! the handle, lists of what has work run through the slabs, deliveries stand in a ring by
//! delivery-id, and settlements of one turn leave as ranges. What a peer can make it hold is in
//! [`Limits`]. A peer's mistake is a [`Fault`] with its condition; it ends what it concerns (link,
//! session or connection) and nothing else.

pub mod fault;
pub mod frame;
pub mod message;
pub mod performative;
pub mod sasl;
pub mod types;

mod connection;
mod delivery;
mod event;
mod limits;
mod link;
mod session;
mod slab;

#[cfg(test)]
mod tests;

pub use connection::{AttachError, BeginError, Config, Connection, Fed, Side};
pub use delivery::{DeliveryId, Outcome};
pub use event::{Closed, Event};
pub use fault::Fault;
pub use limits::Limits;
pub use link::{LinkId, Message, SendError, Stale, receiver, sender};
pub use session::SessionId;
