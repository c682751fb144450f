//! `refused`: the messages rules kept in `rules.refused_folder`: shown, sent again, dropped.
//!
//! Sending again goes over a connection to the hub of its own, beside a running gateway, as the
//! device that sent the message; a file is taken away when the hub has accepted it.

use super::exit::Exit;
use super::output::{self, Printed};
use crate::auth;
use crate::auth::rules::Properties;
use crate::config::{Config, OnDisconnect};
use crate::gateway::load;
use crate::hub::message::DeviceAddress;
use crate::hub::{DeviceLinks, Hub, HubEvent};
use crate::router::refused::{self, Record};
use crate::router::topic_map::{self, Mapped};
use crate::telemetry::log::plain;
use crate::telemetry::metrics::Metrics;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Time for the hub to take a token, and for each message.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time for the connection's close.
const CLOSE: Duration = Duration::from_secs(5);

/// Show, send again or drop the messages a rule's on_refused = "file" kept.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print each message: name, time, device, reason, size, topic.
    List(Folder),
    /// Send messages to the hub as their devices; each is dropped when the hub has accepted it.
    ///
    /// Property bags are read leniently. A device that is connected meanwhile may be asked by the
    /// hub to connect again. Exit code 1 when a message was not accepted.
    Resend(Chosen),
    /// Take messages away for good.
    Drop(Chosen),
}

#[derive(clap::Args, Debug)]
struct Folder {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(clap::Args, Debug)]
struct Chosen {
    #[command(flatten)]
    folder: Folder,
    /// Names of messages, as `refused list` shows them.
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

/// Runs the subcommand; 1 when a message could not be handled, 69 when the hub does not answer.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let result = match &args.command {
        Command::List(folder) => opened(folder).and_then(|(_, path)| list(&path)),
        Command::Resend(chosen) => with_ids(chosen, resend),
        Command::Drop(chosen) => with_ids(chosen, |_, folder, ids| Ok(drop_all(folder, ids))),
    };
    match result {
        Ok(true) => Exit::Done.into(),
        Ok(false) => Exit::No.into(),
        Err((problems, exit)) => {
            problems.iter().for_each(output::complain);
            exit.into()
        }
    }
}

/// Why nothing was begun.
type Problems = (Vec<String>, Exit);

/// Whether all went well.
type Done = Result<bool, Problems>;

fn opened(folder: &Folder) -> Result<(Config, PathBuf), Problems> {
    let loaded = load(&folder.config).map_err(|problems| {
        let problems = problems.iter().map(ToString::to_string).collect();
        (problems, Exit::of_input(&folder.config))
    })?;
    let config = loaded.config;
    match config.refused_folder.clone() {
        Some(path) => Ok((config, path)),
        None => {
            let name = folder.config.display();
            let text = format!("{name}: rules.refused_folder is not set, so no message is kept");
            Err((vec![text], Exit::Usage))
        }
    }
}

fn with_ids(chosen: &Chosen, act: impl FnOnce(Config, &Path, &[String]) -> Done) -> Done {
    let (config, folder) = opened(&chosen.folder)?;
    match chosen.all {
        true => act(config, &folder, &ids(&folder)?),
        false => act(config, &folder, &chosen.ids),
    }
}

fn ids(folder: &Path) -> Result<Vec<String>, Problems> {
    match refused::ids(folder) {
        Ok(ids) => Ok(ids),
        // A gateway that never started has made none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            let text = format!("{} cannot be read ({error})", folder.display());
            Err((vec![text], Exit::NoInput))
        }
    }
}

fn list(folder: &Path) -> Done {
    let mut well = true;
    for id in ids(folder)? {
        match refused::read(folder, &id) {
            Ok(record) => well &= say(&row(&id, &record)),
            Err(problem) => well = complain(&id, &problem),
        }
    }
    Ok(well)
}

fn row(id: &str, record: &Record) -> String {
    let Record {
        client_id,
        reason,
        received,
        publish,
        ..
    } = record;
    let bytes = publish.payload.len();
    let topic = plain(&publish.topic);
    format!("{id}  {received}  {client_id}  {reason}  {bytes} B  {topic}")
}

fn drop_all(folder: &Path, ids: &[String]) -> bool {
    let mut well = true;
    for id in ids {
        match refused::remove(folder, id) {
            Ok(()) => well &= say(&format!("{id}  dropped")),
            Err(error) => well = complain(id, &format!("cannot be dropped ({error})")),
        }
    }
    well
}

fn resend(mut config: Config, folder: &Path, ids: &[String]) -> Done {
    let runtime = super::runtime().map_err(|error| {
        let text = format!("cannot start the runtime: {error}");
        (vec![text], Exit::Internal)
    })?;
    // One connection is enough, and leaves the running gateway its own.
    config.hub.connections = 1;
    runtime.block_on(async {
        let hub = Hub::start(Arc::new(config.hub.clone()), Arc::new(Metrics::new()));
        if !hub.ready(PATIENCE).await {
            let problem = hub.status().problem;
            let text = format!("the hub takes no token: {problem}");
            return Err((vec![text], Exit::Unavailable));
        }
        let mut well = true;
        for id in ids {
            let sent = send(&hub, folder, id, config.limits.properties).await;
            match sent.and_then(|()| {
                let removed = refused::remove(folder, id);
                removed.map_err(|error| format!("accepted, but cannot be dropped ({error})"))
            }) {
                Ok(()) => well &= say(&format!("{id}  accepted")),
                Err(problem) => well = complain(id, &problem),
            }
        }
        hub.shutdown(CLOSE).await;
        Ok(well)
    })
}

/// Sends one message and waits for the hub's word.
async fn send(hub: &Hub, folder: &Path, id: &str, properties_max: usize) -> Result<(), String> {
    let Record {
        client_id, publish, ..
    } = refused::read(folder, id)?;
    let device = auth::on_record(&client_id)
        .map_err(|error| format!("is of no device that can be ({error})"))?;
    let mapped = topic_map::uplink(&device, publish, properties_max, Properties::Lenient);
    let Mapped { telemetry, .. } =
        mapped.map_err(|error| format!("refused again: {}: {error}", error.reason()))?;
    let mut links = hub.links(DeviceAddress::of(&device));
    links.send(0, telemetry);
    let word = tokio::time::timeout(PATIENCE, word(&mut links)).await;
    links.close(OnDisconnect::Release);
    word.map_err(|_| format!("not accepted within {} s", PATIENCE.as_secs()))?
}

async fn word(links: &mut DeviceLinks) -> Result<(), String> {
    loop {
        match links.next().await {
            HubEvent::Sent(_, Ok(_)) => return Ok(()),
            HubEvent::Sent(_, Err(refusal)) => {
                return Err(format!(
                    "refused again: {}: {}",
                    refusal.reason, refusal.text
                ));
            }
            HubEvent::Gone(gone) => return Err(format!("{}: {}", gone.reason, gone.text)),
            // Nothing else was asked for.
            HubEvent::Command(_)
            | HubEvent::Method(_)
            | HubEvent::Twin(_)
            | HubEvent::Desired(_)
            | HubEvent::Taken(..) => {}
        }
    }
}

/// Whether the line arrived, or nobody reads on.
fn say(line: &str) -> bool {
    output::print_line(line) != Printed::Lost
}

fn complain(id: &str, problem: &str) -> bool {
    output::complain(format_args!("{id}: {problem}"));
    false
}
