//! Process-wide plumbing: the clock, random numbers, hexadecimal, trust in servers, values to wait for, the
//! control thread, the phases of the process's life, and sockets that outlive it.

pub mod clock;
pub mod control;
pub mod handover;
pub mod hex;
pub mod phase;
pub mod random;
pub mod roots;
pub mod sockets;
pub mod watch;
