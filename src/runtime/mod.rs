//! Process-wide plumbing: the clock, the control thread, the phases of the process's life.

pub mod clock;
pub mod control;
pub mod phase;
