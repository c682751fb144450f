//! The command line: argument grammar and dispatch, one file per subcommand.

pub mod check;

use std::process::ExitCode;

/// Parses the arguments and runs the subcommand.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
