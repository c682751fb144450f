//! `completions` and `man`: what a package installs beside the program, made of its own grammar.

use super::exit::{Exit, TABLE};
use super::output;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `completions`.
#[derive(clap::Args)]
pub struct Completions {
    /// The shell that reads them
    shell: Shell,
}

/// Arguments of `man`.
#[derive(clap::Args)]
pub struct Pages {
    /// Folder the pages are written to; made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

fn grammar() -> clap::Command {
    super::Arguments::command()
}

/// Prints the completions of a shell.
pub fn completions(args: &Completions) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut grammar(), "iothub-gateway", &mut text);
    // clap_complete 4.6.11 takes the hyphen of the name for a step between commands in one half of
    // bash's function and not in the other.
    let text = String::from_utf8_lossy(&text);
    output::print(&text.replace("iothub__subcmd__gateway", "iothub__gateway")).or_lost(Exit::Done)
}

/// Writes a page for each command; 73 when the folder cannot be written to.
pub fn pages(args: &Pages) -> ExitCode {
    match write(&args.folder) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            output::complain(format_args!("man: {}: {error}", args.folder.display()));
            Exit::CannotCreate.into()
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut command = grammar().disable_help_subcommand(true);
    command.build();
    page_of(&command, "iothub-gateway", folder)
}

fn page_of(command: &clap::Command, name: &str, folder: &Path) -> io::Result<()> {
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        page_of(inner, &format!("{name}-{}", inner.get_name()), folder)?;
    }
    // Built commands know their names with those of all above them.
    let version = env!("CARGO_PKG_VERSION");
    let man = Man::new(command.clone()).source(format!("iothub-gateway {version}"));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    exit_status(&mut page)?;
    if name != "iothub-gateway" {
        writeln!(page, ".SH \"SEE ALSO\"\n.BR iothub\\-gateway (1)")?;
    }
    std::fs::write(folder.join(format!("{name}.1")), plain(&page))
}

/// Roff that needs nobody to say how it is encoded.
fn plain(page: &[u8]) -> String {
    let mut text = String::with_capacity(page.len());
    for c in String::from_utf8_lossy(page).chars() {
        match c.is_ascii() {
            true => text.push(c),
            false => text.push_str(&format!("\\[u{:04X}]", u32::from(c))),
        }
    }
    text
}

fn exit_status(page: &mut Vec<u8>) -> io::Result<()> {
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (exit, means) in TABLE {
        writeln!(page, ".TP\n\\fB{}\\fR\n{means}", exit as u8)?;
    }
    Ok(())
}
