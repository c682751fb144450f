//! A hub on a foreign AMQP stack: a process that is told what to do and tells what it saw.
//!
//! Orders go to its standard input, events come from its standard output, one JSON object a line.
//! Every order has a number, `order`, and is answered by `done` when it is carried out:
//!
//! | `do` | with | does |
//! |---|---|---|
//! | `limits` | `max_frame`, `channel_max`, `handle_max` (rhea), `idle_ms`, `credit` | announces them, from the next connection on |
//! | `token` | `statuses` | answers the next put-tokens so instead of 200 |
//! | `answer` | `device`, `outcomes`: `{state, condition, description, failed}` | settles the device's next messages so instead of `accepted`; `none` leaves it undecided |
//! | `command` | `device`, `id`, `body` (base64), `application`, `unreadable` | queues a command |
//! | `nothing` | – | nothing: what the hub saw before is told before its `done` |
//! | `close` | `what`: link, session or connection; `link`, `device`, `condition`, `description`, `closed` | ends what carries that link of the device |
//!
//! Events: `listening`, `open`, `begin`, `attach`, `refused`, `detach`, `end`, `close`, `gone`,
//! `token`, `message`, `sent`, `outcome`, `done`, and `fault`: the peer did what a strict hub does
//! not take. A test that finishes asserts that there was none.

use crate::support::{HUB, POLICY_KEY};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longest wait for one event.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Events that wait to be read.
const EVENTS: usize = 10_000;

/// Which stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    Proton,
    Rhea,
}

impl Stack {
    fn command(self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = root.join("tests/foreign");
        match self {
            // Debian's package, which is for Debian's interpreter.
            Self::Proton => {
                let mut command = Command::new("/usr/bin/python3");
                command.arg("-B").arg(sources.join("hub_proton.py"));
                command
            }
            Self::Rhea => {
                let mut command = Command::new("node");
                let modules = root.join("target/interop/node/node_modules");
                command.arg(sources.join("hub_rhea.js"));
                command.env("NODE_PATH", modules);
                command
            }
        }
    }
}

/// A running hub. It ends when dropped; a test that panics shows what it printed.
pub struct ForeignHub {
    stack: Stack,
    process: Child,
    orders: ChildStdin,
    events: mpsc::Receiver<Value>,
    /// Events that came, and whether a test took them.
    seen: Vec<(Value, bool)>,
    order: u64,
    errors: PathBuf,
    port: u16,
}

impl ForeignHub {
    /// Starts a hub that shows the folder's server certificate.
    pub async fn start(stack: Stack, dir: &Path) -> Self {
        let settings = json!({
            "cert": dir.join("server.pem"),
            "key": dir.join("server.key"),
            "host": HUB,
            "policy_key": BASE64.encode(POLICY_KEY),
        });
        let errors = dir.join("hub.stderr");
        let mut process = stack
            .command()
            .arg(settings.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file"))
            .spawn()
            .expect("the hub starts; tests/run installs what it needs");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, events) = mpsc::channel(EVENTS);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.blocking_send(event).is_err() {
                    return;
                }
            }
        });
        let mut hub = Self {
            stack,
            orders: process.stdin.take().expect("piped"),
            process,
            events,
            seen: Vec::new(),
            order: 0,
            errors,
            port: 0,
        };
        let listening = hub.take("listening", |_| true).await;
        hub.port = u16::try_from(listening["port"].as_u64().expect("a port")).expect("a port");
        hub
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Gives an order and waits until it is carried out.
    pub async fn order(&mut self, what: &str, with: Value) {
        let mut order = with;
        self.order += 1;
        order["do"] = what.into();
        order["order"] = self.order.into();
        writeln!(self.orders, "{order}").expect("the hub reads its orders");
        let number = self.order;
        self.take("done", |done| done["order"] == number).await;
    }

    /// The oldest such event that was not taken yet; waited for.
    pub async fn take(&mut self, kind: &str, such: impl Fn(&Value) -> bool) -> Value {
        match self.take_within(kind, PATIENCE, such).await {
            Some(event) => event,
            None => panic!("no such {kind}"),
        }
    }

    /// As [`Self::take`]; `None` when there is none in this time.
    pub async fn take_within(
        &mut self,
        kind: &str,
        within: Duration,
        such: impl Fn(&Value) -> bool,
    ) -> Option<Value> {
        let fits = |event: &Value| event["event"] == kind && such(event);
        let mut waiting = self.seen.iter_mut();
        if let Some((event, taken)) = waiting.find(|(event, taken)| !taken && fits(event)) {
            *taken = true;
            return Some(event.clone());
        }
        let wait = timeout(within, async {
            while let Some(event) = self.events.recv().await {
                let fits = fits(&event);
                self.seen.push((event.clone(), fits));
                if fits {
                    return Some(event);
                }
            }
            None // the hub ended
        });
        wait.await.ok().flatten()
    }

    /// Every event of this kind so far, taken or not.
    pub async fn all(&mut self, kind: &str) -> Vec<Value> {
        self.order("nothing", json!({})).await; // what is done by now was told before
        let of_kind = self.seen.iter().filter(|(event, _)| event["event"] == kind);
        of_kind.map(|(event, _)| event.clone()).collect()
    }

    /// Asserts that the peer did nothing a strict hub does not take.
    pub async fn no_fault(&mut self) {
        let faults = self.all("fault").await;
        assert!(faults.is_empty(), "{faults:#?}");
    }

    /// The events, without what is long.
    fn shown(&mut self) -> String {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push((event, false));
        }
        let mut lines = vec![format!("the hub on {:?} saw:", self.stack)];
        for (event, _) in &self.seen {
            let mut event = event.clone();
            if let Some(fields) = event.as_object_mut() {
                fields.remove("raw");
                fields.remove("body");
            }
            lines.push(event.to_string());
        }
        lines.join("\n")
    }
}

impl Drop for ForeignHub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let printed = std::fs::read_to_string(&self.errors).unwrap_or_default();
            eprintln!("{}\nits standard error:\n{printed}", self.shown());
        }
    }
}

/// The bytes of a field in base64.
pub fn bytes(field: &Value) -> Vec<u8> {
    let text = field.as_str().expect("base64");
    BASE64.decode(text).expect("base64")
}

/// A field of bytes.
pub fn encoded(bytes: &[u8]) -> Value {
    BASE64.encode(bytes).into()
}
