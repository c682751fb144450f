//! Process entry: run the command line, turn its outcome into an exit code.

use std::process::ExitCode;

/// See Cargo.toml for why.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    iothub_gateway::cli::main()
}
