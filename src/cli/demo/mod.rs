//! `demo`: emulator, gateway and a simulated device on loopback, from nothing, in one process.
//!
//! It writes the same files an operator would, starts from them, and prints what reaches the hub.

mod files;
mod keys;
mod screen;

use self::files::{HUB_HOST, Layout, SIMULATED, Samples};
use self::keys::{Key, Keyboard};
use self::screen::{Screen, offers};
use super::device::{Device, Identity, trust};
use super::exit::Exit;
use super::output;
use super::run::stop_signal;
use crate::auth::sas;
use crate::config::secret::Secret;
use crate::emulator::{Emulator, EmulatorConfig, EmulatorHandle, Entry};
use crate::gateway::{Gateway, load};
use crate::runtime::clock;
use crate::telemetry::causes::Causes;
use crate::telemetry::shell::quoted;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Arguments of `demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for certificates, sample devices and configuration; made if missing.
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    dir: PathBuf,
    /// Port of the gateway's device listener.
    #[arg(long, default_value_t = 8883, value_name = "PORT")]
    mqtt_port: u16,
    /// Port of the gateway's metrics.
    #[arg(long, default_value_t = 9464, value_name = "PORT")]
    admin_port: u16,
    /// Port of the emulator's AMQP over TLS.
    #[arg(long, default_value_t = 5671, value_name = "PORT")]
    amqp_port: u16,
    /// Port of the emulator's control API.
    #[arg(long, default_value_t = 5680, value_name = "PORT")]
    control_port: u16,
    /// Pause between two messages of the simulated device, in milliseconds.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    interval_ms: u64,
}

/// How long the end may take; devices that do not answer are left.
const END: Duration = Duration::from_millis(800);

/// Messages after which the keys are told again.
const REMINDER: usize = 15;

/// Life of the SAS token in the printed command.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How often the gateway is asked whom it refused, and how many of the latest it tells.
const LOOK: Duration = Duration::from_millis(250);
const REFUSALS: usize = 50;

type Failure = Box<dyn std::error::Error>;

/// Runs the demo until `q` or Ctrl-C.
pub fn run(args: &Args) -> ExitCode {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(format_args!("cannot start the runtime: {error}"));
            return Exit::Internal.into();
        }
    };
    let done = runtime.block_on(demo(args));
    runtime.shutdown_background();
    match done {
        Ok(()) => Exit::Done.into(),
        Err((error, exit)) => {
            output::complain(format_args!("demo: {error}"));
            exit.into()
        }
    }
}

async fn demo(args: &Args) -> Result<(), (Failure, Exit)> {
    let layout = Layout {
        dir: args.dir.clone(),
        mqtt_port: args.mqtt_port,
        admin_port: args.admin_port,
        amqp_port: args.amqp_port,
        control_port: args.control_port,
    };
    let unmade = |error: std::io::Error| (error.into(), Exit::CannotCreate);
    let samples = layout.prepare().map_err(unmade)?;
    let taken = |error| (error, Exit::Unavailable);
    let emulator = start_emulator(&layout).await.map_err(taken)?;
    let gateway = start_gateway(&layout).await.map_err(taken)?;
    let served = serve(args, &layout, samples, emulator, gateway).await;
    served.map_err(|error| (error, Exit::Internal))
}

/// Shows what arrives until somebody ends it.
async fn serve(
    args: &Args,
    layout: &Layout,
    samples: Samples,
    emulator: EmulatorHandle,
    gateway: Gateway,
) -> Result<(), Failure> {
    let screen = Screen::new();
    let token = device_token("pump-3", &samples.sas_key, TOKEN_LIFE)?;
    let head = screen.head(layout, &offers(layout, &samples, &token));
    let stream = watch::Sender::new(true);
    let simulated = tokio::spawn(simulate(
        layout.path("ca.pem"),
        layout.mqtt_port,
        samples,
        Duration::from_millis(args.interval_ms.max(1)),
        stream.subscribe(),
    ));
    let mut keyboard = Keyboard::open();
    print(&head);
    let keys_shown = keyboard.is_terminal();
    let causes = gateway.causes();
    tokio::select! {
        () = show(&emulator, &screen, keys_shown) => {}
        () = refusals(&causes, &screen) => {}
        () = obey(&mut keyboard, &screen, &head, &stream) => {}
        signal = stop_signal() => signal?,
    }
    simulated.abort();
    print("\nstopping\n");
    let end = async {
        gateway.stop().await;
        emulator.stop().await;
    };
    // Nobody has to wait for the end of a demo.
    let _ = timeout(END, end).await;
    Ok(())
}

/// Prints; whoever closes the pipe does not end the demo by it.
fn print(text: &str) {
    let _goes_on = output::print(text);
}

/// Does what the keys say, until one ends the demo.
async fn obey(keyboard: &mut Keyboard, screen: &Screen, head: &str, stream: &watch::Sender<bool>) {
    loop {
        match keyboard.next().await {
            Key::Commands => print(head),
            Key::Stream => {
                stream.send_modify(|on| *on = !*on);
                print(&screen.stream(*stream.borrow()));
            }
            Key::Quit => return,
        }
    }
}

async fn start_emulator(layout: &Layout) -> Result<EmulatorHandle, Failure> {
    let text = std::fs::read_to_string(layout.path("emulator.toml"))?;
    let config = EmulatorConfig::from_toml(&text, &layout.dir).map_err(|all| all.join("\n"))?;
    let hint = "choose other ports with --amqp-port and --control-port";
    Ok(Emulator::start(config)
        .await
        .map_err(|error| format!("{error}; {hint}"))?)
}

async fn start_gateway(layout: &Layout) -> Result<Gateway, Failure> {
    let loaded = load(&layout.path("gateway.toml")).map_err(|problems| {
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    let hint = "choose other ports with --mqtt-port and --admin-port";
    let started = Gateway::start(loaded.config, loaded.rules).await;
    let gateway = started.map_err(|error| format!("{error}; {hint}"))?;
    gateway.watch(loaded.sources);
    if gateway.ready(Duration::from_secs(10)).await {
        return Ok(gateway);
    }
    Err("the gateway found no hub within 10 s".into())
}

/// A SAS token of a sample device.
fn device_token(device: &str, key: &str, life: Duration) -> Result<String, Failure> {
    let key = Secret::new(BASE64.decode(key)?);
    let scope = format!("{HUB_HOST}/devices/{device}");
    Ok(sas::mint(&scope, key.expose(), clock::unix() + life, None))
}

/// Sends a reading every `interval` while `stream` says so; connects again after a loss.
async fn simulate(
    ca: PathBuf,
    port: u16,
    samples: Samples,
    interval: Duration,
    mut stream: watch::Receiver<bool>,
) {
    let Ok(tls) = trust(&ca) else { return };
    let username = format!("{HUB_HOST}/{SIMULATED}/?api-version=2021-04-12");
    let mut reading = 0_u32;
    loop {
        let hour = Duration::from_secs(3600);
        let token = device_token(SIMULATED, &samples.simulated_key, hour).unwrap_or_default();
        let identity = Identity {
            client_id: SIMULATED,
            username: &username,
            password: &token,
        };
        if let Ok(mut device) = Device::connect(&tls, port, &identity).await {
            while stream.wait_for(|on| *on).await.is_ok() {
                let celsius = 20.0 + 5.0 * f64::from(reading).mul_add(0.1, 0.0).sin();
                let body = format!("{{\"n\":{reading},\"celsius\":{celsius:.1}}}");
                let topic = format!(
                    "devices/{SIMULATED}/messages/events/$.ct=application%2Fjson&$.ce=utf-8"
                );
                if device.publish(&topic, body.as_bytes()).await.is_err() {
                    break;
                }
                reading = reading.wrapping_add(1);
                sleep(interval).await;
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Prints every message the hub accepts, as it accepts it.
async fn show(emulator: &EmulatorHandle, screen: &Screen, keys: bool) {
    let ledger = emulator.ledger();
    let (mut after, mut shown) = (0, 0_usize);
    loop {
        ledger.grown_past(after).await;
        for entry in ledger.messages(None, after, 1000) {
            after = entry.seq;
            print(&format!("{}\n", line(&entry, screen)));
            shown += 1;
            if keys && shown.is_multiple_of(REMINDER) {
                print(&screen.reminder());
            }
        }
    }
}

/// Prints each refusal once, and again when it happens again.
async fn refusals(causes: &Causes, screen: &Screen) {
    let mut shown: HashMap<(String, String), u64> = HashMap::new();
    loop {
        let latest = causes.latest(REFUSALS);
        let mut seen = HashMap::new();
        // The latest comes last, as in a log; what calls for nothing is no refusal.
        for cause in latest.iter().rev().filter(|cause| !cause.fix.is_empty()) {
            let key = (cause.who().to_owned(), cause.reason.to_string());
            if shown.get(&key) != Some(&cause.count) {
                let who = crate::telemetry::log::capped(cause.who());
                let line = screen.refusal(&time_of_day(cause.at), &who, &cause.reason, &cause.fix);
                print(&format!("{line}\n"));
            }
            seen.insert(key, cause.count);
        }
        shown = seen;
        sleep(LOOK).await;
    }
}

/// The name this program was started by, fit for a shell.
fn program() -> String {
    let name = std::env::args().next();
    let name = name.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
    quoted(&name).into_owned()
}

fn time_of_day(at: u64) -> String {
    let (hours, minutes) = (at / 3600 % 24, at / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", at % 60)
}

fn line(entry: &Entry, screen: &Screen) -> String {
    let body = entry
        .body()
        .map_or("(not kept)".into(), |body| String::from_utf8_lossy(body));
    let shown = crate::telemetry::log::capped(&body).to_string();
    let properties = entry.content.iter().flat_map(|content| &content.properties);
    let bag: Vec<String> = properties
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let time = time_of_day(clock::unix().as_secs());
    let bag = crate::telemetry::log::capped(&bag.join(" ")).to_string();
    screen.message(&time, entry.seq, entry.device(), &shown, &bag)
}
