//! See `cases/amqp.rs`. Run with `cargo bench --bench amqp`.

#[path = "cases/amqp.rs"]
mod cases;
mod support;

fn main() -> std::process::ExitCode {
    support::main("amqp", cases::all)
}
