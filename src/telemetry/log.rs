//! Structured logs: set up once, one printable line per event.
//!
//! Text or JSON on standard error. Whatever a peer or a library put into a field, a line stays a
//! line and shows no control or direction-changing character: the writer replaces them, so that
//! no call site can forget to. Identifiers from peers are capped by [`capped`].

use crate::config::LogConfig;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The longest text from a peer shown in a log line or a problem, characters.
pub const CAPPED_CHARS_MAX: usize = 200;

/// The longest line of a text log, bytes; JSON lines are not cut, or they would not parse.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

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

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log.filter: {0}")]
    Filter(String),
    /// Another subscriber is in place.
    #[error("logging was set up twice in one process")]
    Twice,
}

/// Sets the process's logging up. Colours only when standard error is a terminal and `NO_COLOR`
/// is not set.
///
/// # Errors
/// When the filter does not parse, or logging is set up already.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = parse_filter(&config.filter).map_err(LogError::Filter)?;
    let ansi = !config.json && io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let writer = move || Printable::new(io::stderr(), ansi, LINE_BYTES_MAX);
    let registry = tracing_subscriber::registry().with(filter);
    let done = if config.json {
        let writer = || Printable::new(io::stderr(), false, usize::MAX);
        registry.with(json_layer(writer)).try_init()
    } else {
        registry.with(text_layer(writer, ansi)).try_init()
    };
    done.map_err(|_| LogError::Twice)
}

fn text_layer<S, W>(writer: W, ansi: bool) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(ansi)
        .with_writer(writer)
}

fn json_layer<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_writer(writer)
}

/// Parses a filter in `tracing` syntax. A plain level (`info`) keeps libraries at `warn`.
///
/// # Errors
/// A sentence that says how a filter is written.
pub fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty; write a level, as in \"info\"".to_owned());
    }
    let mut directives = text.to_owned();
    let noisy_at_most_warn = match text.to_ascii_lowercase().as_str() {
        "info" | "debug" | "trace" => true,
        "off" | "error" | "warn" => false,
        word if word.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            return Err("the level must be error, warn, info, debug, trace or off".to_owned());
        }
        _ => false,
    };
    if noisy_at_most_warn {
        for library in NOISY {
            let _ = write!(directives, ",{library}=warn");
        }
    }
    EnvFilter::builder().parse(directives).map_err(|_| {
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

/// Writes one event as one printable line. The formatter hands a whole event to one `write`.
struct Printable<W: Write> {
    inner: W,
    colours: bool,
    bytes_max: usize,
}

impl<W: Write> Printable<W> {
    const fn new(inner: W, colours: bool, bytes_max: usize) -> Self {
        Self {
            inner,
            colours,
            bytes_max,
        }
    }

    fn line(&self, event: &str) -> String {
        let event = event.strip_suffix('\n').unwrap_or(event);
        let mut line = String::with_capacity(event.len() + 1);
        let mut rest = event;
        while let Some(c) = rest.chars().next() {
            if line.len() >= self.bytes_max {
                let _ = write!(line, "… ({} bytes)", event.len());
                break;
            }
            let colour = if self.colours { colour_len(rest) } else { 0 };
            if colour > 0 {
                line.push_str(&rest[..colour]);
                rest = &rest[colour..];
                continue;
            }
            if is_hidden(c) {
                // The form JSON reads back; the same in text, so that both can be searched.
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            } else {
                line.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
        line.push('\n');
        line
    }
}

/// Bytes of the colour sequence (`ESC [ digits ; … m`) `text` starts with, or 0. Colours are the
/// formatter's own; every other escape sequence is somebody else's and is made visible.
fn colour_len(text: &str) -> usize {
    let Some(body) = text.strip_prefix("\x1b[") else {
        return 0;
    };
    match body.find(|c: char| !(c.is_ascii_digit() || c == ';')) {
        Some(end) if end <= 16 && body[end..].starts_with('m') => 2 + end + 1,
        _ => 0,
    }
}

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = self.line(&String::from_utf8_lossy(event));
        self.inner.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
