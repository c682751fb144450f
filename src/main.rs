//! Process entry: run the command line, turn its outcome into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    iothub_gateway::cli::main()
}
