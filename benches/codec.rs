//! See `cases/codec.rs`. Run with `cargo bench --bench codec`.

#[path = "cases/codec.rs"]
mod cases;
mod support;

fn main() -> std::process::ExitCode {
    support::main("codec", cases::all)
}
