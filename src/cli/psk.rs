//! `psk`: make, convert and check files of pre-shared keys. The file format and what makes a key
//! acceptable are those of `auth::rules::psk_file`.

use super::exit::Exit;
use super::output;
use super::progress::Progress;
use crate::auth::identity::DeviceId;
use crate::auth::rules::encoding::{
    KeyBytes, PSK_BYTES_FLOOR, PSK_BYTES_MAX, PSK_BYTES_MIN, SHORT_KEY, ambiguity, check_psk,
    decode_base64, decode_hex, encode_hex,
};
use crate::auth::rules::psk_file::{lines, parse_line};
use crate::telemetry::log::capped;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zeroize::Zeroizing;

/// A line may have been cut within its key, and the gateway takes what is there for the key.
const UNENDED: &str = "the last line has no end; is the file whole? end it with a newline";

/// Most identities made at once.
const COUNT_MAX: u32 = 1_000_000;

/// Make, convert and check PSK files.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print new identities with random keys, in mosquitto's format.
    Generate(Generate),
    /// Print a file in mosquitto's format (identity:HEX).
    Import(Import),
    /// Report duplicates, weak keys and ambiguous encodings; exit code 64 when there are any.
    Lint(Lint),
}

#[derive(clap::Args, Debug, Default)]
struct Generate {
    /// The identities; without any, numbered ones.
    #[arg(conflicts_with_all = ["count", "prefix"], value_name = "IDENTITY")]
    identities: Vec<String>,
    /// How many identities.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Begin of each identity; a number follows, from 0 on, as in `load` and the emulator's ranges.
    #[arg(long, default_value = "device-")]
    prefix: String,
    /// Length of the keys, bytes.
    #[arg(long, default_value_t = 32)]
    bytes: usize,
}

#[derive(clap::Args, Debug)]
struct Import {
    /// File with lines identity:KEY.
    file: PathBuf,
    /// How keys without a prefix are written.
    #[arg(long, value_enum, default_value = "hex")]
    format: Format,
    /// What stands between identity and key.
    #[arg(long, default_value_t = ':')]
    separator: char,
    /// Shortest key taken, bytes, 4 or more; set min_key_bytes of the [[psk_file]] to it, too.
    #[arg(long, default_value_t = PSK_BYTES_MIN)]
    min_key_bytes: usize,
}

/// Encoding of keys without a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Hex digits, as mosquitto writes them; also reads hex:, base64: and raw: prefixes.
    Hex,
    /// Padded base64.
    Base64,
    /// The text itself.
    Raw,
}

#[derive(clap::Args, Debug)]
struct Lint {
    /// File with lines identity:KEY.
    file: PathBuf,
}

/// Runs the subcommand; prints to standard output, problems to standard error.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let random = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|e| e.to_string());
    let result = match &args.command {
        Command::Generate(args) => generate(args, random),
        Command::Import(args) => with_file(&args.file, |file| import(args, file)),
        Command::Lint(args) => with_file(&args.file, lint),
    };
    match result {
        Ok(text) => output::print(&text).or_lost(Exit::Done),
        Err(problems) => {
            for problem in problems {
                output::complain(problem);
            }
            match &args.command {
                Command::Generate(_) => Exit::Usage.into(),
                Command::Import(Import { file, .. }) | Command::Lint(Lint { file }) => {
                    Exit::of_input(file).into()
                }
            }
        }
    }
}

type Output = Result<Zeroizing<String>, Vec<String>>;

/// Works on a file; every problem starts with its name, and the line where there is one.
fn with_file(path: &Path, work: impl FnOnce(&[u8]) -> Output) -> Output {
    let file = std::fs::read(path).map(Zeroizing::new);
    let done = file
        .map_err(|error| vec![format!("cannot be read ({error})")])
        .and_then(|file| work(&file));
    done.map_err(|problems| {
        let name = capped(&path.display().to_string());
        let placed = |text: String| match text.strip_prefix("line ") {
            Some(text) => format!("{name}:{text}"),
            None => format!("{name}: {text}"),
        };
        problems.into_iter().map(placed).collect()
    })
}

fn generate(args: &Generate, random: impl Fn(&mut [u8]) -> Result<(), String>) -> Output {
    if args.count == 0 || args.count > COUNT_MAX {
        return Err(vec![format!("--count must be 1 to {COUNT_MAX}")]);
    }
    if args.bytes < PSK_BYTES_MIN || args.bytes > PSK_BYTES_MAX {
        return Err(vec![format!(
            "--bytes must be {PSK_BYTES_MIN} to {PSK_BYTES_MAX}"
        )]);
    }
    let names = names(args)?;
    let mut key = Zeroizing::new(vec![0u8; args.bytes]);
    let longest = names.iter().map(String::len).max().unwrap_or(0);
    let line_bytes = longest + 2 + 2 * args.bytes;
    let mut text = Zeroizing::new(String::with_capacity(line_bytes * names.len()));
    let mut progress = Progress::new();
    for (made, name) in names.iter().enumerate() {
        progress.show(|| format!("{made} of {} keys", names.len()));
        random(&mut key).map_err(|e| vec![format!("no random bytes: {e}")])?;
        text.push_str(name);
        text.push(':');
        text.push_str(&encode_hex(&key));
        text.push('\n');
    }
    Ok(text)
}

/// The identities to make, each fit for a file.
fn names(args: &Generate) -> Result<Vec<String>, Vec<String>> {
    let fits = |name: &str| !name.contains(':') && DeviceId::parse(name).is_ok();
    if args.identities.is_empty() {
        let numbered = |number: u32| format!("{}{number}", args.prefix);
        if !fits(&numbered(args.count - 1)) {
            let text = "--prefix must make valid device ids, without a colon";
            return Err(vec![text.to_owned()]);
        }
        return Ok((0..args.count).map(numbered).collect());
    }
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    for name in &args.identities {
        if !fits(name) {
            problems.push(format!(
                "{:?} is no device id of at most 128 bytes without a colon",
                capped(name)
            ));
        } else if !seen.insert(name) {
            problems.push(format!("{name} is there twice"));
        }
    }
    match problems.is_empty() {
        true => Ok(args.identities.clone()),
        false => Err(problems),
    }
}

/// Lines that are neither blank nor comments, with their numbers.
fn entries(file: &[u8]) -> Result<impl Iterator<Item = (usize, &str)>, Vec<String>> {
    let lines = lines(file).map_err(|line| vec![format!("line {line}: is not UTF-8")])?;
    Ok(lines
        .map(|(number, line)| (number, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
}

fn import(args: &Import, file: &[u8]) -> Output {
    // hex needs twice the bytes; enough room, so that no copy is left behind
    let mut text = Zeroizing::new(String::with_capacity(3 * file.len() + 64));
    let mut problems = Vec::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (number, line) in entries(file)? {
        let converted = import_line(args, line);
        let (identity, keys) = match converted {
            Ok(converted) => converted,
            Err(error) => {
                problems.push(format!("line {number}: {error}"));
                continue;
            }
        };
        if let Some(first) = seen.insert(identity, number) {
            problems.push(format!(
                "line {number}: identity is there twice; first in line {first}"
            ));
        }
        text.push_str(identity);
        text.push(':');
        text.push_str(&encode_hex(&keys.0));
        if let Some(next) = &keys.1 {
            text.push_str(" next=");
            text.push_str(&encode_hex(next));
        }
        text.push('\n');
    }
    if text.is_empty() && problems.is_empty() {
        problems.push("the file names no identity".to_owned());
    }
    if problems.is_empty() {
        Ok(text)
    } else {
        Err(problems)
    }
}

type Keys = (KeyBytes, Option<KeyBytes>);

fn import_line<'a>(args: &Import, line: &'a str) -> Result<(&'a str, Keys), &'static str> {
    if args.format == Format::Hex && args.separator == ':' {
        let parsed = parse_line(line, args.min_key_bytes)?.ok_or("an empty line")?;
        return Ok((parsed.identity, (parsed.key, parsed.next_key)));
    }
    let (identity, key) = line
        .split_once(args.separator)
        .ok_or("the separator is missing; a line reads identity:KEY")?;
    let identity = identity.trim();
    let key = key.trim();
    if identity.contains(':') || DeviceId::parse(identity).is_err() {
        return Err("the identity is no device id, or holds a colon");
    }
    let key = match args.format {
        Format::Hex => decode_hex(key.as_bytes()).ok_or("the key is not hex")?,
        Format::Base64 => decode_base64(key).ok_or("the key is not padded base64")?,
        Format::Raw => Zeroizing::new(key.as_bytes().to_vec()),
    };
    check_psk(&key, args.min_key_bytes)?;
    Ok((identity, (key, None)))
}

fn lint(file: &[u8]) -> Output {
    let mut problems = Vec::new();
    let mut identities: HashMap<&str, usize> = HashMap::new();
    // digests, so that no second copy of the keys is made
    let mut keys: HashMap<[u8; 32], usize> = HashMap::new();
    for (number, line) in entries(file)? {
        let mut report = |problem: &str| problems.push(format!("line {number}: {problem}"));
        let parsed = match parse_line(line, PSK_BYTES_FLOOR) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => continue,
            Err(error) => {
                report(error);
                continue;
            }
        };
        if let Some(first) = identities.insert(parsed.identity, number) {
            report(&format!("identity is there twice; first in line {first}"));
        }
        let both = [
            Some((&parsed.key, parsed.key_text)),
            parsed.next_key.as_ref().zip(parsed.next_text),
        ];
        for (key, written) in both.into_iter().flatten() {
            if key.len() < PSK_BYTES_MIN {
                report(SHORT_KEY);
            }
            if let Some(problem) = ambiguity(written) {
                report(problem);
            }
            if key.iter().all(|b| *b == key[0]) {
                report("the key repeats one byte; make one with `psk generate`");
            }
            let digest: [u8; 32] = Sha256::digest(key.as_slice()).into();
            match keys.insert(digest, number) {
                Some(first) if first != number => {
                    report(&format!(
                        "the key is also the one of line {first}; one key each"
                    ));
                }
                _ => {}
            }
        }
    }
    if identities.is_empty() && problems.is_empty() {
        problems.push("the file names no identity".to_owned());
    }
    if !identities.is_empty() && !file.ends_with(b"\n") {
        problems.push(UNENDED.to_owned());
    }
    if problems.is_empty() {
        let noun = match identities.len() {
            1 => "identity",
            _ => "identities",
        };
        let text = format!("{} {noun}, no problem\n", identities.len());
        Ok(Zeroizing::new(text))
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff";

    fn counting() -> impl Fn(&mut [u8]) -> Result<(), String> {
        let next = std::cell::Cell::new(1u8);
        move |bytes| {
            bytes.fill_with(|| {
                next.set(next.get().wrapping_add(7));
                next.get()
            });
            Ok(())
        }
    }

    fn import_args(format: Format, separator: char) -> Import {
        Import {
            file: PathBuf::new(),
            format,
            separator,
            min_key_bytes: PSK_BYTES_MIN,
        }
    }

    #[test]
    fn what_is_generated_passes_lint_and_import() {
        let args = Generate {
            count: 12,
            prefix: "line-".to_owned(),
            bytes: 16,
            ..Generate::default()
        };
        let file = generate(&args, counting()).unwrap();
        assert_eq!(file.lines().count(), 12);
        let names: Vec<_> = file.lines().map(|l| l.split(':').next().unwrap()).collect();
        assert_eq!((names[0], names[11]), ("line-0", "line-11"));
        assert!(lint(file.as_bytes()).is_ok());
        let imported = import(&import_args(Format::Hex, ':'), file.as_bytes()).unwrap();
        assert_eq!(imported, file);
    }

    #[test]
    fn generate_refuses_what_the_gateway_would_not_load() {
        let row = |count: u32, prefix: &str, bytes: usize| {
            let args = Generate {
                count,
                prefix: prefix.to_owned(),
                bytes,
                ..Generate::default()
            };
            assert!(generate(&args, counting()).is_err());
        };
        row(0, "d", 32);
        row(1, "a b", 32);
        row(1, "a:b", 32);
        row(1, "d", 15);
        row(1, &"x".repeat(128), 32);
    }

    #[test]
    fn named_identities_are_taken_when_they_fit_a_file() {
        let run = |names: &[&str]| {
            let args = Generate {
                identities: names.iter().map(|name| (*name).to_owned()).collect(),
                count: 1,
                bytes: 32,
                ..Generate::default()
            };
            generate(&args, counting())
        };
        let made = run(&["thermo-1", "thermo-2"]).unwrap();
        let names: Vec<_> = made.lines().map(|l| l.split(':').next().unwrap()).collect();
        assert_eq!(names, ["thermo-1", "thermo-2"]);
        let problems = run(&["a", "a", "b:c", "d/e"]).unwrap_err().join("\n");
        assert!(problems.contains("a is there twice") && problems.contains("\"b:c\""));
        assert!(problems.contains("\"d/e\""), "{problems}");
    }

    #[test]
    fn every_encoding_becomes_mosquittos() {
        let base64 = "t,c2l4dGVlbi1ieXRlLWtleQ==\n";
        let hex = "t:7369787465656e2d627974652d6b6579\n";
        let got = import(&import_args(Format::Base64, ','), base64.as_bytes());
        assert_eq!(got.unwrap().as_str(), hex);
        let got = import(&import_args(Format::Raw, ':'), b"t:sixteen-byte-key\r\n");
        assert_eq!(got.unwrap().as_str(), hex);
        let mixed = "\u{feff}# c\n\nt:raw:sixteen-byte-key\n";
        let got = import(&import_args(Format::Hex, ':'), mixed.as_bytes());
        assert_eq!(got.unwrap().as_str(), hex);
    }

    #[test]
    fn short_keys_of_mosquitto_are_imported_on_request_and_lint_still_names_them() {
        let file = "a:0102030405\nb:00112233445566778899aabbccddeeff\n";
        let mut args = import_args(Format::Hex, ':');
        assert!(import(&args, file.as_bytes()).is_err());
        args.min_key_bytes = 5;
        assert_eq!(import(&args, file.as_bytes()).unwrap().as_str(), file);
        let problems = lint(file.as_bytes()).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("line 1: the key is shorter than 16 bytes"));
        args.min_key_bytes = 0;
        assert!(import(&args, b"a:010203\n").is_err(), "never below 4");
    }

    #[test]
    fn lint_names_every_line_and_no_key() {
        let file = format!(
            "a:{KEY}\na:hex:{}\nb:{KEY}\nc:001122334455\nd:base64:{KEY}\ne:{}\nno colon\n",
            KEY.replace("00", "ab"),
            "ab".repeat(16)
        );
        let problems = lint(file.as_bytes()).unwrap_err();
        let all = problems.join("\n");
        for expected in [
            "line 2: identity is there twice; first in line 1",
            "line 3: the key is also the one of line 1",
            "line 4: the key is shorter than 16 bytes",
            "line 5: the key after `base64:` is also hex",
            "line 6: the key repeats one byte",
            "line 7: no colon",
        ] {
            assert!(all.contains(expected), "{expected}\n{all}");
        }
        assert!(!all.contains("0011"), "{all}");
        let tiny = lint(b"a:0011\n").unwrap_err();
        assert!(
            tiny[0].contains("than the 4 that min_key_bytes"),
            "{tiny:?}"
        );
        assert!(lint(b"# only\n").is_err());
        assert!(lint(b"a:\xff\n").is_err());
        let cut = lint(format!("a:{KEY}").as_bytes()).unwrap_err();
        assert_eq!(*cut, [UNENDED]);
    }
}
