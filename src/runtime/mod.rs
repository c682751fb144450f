//! Process-wide plumbing: the clock, random numbers, values to wait for, the control thread, the phases of the process's life, and
//! sockets that outlive it.

pub mod clock;
pub mod control;
pub mod handover;
pub mod phase;
pub mod random;
pub mod sockets;
pub mod watch;
