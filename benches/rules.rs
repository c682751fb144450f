//! See `cases/rules.rs`. Run with `cargo bench --bench rules`.

#[path = "cases/rules.rs"]
mod cases;
mod support;

fn main() -> std::process::ExitCode {
    support::main("rules", cases::all)
}
