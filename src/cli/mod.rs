//! The command line: argument grammar and dispatch, one file per subcommand.
//!
//! Exit codes are in [`exit`].

#![deny(clippy::print_stdout, clippy::print_stderr)]

use clap::{Parser, Subcommand};
use exit::Exit;
use std::process::ExitCode;

pub mod check;
mod ctl;
mod demo;
mod device;
mod emulator;
pub mod exit;
mod load;
mod manual;
mod output;
mod password;
mod progress;
mod psk;
mod refused;
mod run;
mod token;

/// What `--version` says: the release, and the commit of a release build.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("IOTHUB_GATEWAY_COMMIT"),
    ")"
);

/// Stack of a worker thread, bytes of address space: the AMQP library decodes nested types by
/// recursion without a limit of its own.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// The runtime of every long-running subcommand.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
}

/// Custom protocol gateway for Azure IoT Hub: MQTT devices in, a few AMQP connections out.
#[derive(Parser)]
#[command(name = "iothub-gateway", version = VERSION, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run emulator and gateway on loopback with sample devices, and show what arrives.
    Demo(demo::Args),
    /// Run the gateway.
    Run(run::Args),
    /// Check configuration and rules; print every problem.
    Check(check::Args),
    /// Ask a running gateway, and give it orders.
    Ctl(ctl::Args),
    /// Run the IoT Hub emulator alone.
    Emulator(emulator::Args),
    /// Be many devices: load any MQTT server and report what it took.
    Load(Box<load::Args>),
    /// Mint or read a SAS token.
    Token(token::Args),
    /// Generate, import or check pre-shared keys.
    Psk(psk::Args),
    /// Show, send again or drop messages that were kept because the hub will not take them.
    Refused(refused::Args),
    /// Hash a password for a rules file; read from standard input.
    Password(password::Args),
    /// Print completions for a shell.
    Completions(manual::Completions),
    /// Write man pages, one a command.
    Man(manual::Pages),
}

/// Prints help, the version, or what is wrong with the arguments.
fn explain(message: &clap::Error) -> output::Printed {
    // What Rust's parsers say of a number is no sentence for whoever typed it.
    const WORDS: [(&str, &str); 4] = [
        ("invalid digit found in string", "it must be a whole number"),
        (
            "cannot parse integer from empty string",
            "it must be a whole number",
        ),
        ("number too large to fit in target type", "it is too large"),
        (
            "number too small to fit in target type",
            "it must not be negative",
        ),
    ];
    let text = message.render().to_string();
    if message.use_stderr()
        && let Some((theirs, ours)) = WORDS.iter().find(|(theirs, _)| text.contains(theirs))
    {
        output::complain(text.replace(theirs, ours).trim_end());
        return output::Printed::All;
    }
    output::became(message.print())
}

/// Parses the arguments and runs the subcommand.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            let code = match message.use_stderr() {
                true => Exit::Usage,
                false => Exit::Done,
            };
            return explain(&message).or_lost(code);
        }
    };
    let code = exit::guarded(|| match arguments.command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Emulator(args) => emulator::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Psk(args) => psk::run(&args),
        Command::Refused(args) => refused::run(&args),
        Command::Password(args) => password::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::pages(&args),
    });
    crate::telemetry::log::flush();
    code
}
