//! See `cases/route.rs`. Run with `cargo bench --bench route`.

#[path = "cases/route.rs"]
mod cases;
mod support;

fn main() -> std::process::ExitCode {
    support::main("route", cases::all)
}
