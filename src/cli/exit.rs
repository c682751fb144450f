//! Exit codes: one table for the program, its man page and README.md; above 63 as sysexits.h has
//! them.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Done = 0,
    /// The answer is no, or not all of it worked.
    No = 1,
    /// `EX_USAGE`
    Usage = 64,
    /// `EX_NOINPUT`
    NoInput = 66,
    /// `EX_UNAVAILABLE`
    Unavailable = 69,
    /// `EX_SOFTWARE`
    Internal = 70,
    /// `EX_CANTCREAT`
    CannotCreate = 73,
    /// `EX_IOERR`
    Io = 74,
    /// `EX_NOPERM`
    NoPermission = 77,
}

/// Each code and what it means, as documents say it.
pub const TABLE: [(Exit, &str); 9] = [
    (Exit::Done, "done"),
    (
        Exit::No,
        "the answer is no, a message was lost or refused, or a stop was cut short",
    ),
    (
        Exit::Usage,
        "wrong usage, configuration, rules or content of a file",
    ),
    (
        Exit::NoInput,
        "a file that was named is not there or cannot be read",
    ),
    (
        Exit::Unavailable,
        "a port is taken, or the gateway, hub or server does not answer",
    ),
    (Exit::Internal, "a defect, or the system gave no thread"),
    (
        Exit::CannotCreate,
        "a file or folder cannot be made or used",
    ),
    (
        Exit::Io,
        "standard input or output broke off, as on a full disk",
    ),
    (
        Exit::NoPermission,
        "the gateway refuses the order, or the system the port",
    ),
];

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Of a command that could not use `path`: whether that is the path or what is in it.
    #[must_use]
    pub fn of_input(path: &Path) -> Self {
        let is_readable = std::fs::File::open(path).is_ok_and(|mut file| {
            // A folder opens, too.
            io::Read::read(&mut file, &mut [0]).is_ok()
        });
        if is_readable {
            Self::Usage
        } else {
            Self::NoInput
        }
    }

    /// Of a port that cannot be bound.
    #[must_use]
    pub fn of_bind(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied => Self::NoPermission,
            _ => Self::Unavailable,
        }
    }
}

/// Runs a command; a panic, which has said itself what it is, ends as a defect.
pub fn guarded(command: impl FnOnce() -> ExitCode) -> ExitCode {
    catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| Exit::Internal.into())
}

#[cfg(test)]
mod tests {
    use super::{Exit, TABLE, guarded};
    use std::io;
    use std::path::Path;
    use std::process::ExitCode;

    #[test]
    fn a_panic_is_a_defect_and_nothing_else_is() {
        assert_eq!(guarded(|| Exit::Done.into()), ExitCode::SUCCESS);
        let panics = || -> ExitCode { panic!("a defect made by a test") };
        assert_eq!(guarded(panics), ExitCode::from(70));
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_wrong() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(Exit::of_input(&here.join("Cargo.toml")), Exit::Usage);
        assert_eq!(Exit::of_input(&here.join("absent")), Exit::NoInput);
        assert_eq!(Exit::of_input(here), Exit::NoInput, "a folder");
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(Exit::of_bind(&taken), Exit::Unavailable);
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Exit::of_bind(&denied), Exit::NoPermission);
    }

    #[test]
    fn each_code_is_in_the_table_once_and_in_order() {
        let codes: Vec<u8> = TABLE.iter().map(|(exit, _)| *exit as u8).collect();
        assert_eq!(codes, [0, 1, 64, 66, 69, 70, 73, 74, 77]);
    }
}
