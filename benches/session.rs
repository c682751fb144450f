//! See `cases/session.rs`. Run with `cargo bench --bench session`.

#[path = "cases/session.rs"]
mod cases;
mod support;

fn main() -> std::process::ExitCode {
    support::main("session", cases::all)
}
