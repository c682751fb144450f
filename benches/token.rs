//! See `cases/token.rs`. Run with `cargo bench --bench token`.

#[path = "cases/token.rs"]
mod cases;
mod support;

fn main() -> std::process::ExitCode {
    support::main("token", cases::all)
}
