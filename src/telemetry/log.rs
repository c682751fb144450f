//! Structured logs: set up once, one line per event, written by a thread of its own.
//!
//! logfmt or JSON on standard error ([`format`]), through a bounded queue that never makes
//! anybody wait ([`queue`]); a terminal gets what people read, systemd's journal the priority of
//! each line. Identifiers from peers are capped by [`capped`].

mod bound;
pub mod codes;
pub mod format;
mod journal;
mod queue;

use crate::config::LogConfig;
use crate::runtime::clock;
pub use bound::Bound;
pub use format::VALUE_BYTES_MAX;
use format::{Format, Lines};
pub use queue::QUEUE_BYTES_MAX;
use queue::Queue;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// Target of lines about devices that come and go.
pub const CONNECT: &str = "iothub_gateway::connect";

/// Target of lines about what is refused to a device.
pub const REFUSAL: &str = "iothub_gateway::refusal";

/// Time the last lines get when the process ends or a thread panics.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Lines about panics; `panics_total` counts those of connections.
static PANICS: Bound = Bound::new(20, Duration::from_secs(10));

/// The queue of the process, once there is one.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// What is logged, and the text that says so.
struct Filter {
    handle: reload::Handle<Targets, Registry>,
    text: Mutex<String>,
}

/// The filter of the process, once there is one.
static FILTER: OnceLock<Filter> = OnceLock::new();

/// The longest text from a peer shown in a log line or a problem, characters.
pub const CAPPED_CHARS_MAX: usize = 200;

/// Libraries whose chatter hides the gateway's own lines; at most `warn` under a plain level.
const NOISY: &[&str] = &[
    "fe2o3_amqp",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "rustls",
    "serde_amqp",
    "tokio",
    "tokio_util",
];

/// Tells of every write in a watched folder. Where the log is a file in that folder, each of its
/// lines would be the cause of the next one.
const WATCHER: &str = "notify";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log.filter: {0}")]
    Filter(String),
    /// No thread to write with, or no standard error.
    #[error("the log cannot be written: {0}")]
    Thread(io::Error),
    /// Another subscriber is in place.
    #[error("logging was set up twice in one process")]
    Twice,
}

/// Sets the process's logging up. Friendly when standard error is a terminal and the format is
/// text, in colours unless `NO_COLOR` is set. A panic is logged like anything else.
///
/// # Errors
/// When the filter does not parse, or logging is set up already.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = parse_filter(&config.filter).map_err(LogError::Filter)?;
    let terminal = io::stderr().is_terminal();
    let format = match (config.json, terminal) {
        (true, _) => Format::Json,
        (false, false) => Format::Logfmt,
        (false, true) => Format::Terminal {
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        },
    };
    // Not through `io::stderr`, whose lock a writer that waits for a reader would hold.
    let out = io::stderr().as_fd().try_clone_to_owned();
    let journal = journal::is_standard_error();
    let prefix = move |level: Level| if journal { journal::prefix(level) } else { "" };
    let notice = move |lines| {
        let message = "log lines were dropped: whoever reads the log is slower than it is written";
        prefix(Level::WARN).to_owned() + &format::notice(format, message, "lines", lines)
    };
    let queue = out.and_then(|out| Queue::start(File::from(out), notice));
    let queue = queue.map_err(LogError::Thread)?;
    let lines = Lines {
        format,
        out: {
            let queue = queue.clone();
            move |level, line| match prefix(level) {
                "" => queue.push(level, line),
                prefix => queue.push(level, prefix.to_owned() + &line),
            }
        },
    };
    let (filter, handle) = reload::Layer::new(filter);
    let registry = Registry::default().with(filter).with(lines);
    registry.try_init().map_err(|_| LogError::Twice)?;
    let _ = QUEUE.set(queue);
    let text = Mutex::new(config.filter.clone());
    let _ = FILTER.set(Filter { handle, text });
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Logs by another filter from here on; whether it is another one. One that does not parse changes
/// nothing, and neither does one where logging was not set up here.
pub fn set_filter(text: &str) -> bool {
    let (Some(filter), Ok(targets)) = (FILTER.get(), parse_filter(text)) else {
        return false;
    };
    let mut known = filter.text.lock().unwrap_or_else(PoisonError::into_inner);
    if *known == text || filter.handle.reload(targets).is_err() {
        return false;
    }
    text.clone_into(&mut known);
    true
}

/// The filter in force; empty where logging was not set up here.
#[must_use]
pub fn filter() -> String {
    let text = FILTER.get().map(|filter| {
        let text = filter.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    });
    text.unwrap_or_default()
}

/// Waits a moment for lines that are not written yet; before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_WORDS);
    }
}

/// Lines dropped since the start because nobody read them.
#[must_use]
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, Queue::dropped)
}

/// Bytes of lines that wait to be written, and how many may.
#[must_use]
pub fn queued() -> (usize, usize) {
    (QUEUE.get().map_or(0, Queue::bytes), QUEUE_BYTES_MAX)
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let Some(suppressed) = PANICS.take(clock::mono()) else {
        return;
    };
    let suppressed = Some(suppressed).filter(|lines| *lines > 0);
    let payload = panic.payload_as_str().unwrap_or("no text");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    match panic.location() {
        Some(at) => tracing::error!(
            name: "panic",
            thread, %at, suppressed,
            "panic, report this as a defect: {payload}"
        ),
        None => tracing::error!(
            name: "panic",
            thread, suppressed,
            "panic, report this as a defect: {payload}"
        ),
    }
}

/// Parses a filter: levels by target, as in `tracing`. A plain level (`info`) keeps libraries at
/// `warn`; targets no directive names are at `error`.
///
/// # Errors
/// A sentence that says how a filter is written.
pub fn parse_filter(text: &str) -> Result<Targets, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty; write a level, as in \"info\"".to_owned());
    }
    let mut directives = text.to_owned();
    let (plain, quiet) = match text.to_ascii_lowercase().as_str() {
        "info" | "debug" | "trace" => (true, false),
        "off" | "error" | "warn" => (true, true),
        word if word.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            return Err("the level must be error, warn, info, debug, trace or off".to_owned());
        }
        _ => (false, false),
    };
    if plain && !quiet {
        for library in NOISY {
            let _ = write!(directives, ",{library}=warn");
        }
    }
    if !quiet && !text.contains(WATCHER) {
        let _ = write!(directives, ",{WATCHER}=warn");
    }
    // What comes later overrides what came before.
    format!("error,{directives}").parse().map_err(|_| {
        "is no filter; write a level (\"info\") or directives \
         (\"info,iothub_gateway::hub=debug\")"
            .to_owned()
    })
}

/// Text from a peer, safe to show: control and direction-changing characters as `\u{…}`, at most
/// [`CAPPED_CHARS_MAX`] characters and then the length that was cut.
#[must_use]
pub fn capped(text: &str) -> String {
    Capped(text).to_string()
}

/// A field that is left out of the line where there is nothing to say.
#[must_use]
pub fn told(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// As [`capped`], however long it is; for a terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    out
}

/// [`capped`] without the allocation, for `%Capped(text)` in log macros.
#[derive(Clone, Copy)]
pub struct Capped<'a>(pub &'a str);

impl fmt::Display for Capped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = CAPPED_CHARS_MAX;
        for c in self.0.chars() {
            let width = if is_hidden(c) { escaped_len(c) } else { 1 };
            if width > left {
                return write!(f, "… ({} bytes)", self.0.len());
            }
            left -= width;
            if is_hidden(c) {
                write!(f, "\\u{{{:x}}}", u32::from(c))?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Capped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Characters of `\u{…}`.
const fn escaped_len(c: char) -> usize {
    let digits = (u32::BITS - (c as u32).leading_zeros()).div_ceil(4) as usize;
    4 + if digits == 0 { 1 } else { digits }
}

/// Characters that move the cursor, break the line, change the direction of text or cannot be
/// seen: controls (C0, DEL, C1), line separators, bidi controls, zero-width marks, tags.
const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests;
