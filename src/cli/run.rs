//! `run`: the gateway in the foreground until SIGTERM or SIGINT.

use super::check::plural;
use super::exit::Exit;
use super::output;
use crate::auth::rules::RuleCounts;
use crate::config::Config;
use crate::gateway::{Gateway, Loaded, StartError, load};
use crate::runtime::handover::{self, Predecessor};
use crate::runtime::phase::Phase;
use crate::runtime::sockets::Inherited;
use crate::telemetry::log;
use sd_notify::NotifyState;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Signals within this time are one: some supervisors signal the process and then its group.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the gateway; 0 after a clean stop, else as [`super::exit`] says.
pub fn run(args: &Args) -> ExitCode {
    let loaded = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in &problems {
                output::complain(problem);
            }
            let count = plural(problems.len(), "problem");
            output::complain(format_args!("{count}; nothing was started"));
            return Exit::of_input(&args.config).into();
        }
    };
    if let Err(error) = log::init(&loaded.config.log) {
        output::complain(error);
        return Exit::Usage.into();
    }
    for warning in &loaded.warnings {
        tracing::warn!(name: "config_warning", "{warning}");
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(format_args!("cannot start the runtime: {error}"));
            return Exit::Internal.into();
        }
    };
    let code = runtime.block_on(serve(&args.config, loaded));
    // A thread that hangs in a file system must not keep the process.
    runtime.shutdown_background();
    code
}

/// The gateway from its start to its end.
async fn serve(path: &Path, loaded: Loaded) -> ExitCode {
    // From here on SIGHUP ends nobody, also before there is somebody to hear it.
    let _heard = signal(SignalKind::hangup());
    let (predecessor, inherited) = match sockets(&loaded.config) {
        Ok(found) => found,
        Err(error) => {
            complain(&format!(
                "shutdown.handover: {error}; stop the process that holds it, or remove the key"
            ));
            return Exit::of_bind(&error).into();
        }
    };
    let counts = loaded.rules.counts();
    let gateway = match Gateway::start_on(loaded.config, loaded.rules, inherited).await {
        Ok(gateway) => gateway,
        Err(error) => {
            for line in error.to_string().lines() {
                complain(line);
            }
            return of_start(&error).into();
        }
    };
    banner(path, &gateway, counts);
    gateway.watch(loaded.sources);
    let served = tokio::spawn(supervised(gateway.phase(), predecessor));
    let succeeded = tokio::select! {
        stopped = stop_signal() => {
            if let Err(error) = stopped {
                tracing::error!(
                    name: "signals_unavailable",
                    %error,
                    "signals cannot be received; stopping"
                );
            }
            false
        }
        () = gateway.stop_wanted() => false,
        succeeded = succeeded(&gateway, served) => succeeded,
    };
    tracing::info!(name: "stopping", succeeded, "stopping; a second signal ends at once");
    // A successor that took over is the service now, and it goes on.
    if !succeeded {
        systemd(&[NotifyState::Stopping]);
    }
    let second = async {
        tokio::time::sleep(ONE_SIGNAL).await;
        stop_signal().await
    };
    let stop = async {
        match succeeded {
            true => gateway.yield_to_successor().await,
            false => gateway.stop().await,
        }
    };
    let exit = tokio::select! {
        clean = stop => if clean { Exit::Done } else { Exit::No },
        _ = second => {
            tracing::error!(name: "stop_forced", "second signal: ended without waiting");
            Exit::No
        }
    };
    exit.into()
}

/// Of a gateway that does not start.
fn of_start(error: &StartError) -> Exit {
    match error {
        StartError::Bind { error, .. } => Exit::of_bind(error),
        StartError::Tls(_) => Exit::Usage,
        StartError::Folder { .. } => Exit::CannotCreate,
        StartError::Admin(_) => Exit::Internal,
    }
}

/// Sockets that are open already: the predecessor's, else systemd's.
fn sockets(config: &Config) -> std::io::Result<(Option<Predecessor>, Inherited)> {
    if let Some(path) = &config.shutdown.handover
        && let Some((predecessor, sockets)) = handover::take_over(path)?
    {
        return Ok((Some(predecessor), sockets));
    }
    Ok((None, Inherited::from_systemd()))
}

/// Waits until this process serves, tells predecessor and supervisor so, then keeps the watchdog
/// quiet for as long as this runtime runs tasks.
async fn supervised(mut phase: watch::Receiver<Phase>, predecessor: Option<Predecessor>) {
    if phase
        .wait_for(|phase| *phase == Phase::Ready)
        .await
        .is_err()
    {
        return;
    }
    if let Some(predecessor) = predecessor
        && let Err(error) = predecessor.release()
    {
        tracing::warn!(
            name: "predecessor_gone",
            %error,
            "the predecessor was gone before it was told"
        );
    }
    let main_pid = NotifyState::MainPid(std::process::id());
    systemd(&[NotifyState::Ready, main_pid]);
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(period / 2);
    loop {
        ticks.tick().await;
        systemd(&[NotifyState::Watchdog]);
    }
}

/// Resolves when the next process serves on this one's sockets. The file is opened once this
/// process serves: until then it is the predecessor's.
async fn succeeded(gateway: &Gateway, served: tokio::task::JoinHandle<()>) -> bool {
    let mut phase = gateway.phase();
    let serving = phase.wait_for(|phase| *phase == Phase::Ready).await.is_ok();
    if serving
        && gateway
            .succeeded()
            .await
            .inspect_err(|error| {
                tracing::error!(
                    name: "handover_unavailable",
                    %error,
                    "no process can take the sockets over"
                );
            })
            .is_ok()
    {
        served.abort(); // the watchdog is the successor's from now on
        return true;
    }
    std::future::pending().await
}

/// Tells systemd, where it asked to be told.
fn systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

/// Says why there is no gateway, also to whoever switched the log off.
fn complain(text: &str) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(name: "start_failed", "{text}");
    } else {
        output::complain(text);
    }
}

/// The first line of a start: what runs, from which file, at which addresses.
fn banner(config: &Path, gateway: &Gateway, rules: RuleCounts) {
    let shown = |(name, address): &(String, std::net::SocketAddr)| format!("{name}={address}");
    let listeners: Vec<String> = gateway.listeners().iter().map(shown).collect();
    tracing::info!(
        name: "starting",
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
