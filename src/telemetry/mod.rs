//! What operators see: metrics, logs and traces.

pub mod causes;
pub mod event;
pub mod log;
pub mod metrics;
pub mod reason;
pub mod shell;
pub mod trace;
