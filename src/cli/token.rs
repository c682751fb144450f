//! `token`: mint a SAS token, or read one. Keys come from files or variables, never from the
//! command line, where every process on the machine can see them.

use super::exit::Exit;
use super::output;
use crate::auth::identity::{DeviceId, ModuleId};
use crate::auth::rules::encoding::decode_base64;
use crate::auth::sas::{Token, mint};
use crate::runtime::clock::{self, Unix};
use crate::telemetry::log::plain;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use zeroize::Zeroizing;

/// Largest token file read, bytes.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// Mint or read SAS tokens.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print a token for a device (--device) or for a hub policy (--policy).
    Mint(Mint),
    /// Show scope, expiry and policy of a token; never its signature.
    Read(Read),
}

#[derive(clap::Args, Debug)]
struct Mint {
    /// Host name of the hub, e.g. myhub.azure-devices.net.
    #[arg(long)]
    host: String,
    /// Device the token is for; without it, all devices.
    #[arg(long, required_unless_present = "policy")]
    device: Option<String>,
    /// Module of the device.
    #[arg(long, requires = "device")]
    module: Option<String>,
    /// Hub policy that owns the key; leave out for a device key.
    #[arg(long)]
    policy: Option<String>,
    /// File with the key in base64.
    #[arg(long, required_unless_present = "key_env")]
    key_file: Option<PathBuf>,
    /// Environment variable with the key in base64.
    #[arg(long, conflicts_with = "key_file")]
    key_env: Option<String>,
    /// How long it is valid: 90s, 30m, 1h, 7d.
    #[arg(long, default_value = "1h")]
    ttl: String,
}

#[derive(clap::Args, Debug)]
struct Read {
    /// File with the token; standard input when absent.
    file: Option<PathBuf>,
}

/// Runs the subcommand; prints to standard output, errors to standard error.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let result = match &args.command {
        Command::Mint(args) => read_key(args).and_then(|key| mint_token(args, &key, clock::unix())),
        Command::Read(args) => read_token(args).and_then(|text| describe(&text, clock::unix())),
    };
    match result {
        Ok(text) => output::print_line(text.as_str()).or_lost(Exit::Done),
        Err(error) => {
            output::complain(format_args!("token: {error}"));
            let file = match &args.command {
                Command::Mint(args) => args.key_file.as_deref(),
                Command::Read(args) => args.file.as_deref(),
            };
            file.map_or(Exit::Usage, Exit::of_input).into()
        }
    }
}

fn read_key(args: &Mint) -> Result<Zeroizing<String>, String> {
    match (&args.key_file, &args.key_env) {
        (Some(path), _) => std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|e| format!("{}: {e}", path.display())),
        (None, Some(name)) => std::env::var(name)
            .map(Zeroizing::new)
            .map_err(|_| format!("the variable {name} is not set, or is not UTF-8")),
        (None, None) => Err("give --key-file or --key-env".to_owned()),
    }
}

fn mint_token(args: &Mint, key: &str, now: Unix) -> Result<Zeroizing<String>, String> {
    let key = decode_base64(key.trim()).ok_or("the key is not base64")?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    let host = args.host.as_str();
    if host.is_empty() || host.contains(|c: char| c == '/' || c.is_whitespace()) {
        return Err("--host must be a bare host name such as myhub.azure-devices.net".to_owned());
    }
    let mut resource = format!("{host}/devices");
    if let Some(device) = &args.device {
        let device = DeviceId::parse(device).map_err(|e| format!("--device: {e}"))?;
        let _ = write!(resource, "/{device}");
    }
    if let Some(module) = &args.module {
        let module = ModuleId::parse(module).map_err(|e| format!("--module: {e}"))?;
        let _ = write!(resource, "/modules/{module}");
    }
    let ends = now + parse_ttl(&args.ttl)?;
    Ok(Zeroizing::new(mint(
        &resource,
        &key,
        ends,
        args.policy.as_deref(),
    )))
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    const FORM: &str = "--ttl must be a time such as 90s, 30m, 1h or 7d, at most 10 years";
    const TEN_YEARS_S: u64 = 10 * 366 * 86_400;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(FORM.to_owned()),
    };
    let count: u64 = digits.parse().map_err(|_| FORM)?;
    let seconds = count.checked_mul(factor);
    let seconds = seconds.filter(|s| (1..=TEN_YEARS_S).contains(s));
    Ok(Duration::from_secs(seconds.ok_or(FORM)?))
}

fn read_token(args: &Read) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    let read = match &args.file {
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
            .map_err(|e| format!("{}: {e}", path.display())),
        None => std::io::stdin()
            .take(TOKEN_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|e| format!("standard input: {e}")),
    };
    read.map(|_| text)
}

fn describe(text: &str, now: Unix) -> Result<Zeroizing<String>, String> {
    let token = Token::parse(text.trim()).map_err(|denial| denial.text.to_owned())?;
    let scope = token
        .scope()
        .ok_or("the scope is not percent-encoded UTF-8")?;
    let expires = token.expires();
    let distance = if expires > now {
        format!("in {}", spell(expires.since(now)))
    } else {
        format!("expired {} ago", spell(now.since(expires)))
    };
    let policy = match token.policy() {
        Some(policy) => printable(&policy),
        None => "none: signed with a device or module key".to_owned(),
    };
    Ok(Zeroizing::new(format!(
        "scope   {}\nexpires {} ({distance})\npolicy  {policy}",
        printable(&scope),
        expires
    )))
}

/// Text of a token may hold anything; a terminal gets printable characters.
fn printable(text: &str) -> String {
    plain(text).chars().take(512).collect()
}

/// The two largest units of a duration.
fn spell(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let mut rest = duration.as_secs();
    let mut words = Vec::new();
    for (size, unit) in UNITS {
        if rest >= size && words.len() < 2 {
            words.push(format!("{} {unit}", rest / size));
            rest %= size;
        }
    }
    if words.is_empty() {
        return "0 s".to_owned();
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "NMgJDvdKTxjLi+xBxxkDDEwDJxEvOE5u8BiT0mVgPeg=";

    fn mint_args() -> Mint {
        Mint {
            host: "myhub.azure-devices.net".to_owned(),
            device: None,
            module: None,
            policy: Some("device".to_owned()),
            key_file: None,
            key_env: None,
            ttl: "1h".to_owned(),
        }
    }

    #[test]
    fn a_minted_token_is_the_one_of_the_wire_sheet() {
        let now = Unix::from_secs(1_893_456_000 - 3600);
        let token = mint_token(&mint_args(), &format!("{KEY}\n"), now).unwrap();
        assert_eq!(
            token.as_str(),
            "SharedAccessSignature sr=myhub.azure-devices.net%2Fdevices\
             &sig=SFklwh13UHqZyBnISox7ZoZSd3AN0AcYF2QqEto7f4Q%3D&se=1893456000&skn=device"
        );
    }

    #[test]
    fn reading_shows_scope_and_expiry_and_never_the_signature() {
        let now = Unix::from_secs(1_893_456_000 - 3600);
        let token = mint_token(&mint_args(), KEY, now).unwrap();
        let shown = describe(&token, now).unwrap();
        assert!(
            shown.contains("myhub.azure-devices.net/devices\n"),
            "{}",
            *shown
        );
        assert!(
            shown.contains("2030-01-01T00:00:00Z (in 1 h)"),
            "{}",
            *shown
        );
        assert!(shown.contains("policy  device"));
        assert!(!shown.contains("SFklwh13"));
        let later = describe(&token, now + Duration::from_secs(3600 + 61)).unwrap();
        assert!(later.contains("expired 1 min 1 s ago"), "{}", *later);
        assert!(describe("SharedAccessSignature sr=a", now).is_err());
    }

    #[test]
    fn wrong_input_is_named() {
        let now = Unix::from_secs(1_000);
        let row = |change: fn(&mut Mint), key: &str, word: &str| {
            let mut args = mint_args();
            change(&mut args);
            let error = mint_token(&args, key, now).unwrap_err();
            assert!(error.contains(word), "{error}");
            assert!(!error.contains("NMgJ"), "{error}");
        };
        row(|_| {}, "NMgJ no base64", "base64");
        row(|_| {}, "", "empty");
        row(|a| a.host = "https://myhub".to_owned(), KEY, "--host");
        row(|a| a.device = Some("a/b".to_owned()), KEY, "--device");
        row(|a| a.ttl = "1".to_owned(), KEY, "--ttl");
        row(|a| a.ttl = "0s".to_owned(), KEY, "--ttl");
        row(|a| a.ttl = "99999999999999999999d".to_owned(), KEY, "--ttl");
    }

    #[test]
    fn a_device_token_names_device_and_module() {
        let mut args = mint_args();
        args.policy = None;
        args.device = Some("dev$a:1".to_owned());
        args.module = Some("m1".to_owned());
        let now = Unix::from_secs(1_893_456_000 - 3600);
        let token = mint_token(&args, KEY, now).unwrap();
        assert!(token.contains("%2Fdevices%2Fdev%24a%3A1%2Fmodules%2Fm1&"));
        assert!(token.contains("sig=xUUY87lNapSPrMKcydRCJL9l6XMR2d62hrTYi9V1XXQ%3D"));
        assert!(!token.contains("skn"));
    }
}
