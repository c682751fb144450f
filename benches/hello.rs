//! See `cases/hello.rs`. Run with `cargo bench --bench hello`.

#[path = "cases/hello.rs"]
mod cases;
mod support;

fn main() -> std::process::ExitCode {
    support::main("hello", cases::all)
}
