//! `run`: the gateway in the foreground until SIGTERM or SIGINT.

use super::USAGE;
use crate::auth::rules::RuleCounts;
use crate::gateway::{Gateway, load};
use crate::telemetry::log;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Signals within this time are one: some supervisors signal the process and then its group.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the gateway; 0 after a clean stop, 64 when the configuration is wrong.
pub fn run(args: &Args) -> ExitCode {
    let loaded = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("{} problems; nothing was started", problems.len());
            return ExitCode::from(USAGE);
        }
    };
    if let Err(error) = log::init(&loaded.config.log) {
        eprintln!("{error}");
        return ExitCode::from(USAGE);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let counts = loaded.rules.counts();
    runtime.block_on(async {
        let gateway = match Gateway::start(loaded.config, loaded.rules).await {
            Ok(gateway) => gateway,
            Err(error) => {
                for line in error.to_string().lines() {
                    complain(line);
                }
                return ExitCode::FAILURE;
            }
        };
        banner(&args.config, &gateway, counts);
        gateway.watch(loaded.sources);
        if let Err(error) = stop_signal().await {
            tracing::error!(%error, "signals cannot be received; stopping");
        }
        tracing::info!("stopping; a second signal ends at once");
        let second = async {
            tokio::time::sleep(ONE_SIGNAL).await;
            stop_signal().await
        };
        tokio::select! {
            clean = gateway.stop() => if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            _ = second => {
                tracing::error!("second signal: ended without waiting");
                ExitCode::FAILURE
            }
        }
    })
}

/// Says why there is no gateway, also to whoever switched the log off.
fn complain(text: &str) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{text}");
    } else {
        eprintln!("{text}");
    }
}

/// The first line of a start: what runs, from which file, at which addresses.
fn banner(config: &Path, gateway: &Gateway, rules: RuleCounts) {
    let shown = |(name, address): &(String, std::net::SocketAddr)| format!("{name}={address}");
    let listeners: Vec<String> = gateway.listeners().iter().map(shown).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = crate::COMMIT,
        config = %config.display(),
        listeners = listeners.join(" "),
        admin = %gateway.admin(),
        rules = rules.rules,
        devices = rules.devices,
        psk_identities = rules.psk_identities,
        "iothub-gateway starts"
    );
}

/// Resolves at the next SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
