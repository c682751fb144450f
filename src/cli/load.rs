//! `load`: the device load generator. Exit status 0 when every device connected and stayed and
//! nothing acknowledged is missing, 1 otherwise, 64 for wrong usage.

use super::exit::Exit;
use super::output::{self, Printed};
use crate::load::{Credentials, Options, Pace, Report, TlsVersion, run as drive, sources};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `load`. In templates `{n}` is the device's number (`{n:06}`, `{n:08x}`), `{id}` its
/// client id. A SOURCE of secrets is a file, or env:NAME; secrets are never arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Server, name or address.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// Server port. There is no default: whom to load has to be said.
    #[arg(long)]
    port: Option<u16>,
    /// Number of devices.
    #[arg(long, value_name = "N", default_value_t = 100)]
    devices: usize,
    /// Number {n} of the first device.
    #[arg(long, value_name = "K", default_value_t = 0)]
    first: u64,
    /// Client ids.
    #[arg(long, value_name = "TEMPLATE", default_value = "load-{n}")]
    client_id: String,
    /// Local addresses to connect from, e.g. 127.0.0.1-127.0.0.8 or 127.0.0.0/8.
    #[arg(long, value_name = "LIST", value_parser = sources)]
    source: Option<std::vec::Vec<std::net::IpAddr>>,
    /// Threads; as many as there are cores when not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    messages: MessageArgs,
    #[command(flatten)]
    result: ResultArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Credentials")]
struct CredentialArgs {
    /// CA of the server's certificate; turns TLS on.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Only this TLS version.
    #[arg(long, value_name = "VERSION")]
    tls: Option<TlsVersion>,
    /// PSK identities; the client ids when not given.
    #[arg(long, value_name = "TEMPLATE")]
    psk_identity: Option<String>,
    /// Lines identity:HEX, as mosquitto's psk_file.
    #[arg(long, value_name = "SOURCE", group = "credential")]
    psk_file: Option<String>,
    /// One line, the template of all keys: hex:…, base64:… or raw:…
    #[arg(long, value_name = "SOURCE", group = "credential")]
    psk_key_template: Option<String>,
    /// Client certificate chains, PEM.
    #[arg(long, value_name = "TEMPLATE", group = "credential", requires = "key")]
    cert: Option<String>,
    /// Their keys, PEM.
    #[arg(long, value_name = "TEMPLATE", requires = "cert")]
    key: Option<String>,
    /// Lines id:BASE64, or one template of a base64 key: mint SAS tokens.
    #[arg(long, value_name = "SOURCE", group = "credential", requires = "hub")]
    sas_key_file: Option<String>,
    /// Host name of the hub, in the tokens.
    #[arg(long, value_name = "NAME", requires = "sas_key_file")]
    hub: Option<String>,
    /// Life of the tokens.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    sas_ttl: Duration,
    /// User names.
    #[arg(
        long,
        value_name = "TEMPLATE",
        group = "credential",
        requires = "password_file"
    )]
    username: Option<String>,
    /// One password template, or lines username:password.
    #[arg(long, value_name = "SOURCE", requires = "username")]
    password_file: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connecting")]
struct ConnectArgs {
    /// Connections started a second.
    #[arg(
        long,
        value_name = "R",
        default_value_t = 500,
        conflicts_with = "storm"
    )]
    connect_rate: u32,
    /// Start all connections at once.
    #[arg(long)]
    storm: bool,
    /// Most connections being made at a time.
    #[arg(long, value_name = "N", default_value_t = 256)]
    concurrency: usize,
    /// Time for one connection, from SYN to CONNACK.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    connect_timeout: Duration,
    /// MQTT keep-alive, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    keep_alive: u16,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Messages")]
struct MessageArgs {
    /// Topic published to.
    #[arg(
        long,
        value_name = "TEMPLATE",
        default_value = "devices/{id}/messages/events/"
    )]
    topic: String,
    /// Open loop: this many messages a second by all devices together.
    #[arg(long, value_name = "R", conflicts_with = "idle")]
    rate: Option<u32>,
    /// Most unacknowledged messages of a device: 1, or with --rate 1000.
    #[arg(long, value_name = "W")]
    window: Option<u16>,
    /// Send nothing, hold the connections.
    #[arg(long)]
    idle: bool,
    /// Payload size, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    payload: usize,
    /// Quality of service, 0 or 1.
    #[arg(long, default_value_t = 1)]
    qos: u8,
    /// Subscribe, and count what comes.
    #[arg(
        long,
        value_name = "TEMPLATE",
        num_args = 0..=1,
        default_missing_value = "devices/{id}/messages/devicebound/#"
    )]
    subscribe: Option<String>,
    /// Pause this long after every read of at most 1 KiB.
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        default_missing_value = "1s",
        value_parser = duration
    )]
    slow_reader: Option<Duration>,
    /// Length of the measured part.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Time before it.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    warmup: Duration,
    /// Longest wait for acknowledgements after it.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    drain: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Result")]
struct ResultArgs {
    /// Write the result as JSON to this file, or with - to standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Process id of the server: report its CPU and memory (Linux, in steps of 10 ms).
    #[arg(long)]
    pid: Option<u32>,
    /// Control API of the emulator behind the server: report what was lost on the way.
    #[arg(long, value_name = "URL")]
    ledger: Option<String>,
    /// No progress line.
    #[arg(long)]
    quiet: bool,
}

impl Args {
    fn options(&self, port: u16) -> Options {
        let (connect, messages) = (&self.connect, &self.messages);
        Options {
            host: self.host.clone(),
            port,
            devices: self.devices,
            first: self.first,
            client_id: self.client_id.clone(),
            topic: messages.topic.clone(),
            subscribe: messages.subscribe.clone(),
            credentials: self.credentials.credentials(),
            tls: self.credentials.tls,
            ca: self.credentials.ca.clone(),
            sources: self.source.clone().unwrap_or_default(),
            connect_rate: (!connect.storm).then_some(connect.connect_rate),
            concurrency: connect.concurrency,
            connect_timeout: connect.connect_timeout,
            keep_alive_s: connect.keep_alive,
            pace: match messages.rate {
                Some(rate) => Pace::Open { rate },
                None if messages.idle => Pace::Idle,
                None => Pace::Closed,
            },
            window: messages
                .window
                .unwrap_or(if messages.rate.is_some() { 1000 } else { 1 }),
            qos: messages.qos,
            payload: messages.payload,
            warmup: messages.warmup,
            duration: messages.duration,
            drain: messages.drain,
            slow_reader: messages.slow_reader,
            pid: self.result.pid,
            ledger: self.result.ledger.clone(),
            progress: !self.result.quiet,
        }
    }
}

impl CredentialArgs {
    /// The grammar allows at most one kind, with everything it needs.
    fn credentials(&self) -> Credentials {
        if self.psk_file.is_some() || self.psk_key_template.is_some() || self.psk_identity.is_some()
        {
            Credentials::Psk {
                identity: self.psk_identity.clone(),
                file: self.psk_file.clone(),
                template: self.psk_key_template.clone(),
            }
        } else if let (Some(cert), Some(key)) = (self.cert.clone(), self.key.clone()) {
            Credentials::Certificate { cert, key }
        } else if let (Some(keys), Some(hub)) = (self.sas_key_file.clone(), self.hub.clone()) {
            let ttl = self.sas_ttl;
            Credentials::Sas { keys, hub, ttl }
        } else if let (Some(username), Some(passwords)) =
            (self.username.clone(), self.password_file.clone())
        {
            Credentials::Password {
                username,
                passwords,
            }
        } else {
            Credentials::None
        }
    }
}

/// `250ms`, `10s`, `5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number: Option<u64> = digits.parse().ok();
    match number.and_then(|number| number.checked_mul(factor)) {
        Some(ms) if factor > 0 && ms <= 30 * 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err("write a time of at most 30 days like 250ms, 10s, 5m or 1h".to_owned()),
    }
}

/// What is said instead of loading whatever listens on a usual port.
const NO_TARGET: &str = "say which server is to be loaded: --port PORT on this machine, with \
    --host NAME elsewhere; of a gateway it is the bind of a [[listener]], 8883 in \
    config/minimal.toml and in the demo";

/// Runs the load.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let Some(port) = args.port else {
        output::complain(format_args!("load: {NO_TARGET}"));
        return Exit::Usage.into();
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    match args.threads {
        Some(threads @ 1..=1024) => drop(builder.worker_threads(threads)),
        Some(_) => {
            output::complain(format_args!("load: --threads must be 1 to 1024"));
            return Exit::Usage.into();
        }
        None => {}
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(format_args!("load: cannot start the runtime: {error}"));
            return Exit::Internal.into();
        }
    };
    let report = match runtime.block_on(drive(args.options(port), interrupted())) {
        Ok(report) => report,
        Err(problems) => {
            for problem in problems {
                output::complain(format_args!("load: {problem}"));
            }
            return Exit::Usage.into();
        }
    };
    match show(&report, args.result.json.as_deref()) {
        Ok(printed) if report.is_clean() => printed.or_lost(Exit::Done),
        Ok(printed) => printed.or_lost(Exit::No),
        Err(problem) => {
            output::complain(format_args!("load: {problem}"));
            Exit::CannotCreate.into()
        }
    }
}

/// The first Ctrl-C ends the run early; a second one ends the process.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(1);
        }
    });
}

/// The table goes to standard output, unless the JSON is there.
fn show(report: &Report, json: Option<&std::path::Path>) -> Result<Printed, String> {
    let to_stdout = json.is_some_and(|path| path.as_os_str() == "-");
    let text = report.to_string();
    let mut printed = Printed::All;
    match to_stdout {
        true => output::complain(text.trim_end()),
        false => printed = output::print(&text),
    }
    let Some(path) = json else {
        return Ok(printed);
    };
    let mut text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    text.push('\n');
    if to_stdout {
        return Ok(output::print(&text));
    }
    let written = std::fs::write(path, text);
    written.map_err(|error| format!("--json {}: {error}", path.display()))?;
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use super::{Args, duration};
    use crate::load::{Credentials, Pace};
    use clap::Parser;
    use std::time::Duration;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("load").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "5 s", "999999h", "1d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_line_becomes_options() {
        let options = parse("--psk-file f --rate 50 --subscribe --storm --source 127.0.0.2")
            .unwrap()
            .options(1883);
        assert_eq!(options.pace, Pace::Open { rate: 50 });
        assert_eq!((options.window, options.connect_rate), (1000, None));
        assert_eq!(
            options.subscribe.as_deref(),
            Some("devices/{id}/messages/devicebound/#")
        );
        assert!(matches!(options.credentials, Credentials::Psk { .. }));
        assert_eq!(options.sources.len(), 1);
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            "--idle --rate 5",
            "--storm --connect-rate 5",
            "--psk-file f --username u --password-file p",
            "--cert c",
            "--sas-key-file f",
            "--username u",
            "--source nonsense",
            "--tls 1.1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
