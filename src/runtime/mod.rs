//! Process-wide plumbing: the clock, the phases of the process's life.

pub mod clock;
pub mod phase;
