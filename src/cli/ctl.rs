//! `ctl`: asks a running gateway and gives it orders, over the API of its admin port.

mod ask;
mod show;
mod table;
mod wire;

use super::exit::Exit;
use super::output::{self, Printed};
use super::progress::Progress;
use crate::admin::api::view::{Device, Events, Hub, Level, Log, Page};
use crate::config::AdminUrl;
use crate::telemetry::causes::Cause;
use ask::{Ask, Failure};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How often a watched device is asked about.
const LOOK: Duration = Duration::from_millis(300);
/// Connections asked for at once.
const PAGE: usize = 500;

/// Arguments of `ctl`.
#[derive(clap::Args)]
pub struct Args {
    /// Admin port of the gateway; https://HOST:PORT on another machine
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:9464",
        value_name = "ADDRESS",
        value_parser = AdminUrl::parse
    )]
    admin: AdminUrl,
    /// CA of the gateway's admin.tls.cert, beside those the system trusts
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the token: admin.read_token, or admin.operate_token for orders
    ///
    /// Without it the environment's IOTHUB_GATEWAY_TOKEN is used, if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print what the API answers
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    order: Order,
}

#[derive(clap::Subcommand)]
enum Order {
    /// List live connections
    Devices(Filter),
    /// Show one device
    Device { id: String },
    /// Say why a device, a name or an address was refused or lost, and what to do
    Explain { id: String },
    /// Show what a device does, until Ctrl-C: packets by kind and size, outcomes, no payload
    Watch {
        id: String,
        /// End after so many events
        #[arg(long, value_name = "N")]
        count: Option<usize>,
    },
    /// List the latest refusals and losses of everybody
    Causes,
    /// Show the upstream: token, connections, what the hub refuses
    Hub,
    /// Show the token: how long it lives and what signs it
    Token,
    /// End a device's connection
    Kick { id: String },
    /// Keep a device out for a time and end its connection
    Block {
        id: String,
        /// For how long: 90s, 10m, 12h, 30d
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = time)]
        time: Duration,
    },
    /// Let a device in again
    Unblock { id: String },
    /// Show what is logged, or log from a level on until a reload or a start says otherwise
    Log { level: Option<Level> },
    /// Read rules, keys, certificates, listeners and limits again
    Reload,
    /// Begin an orderly stop
    Drain {
        /// Return when the gateway has ended
        #[arg(long)]
        wait: bool,
    },
}

/// Which connections.
#[derive(clap::Args)]
struct Filter {
    /// Beginning of the device's name
    #[arg(value_name = "PREFIX")]
    device: Option<String>,
    /// psk, x509, sas or password
    #[arg(long)]
    credential: Option<String>,
    /// Listener's name
    #[arg(long)]
    listener: Option<String>,
    /// Peer's address
    #[arg(long)]
    source: Option<String>,
}

fn time(text: &str) -> Result<Duration, String> {
    crate::config::values::duration(text)
}

/// Runs the order; 1 when the gateway says no, 69 when it does not answer, 77 when it may not be
/// ordered.
pub fn run(args: &Args) -> ExitCode {
    if args.ca.is_some() && !args.admin.tls {
        let fix = format_args!("write --admin https://{}", args.admin);
        output::complain(format_args!("ctl: --ca is for TLS; {fix}"));
        return Exit::Usage.into();
    }
    let (admin, ca) = (args.admin.clone(), args.ca.clone());
    let ask = match Ask::new(admin, ca, args.token_file.as_deref()) {
        Ok(ask) => ask,
        Err(problem) => {
            output::complain(format_args!("ctl: {problem}"));
            let file = args.token_file.as_deref();
            return file.map_or(Exit::Usage, Exit::of_input).into();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(obey(args, &ask)),
        Err(error) => Err(Failure::new(
            format!("cannot start: {error}"),
            Exit::Internal,
        )),
    };
    match done {
        Ok(text) => output::print(&text).or_lost(Exit::Done),
        Err(failure) => {
            output::complain(format_args!("ctl: {failure}"));
            failure.exit.into()
        }
    }
}

async fn obey(args: &Args, ask: &Ask) -> Result<String, Failure> {
    let device = |id: &str, tail: &str| format!("devices/{}{tail}", ask::encoded(id));
    match &args.order {
        Order::Devices(filter) => devices(args, ask, filter).await,
        Order::Device { id } => {
            let text = ask.get(&device(id, "")).await?;
            shown::<Device>(args, text, show::device)
        }
        Order::Explain { id } => {
            let text = ask.get(&device(id, "/causes")).await?;
            let away = match args.json {
                true => String::new(),
                false => shown::<Hub>(args, ask.get("hub").await?, show::away)?,
            };
            shown::<Vec<Cause>>(args, text, |causes| away + &show::causes(id, causes))
        }
        Order::Watch { id, count } => watch(args, ask, &device(id, "/events"), *count).await,
        Order::Causes => {
            let text = ask.get("causes").await?;
            shown::<Vec<Cause>>(args, text, |causes| {
                show::latest(causes, table::terminal_width())
            })
        }
        Order::Hub => shown::<Hub>(args, ask.get("hub").await?, show::hub),
        Order::Token => shown::<Hub>(args, ask.get("hub").await?, show::token),
        Order::Kick { id } => {
            ask.order("DELETE", &device(id, "/connection"), "").await?;
            Ok(format!("{id}: told to end\n"))
        }
        Order::Block { id, time } => {
            let body = serde_json::json!({ "seconds": time.as_secs() }).to_string();
            ask.order("PUT", &device(id, "/block"), &body).await?;
            Ok(format!("{id}: kept out for {} s\n", time.as_secs()))
        }
        Order::Unblock { id } => {
            ask.order("DELETE", &device(id, "/block"), "").await?;
            Ok(format!("{id}: let in again\n"))
        }
        Order::Log { level: None } => {
            let text = ask.get("log").await?;
            shown::<Log>(args, text, |log| format!("{}\n", log.filter))
        }
        Order::Log { level: Some(level) } => {
            let body = serde_json::json!({ "level": level.word() }).to_string();
            ask.order("PUT", "log", &body).await?;
            Ok(format!("logging from {} on\n", level.word()))
        }
        Order::Reload => {
            ask.order("POST", "reload", "").await?;
            Ok("reload begun; the log tells its end\n".to_owned())
        }
        Order::Drain { wait } => {
            ask.order("POST", "drain", "").await?;
            if *wait {
                return Ok(ended(ask).await);
            }
            Ok("stop begun; /ready tells the phase\n".to_owned())
        }
    }
}

/// Waits until the admin port, which closes last, is gone.
async fn ended(ask: &Ask) -> String {
    let mut progress = Progress::new();
    while let Ok(text) = ask.get("connections?limit=1").await {
        let page: Page = serde_json::from_str(&text).unwrap_or_default();
        progress.show(|| format!("{} devices connected", page.total));
        tokio::time::sleep(LOOK).await;
    }
    "stopped\n".to_owned()
}

/// Asks again and again what a device did.
async fn watch(
    args: &Args,
    ask: &Ask,
    path: &str,
    count: Option<usize>,
) -> Result<String, Failure> {
    let (mut after, mut left) = (0, count.unwrap_or(usize::MAX));
    loop {
        let text = ask.get(&format!("{path}?after={after}")).await?;
        let seen: Events = serde_json::from_str(&text).map_err(|error| odd(&error))?;
        let mut expected = after;
        for event in seen.events.iter().take(left) {
            if event.seq > expected && after > 0 {
                output::complain(format_args!(
                    "({} events were too fast to be kept)",
                    event.seq - expected
                ));
            }
            expected = event.seq + 1;
            let line = match args.json {
                true => serde_json::to_string(event).unwrap_or_default(),
                false => show::event(event),
            };
            match output::print_line(line) {
                Printed::All => {}
                Printed::Closed => return Ok(String::new()),
                Printed::Lost => return Err(Failure::new("the watch has ended", Exit::Io)),
            }
        }
        left -= seen.events.len().min(left);
        if left == 0 {
            return Ok(String::new());
        }
        after = seen.next;
        tokio::time::sleep(LOOK).await;
    }
}

fn odd(error: &serde_json::Error) -> Failure {
    Failure::new(
        format!(
            "the answer is not what is expected: {error}; {}",
            ask::IS_IT
        ),
        Exit::Unavailable,
    )
}

/// The API's answer for people, or as it is.
fn shown<T: serde::de::DeserializeOwned>(
    args: &Args,
    text: String,
    show: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    if args.json {
        return Ok(text + "\n");
    }
    let value = serde_json::from_str(&text);
    value.map(|value| show(&value)).map_err(|error| odd(&error))
}

/// Every page of the connections asked for.
async fn devices(args: &Args, ask: &Ask, filter: &Filter) -> Result<String, Failure> {
    let mut query = format!("connections?limit={PAGE}");
    let given = [
        ("device", &filter.device),
        ("credential", &filter.credential),
        ("listener", &filter.listener),
        ("source", &filter.source),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            query.push_str(&format!("&{key}={}", ask::encoded(value)));
        }
    }
    let mut all = Page::default();
    loop {
        let after = all
            .next
            .take()
            .map(|after| format!("&after={}", ask::encoded(&after)));
        let text = ask
            .get(&(query.clone() + &after.unwrap_or_default()))
            .await?;
        let page: Page = serde_json::from_str(&text).map_err(|error| odd(&error))?;
        all.total = page.total;
        all.connections.extend(page.connections);
        all.next = page.next;
        if all.next.is_none() {
            break;
        }
    }
    match args.json {
        true => Ok(serde_json::to_string(&all).unwrap_or_default() + "\n"),
        false => Ok(show::devices(&all)),
    }
}
