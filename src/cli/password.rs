//! `password`: hash a password for a rules file. It comes from standard input, never from the
//! command line, where every process on the machine can see it.

use super::exit::Exit;
use super::output;
use crate::auth::password::{DEFAULT_COST, hash_password_with};
use std::io::Read as _;
use std::process::ExitCode;
use zeroize::Zeroizing;

/// Longest password read, bytes.
const PASSWORD_BYTES_MAX: u64 = 1024;

/// Hash a password for a rules file.
///
/// Reads one line from standard input and prints `$argon2id$…`, the value of
/// `password.hash` of a [[device]].
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Memory of one check, KiB
    #[arg(long, default_value_t = DEFAULT_COST.0, value_name = "KIB")]
    memory: u32,
    /// Passes over the memory
    #[arg(long, default_value_t = DEFAULT_COST.1)]
    passes: u32,
}

/// Prints the hash to standard output, errors to standard error.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let password = match read() {
        Ok(password) => password,
        Err(error) => return failed(&format!("standard input: {error}"), Exit::Io),
    };
    let hashed = check(&password).and_then(|()| {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| format!("no random bytes: {error}"))?;
        let cost = (args.memory, args.passes, DEFAULT_COST.2);
        hash_password_with(line(&password), &salt, cost).map_err(str::to_owned)
    });
    match hashed {
        Ok(hash) => output::print_line(hash).or_lost(Exit::Done),
        Err(error) => failed(&error, Exit::Usage),
    }
}

fn failed(problem: &str, exit: Exit) -> ExitCode {
    output::complain(format_args!("password: {problem}"));
    exit.into()
}

fn read() -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut input = Zeroizing::new(Vec::new());
    std::io::stdin()
        .take(PASSWORD_BYTES_MAX + 1)
        .read_to_end(&mut input)?;
    Ok(input)
}

fn check(input: &[u8]) -> Result<(), String> {
    match input.len() as u64 > PASSWORD_BYTES_MAX {
        true => Err(format!("more than {PASSWORD_BYTES_MAX} bytes; shorten it")),
        false => Ok(()),
    }
}

/// The password without the line break at its end.
fn line(input: &[u8]) -> &[u8] {
    let text = input.strip_suffix(b"\n").unwrap_or(input);
    text.strip_suffix(b"\r").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn only_the_line_break_at_the_end_is_no_part_of_the_password() {
        assert_eq!(line(b" pass word \r\n"), b" pass word ");
        assert_eq!(line(b"pass\n\n"), b"pass\n");
        assert_eq!(line(b""), b"");
    }
}
