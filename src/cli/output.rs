//! What commands print: to standard output, complaints to standard error.
//!
//! A reader that closes its pipe has seen enough, and that is no failure. Output that is lost, on
//! a full disk for one, is: whoever redirects a key into a file must not believe it is there.

use super::exit::Exit;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// What became of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Printed {
    All,
    /// Nobody reads on.
    Closed,
    /// It could not be written; that is said already.
    Lost,
}

impl Printed {
    /// The exit code of a command that ends with `exit` when its output arrived.
    pub(super) fn or_lost(self, exit: Exit) -> ExitCode {
        match self {
            Self::All | Self::Closed => exit.into(),
            Self::Lost => Exit::Io.into(),
        }
    }
}

/// Writes `text` to standard output, now.
pub(super) fn print(text: &str) -> Printed {
    let mut out = io::stdout().lock();
    became(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// As [`print`], with a line break.
pub(super) fn print_line(line: impl fmt::Display) -> Printed {
    let mut out = io::stdout().lock();
    became(writeln!(out, "{line}").and_then(|()| out.flush()))
}

/// What became of a text whose writing gave `result`.
pub(super) fn became(result: io::Result<()>) -> Printed {
    match result {
        Ok(()) => Printed::All,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Printed::Closed,
        Err(error) => {
            complain(format_args!("standard output cannot be written: {error}"));
            Printed::Lost
        }
    }
}

/// A line on standard error; there is nobody left to tell when that fails.
pub(super) fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
