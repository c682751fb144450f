//! The gateway's upstream against AMQP stacks that are neither its own nor the emulator's:
//! qpid-proton and rhea as strict hubs, and packets recorded from the service.
//! Built only with `--features interop`, since the stacks must be installed; `tests/run` does.
#![cfg(feature = "interop")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod hub;
mod limits;
mod losses;
mod rig;
mod telemetry;

/// Runs scenarios against one stack, as `stack::scenario`.
macro_rules! against {
    ($stack:ident as $name:ident: $($module:ident :: $scenario:ident,)*) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                crate::$module::$scenario(crate::hub::Stack::$stack).await;
            })*
        }
    };
}

/// Runs scenarios against every stack.
macro_rules! against_each {
    ($($module:ident :: $scenario:ident,)*) => {
        against! { Proton as proton: $($module::$scenario,)* }
        against! { Rhea as rhea: $($module::$scenario,)* }
    };
}

against_each! {
    telemetry::arrives_with_every_property_and_byte,
    telemetry::a_large_message_crosses_the_smallest_frames,
    telemetry::little_credit_is_kept_to,
    telemetry::frames_of_many_devices_mix_and_messages_do_not,
    commands::a_command_is_completed_by_the_devices_puback,
    commands::a_command_without_a_body_of_bytes_is_rejected,
    commands::commands_of_a_device_that_left_are_released,
    commands::commands_of_a_device_that_left_are_abandoned,
    limits::a_hub_with_one_channel_is_served_over_it,
    limits::a_silent_hub_is_left,
    losses::a_link_closed_with_an_error_comes_back,
    losses::a_link_detached_but_not_closed_comes_back,
    losses::a_session_ended_with_an_error_is_begun_again,
    losses::a_connection_closed_with_an_error_is_opened_again,
    losses::a_command_whose_link_was_lost_comes_again,
    losses::messages_given_back_are_sent_again,
    losses::a_message_rejected_for_good_is_not_acknowledged,
}

// Proton has no way to announce a handle-max.
against! { Rhea as rhea_alone:
    limits::more_devices_than_handles_are_spread_over_sessions,
    limits::more_devices_than_all_handles,
}

/// The same, for scenarios that wait: every stack at once.
macro_rules! against_all_at_once {
    ($($module:ident :: $scenario:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            use crate::hub::Stack;
            tokio::join!($module::$scenario(Stack::Proton), $module::$scenario(Stack::Rhea));
        })*
    };
}

against_all_at_once! {
    limits::tokens_are_renewed_and_nobody_notices,
    limits::a_refused_renewal_is_tried_again_in_time,
    limits::an_idle_connection_is_kept,
}
