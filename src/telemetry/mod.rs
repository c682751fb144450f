//! What operators see: metrics and logs.

pub mod causes;
pub mod event;
pub mod log;
pub mod metrics;
pub mod reason;
pub mod shell;
