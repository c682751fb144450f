//! The gateway's upstream against AMQP stacks that are neither its own nor the emulator's:
//! qpid-proton and rhea as strict hubs, and packets recorded from the service.
//! Built only with `--features interop`, since the stacks must be installed; `tests/run` does.
#![cfg(feature = "interop")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod hub;
mod rig;
mod telemetry;

/// Runs each scenario against each stack.
macro_rules! against_every_stack {
    ($($module:ident :: $scenario:ident,)*) => {
        mod proton {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                crate::$module::$scenario(crate::hub::Stack::Proton).await;
            })*
        }
        mod rhea {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                crate::$module::$scenario(crate::hub::Stack::Rhea).await;
            })*
        }
    };
}

against_every_stack! {
    telemetry::arrives_with_every_property_and_byte,
    telemetry::a_large_message_crosses_the_smallest_frames,
    commands::a_command_is_completed_by_the_devices_puback,
    commands::a_command_without_a_body_of_bytes_is_rejected,
    commands::commands_of_a_device_that_left_are_released,
    commands::commands_of_a_device_that_left_are_abandoned,
}
