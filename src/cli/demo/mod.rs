//! `demo`: emulator, gateway and a simulated device on loopback, from nothing, in one process.
//!
//! It writes the same files an operator would, starts from them, and prints what reaches the hub.

mod files;
mod screen;

use self::files::{HUB_HOST, Layout, SIMULATED, Samples};
use self::screen::{Screen, offers};
use super::device::{Device, Identity, trust};
use super::run::stop_signal;
use crate::auth::sas;
use crate::config::secret::Secret;
use crate::emulator::{Emulator, EmulatorConfig, EmulatorHandle, Entry};
use crate::gateway::{Gateway, load};
use crate::runtime::clock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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

/// Life of the SAS token in the printed command.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

type Failure = Box<dyn std::error::Error>;

/// Runs the demo until Ctrl-C.
pub fn run(args: &Args) -> ExitCode {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: &Args) -> Result<(), Failure> {
    let layout = Layout {
        dir: args.dir.clone(),
        mqtt_port: args.mqtt_port,
        admin_port: args.admin_port,
        amqp_port: args.amqp_port,
        control_port: args.control_port,
    };
    let samples = layout.prepare()?;
    let emulator = start_emulator(&layout).await?;
    let gateway = start_gateway(&layout).await?;

    let screen = Screen::new();
    let token = device_token("pump-3", &samples.sas_key, TOKEN_LIFE)?;
    print!(
        "{}",
        screen.head(&layout, &offers(&layout, &samples, &token))
    );
    let simulated = tokio::spawn(simulate(
        layout.path("ca.pem"),
        layout.mqtt_port,
        samples,
        Duration::from_millis(args.interval_ms.max(1)),
    ));
    tokio::select! {
        () = show(&emulator, &screen) => {}
        signal = stop_signal() => signal?,
    }
    simulated.abort();
    println!("\nstopping");
    let clean = gateway.stop().await;
    emulator.stop().await;
    if clean {
        Ok(())
    } else {
        Err("the gateway did not stop in time".into())
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

/// Sends a reading every `interval`; connects again when the connection ends.
async fn simulate(ca: PathBuf, port: u16, samples: Samples, interval: Duration) {
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
            loop {
                let celsius = 20.0 + 5.0 * f64::from(reading).mul_add(0.1, 0.0).sin();
                let body = format!("{{\"n\":{reading},\"celsius\":{celsius:.1}}}");
                let topic = format!(
                    "devices/{SIMULATED}/messages/events/$.ct=application%2Fjson&$.ce=utf-8"
                );
                if device.publish(&topic, body.as_bytes()).await.is_err() {
                    break;
                }
                reading = reading.wrapping_add(1);
                tokio::time::sleep(interval).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Prints every message the hub accepts, as it accepts it.
async fn show(emulator: &EmulatorHandle, screen: &Screen) {
    let ledger = emulator.ledger();
    let mut after = 0;
    loop {
        ledger.grown_past(after).await;
        for entry in ledger.messages(None, after, 1000) {
            after = entry.seq;
            println!("{}", line(&entry, screen));
        }
    }
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
    let seconds = clock::unix().as_secs() % 86_400;
    let time = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let bag = crate::telemetry::log::capped(&bag.join(" ")).to_string();
    screen.message(&time, entry.seq, entry.device(), &shown, &bag)
}
