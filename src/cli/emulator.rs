//! `emulator`: the hub emulator alone, until SIGINT or SIGTERM.

use super::exit::Exit;
use super::output;
use crate::config::secret::Secret;
use crate::emulator::{Emulator, EmulatorConfig, EmulatorError, TlsMaterial};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `emulator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "config/emulator.toml"
    )]
    pub config: PathBuf,
    /// Serve AMQP over TLS with this certificate chain, PEM, instead of the file's.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Address of AMQP over TLS, instead of the file's; 127.0.0.1:5671 when neither names one.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "cert")]
    pub tls_bind: Option<SocketAddr>,
    /// Take the hub from IOTHUB_EMULATOR_… variables instead of a file, serve on every address,
    /// and print connection strings: for a container of its own.
    #[arg(long, conflicts_with_all = ["config", "cert"])]
    pub environment: bool,
    /// Read the configuration, print every problem, and leave.
    #[arg(long)]
    pub check: bool,
}

/// Runs the emulator. Exit status 0 after a stop, 64 for a bad configuration, 69 when a port is
/// taken.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let name = match args.environment {
        true => "environment".to_owned(),
        false => args.config.display().to_string(),
    };
    let read = match args.environment {
        true => environment(),
        false => read(&args.config),
    };
    let read = read.map_err(|problems| {
        let named = |problem| format!("{name}: {problem}");
        problems.into_iter().map(named).collect::<Vec<_>>()
    });
    let config = match read.and_then(|config| with_tls(args, config)) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                output::complain(problem);
            }
            return match args.environment {
                true => Exit::Usage.into(),
                false => Exit::of_input(&args.config).into(),
            };
        }
    };
    if args.check {
        return output::print_line(format_args!("{name}: ok")).or_lost(Exit::Done);
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, Exit::Internal),
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            let exit = match error.downcast_ref() {
                Some(EmulatorError::Bind { source, .. }) => Exit::of_bind(source),
                Some(_) => Exit::Usage,
                None => Exit::Internal,
            };
            failed(&*error, exit)
        }
    }
}

fn failed(error: &dyn std::fmt::Display, exit: Exit) -> ExitCode {
    output::complain(format_args!("emulator: {error}"));
    exit.into()
}

/// The hub of a container. Its connection strings are printed: they open this emulator and
/// nothing else, and who starts it has no other way to learn a key that was made here.
fn environment() -> Result<EmulatorConfig, Vec<String>> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| vec![format!("no entropy for a key: {error}")])?;
    let get = |name: &str| std::env::var(name).ok();
    let fresh = || base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let (config, strings) = EmulatorConfig::from_environment(get, fresh)?;
    let mut lines = format!("connection string {}\n", strings.gateway);
    for device in &strings.devices {
        let _ = writeln!(lines, "device connection string {device}");
    }
    let _served_all_the_same = output::print(&lines);
    Ok(config)
}

fn read(path: &Path) -> Result<EmulatorConfig, Vec<String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![format!("cannot be read: {error}; name it with -c FILE")])?;
    EmulatorConfig::from_toml(&text, path.parent().unwrap_or(Path::new(".")))
}

/// What the arguments say of TLS goes before what the file says.
fn with_tls(args: &Args, mut config: EmulatorConfig) -> Result<EmulatorConfig, Vec<String>> {
    let (Some(cert), Some(key)) = (&args.cert, &args.key) else {
        return Ok(config);
    };
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|error| vec![format!("{}: cannot be read: {error}", path.display())])
    };
    config.amqp.tls = Some(TlsMaterial {
        cert_pem: read(cert)?,
        key_pem: Secret::new(read(key)?),
    });
    let bind = args.tls_bind.or(config.amqp.bind);
    config.amqp.bind = Some(bind.unwrap_or((Ipv4Addr::LOCALHOST, 5671).into()));
    Ok(config)
}

async fn serve(config: EmulatorConfig) -> Result<(), Box<dyn std::error::Error>> {
    // Before the ports are open, so that no early signal is missed.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let emulator = Emulator::start(config).await?;
    for (name, address) in [
        ("amqps", emulator.amqps_addr()),
        ("amqp", emulator.amqp_addr()),
        ("control http", emulator.control_addr()),
        ("service https", emulator.https_addr()),
        ("service http", emulator.http_addr()),
    ] {
        if let Some(address) = address {
            let line = format_args!("listening {name} {address}");
            let _served_all_the_same = output::print_line(line);
        }
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    emulator.stop().await;
    Ok(())
}
