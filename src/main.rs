//! Process entry: run the command line, turn its outcome into an exit code.

use std::process::ExitCode;

/// See Cargo.toml for why.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Much memory is asked for and never touched. Huge pages would make all of it resident. A
    // kernel without them has nothing to switch off.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    iothub_gateway::cli::main()
}
