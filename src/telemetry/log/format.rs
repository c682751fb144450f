//! Events → lines: logfmt, JSON, or what a person at a terminal reads.
//!
//! Whatever a peer or a library put into a field, a line stays one line that a parser of its
//! format reads, without control or direction-changing characters, of at most
//! [`LINE_BYTES_MAX`]. Each line of the gateway's own has its event's code ([`super::codes`]), which
//! stays when words change. Text is escaped as JSON does in every format, so a quoted value of a
//! logfmt line is a JSON string. Numbers and booleans stay what they are.

use super::{codes, is_hidden};
use crate::runtime::clock;
use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The longest line, bytes: fields that do not fit are left out, and `fields_cut` counts them.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// The longest value as it is written, bytes; then comes how long it was.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Kept free in a line for its last words.
const RESERVE: usize = 64;

/// Where records of the `log` crate arrive; their own target is a field.
const LOG_CRATE: &str = "log";

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `ts=… level=info target=… msg="…" key=value`.
    Logfmt,
    /// One object with the same keys.
    Json,
    /// Time of day, level, text, then `key=value`.
    Terminal {
        /// With colours.
        colours: bool,
    },
}

/// Hands each event as a line, its line break included, to `out`.
pub struct Lines<F> {
    /// The format of all lines.
    pub format: Format,
    /// Takes a line and how grave it is.
    pub out: F,
}

impl<S: Subscriber, F: Fn(Level, String) + 'static> Layer<S> for Lines<F> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut head = Head::default();
        event.record(&mut head);
        let mut line = Line::new(self.format, metadata, head);
        event.record(&mut line);
        (self.out)(*metadata.level(), line.end());
    }
}

/// What a line begins with.
#[derive(Default)]
struct Head {
    message: Text,
    target: Option<String>,
}

impl Visit for Head {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = Text::of(format_args!("{value:?}")),
            "log.target" => self.target = Some(format!("{value:?}")),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = Text::of(format_args!("{value}")),
            "log.target" => self.target = Some(value.to_owned()),
            _ => {}
        }
    }
}

/// A line in the making.
struct Line {
    format: Format,
    text: String,
    keys: Vec<&'static str>,
    from_log_crate: bool,
    cut: u64,
}

impl Line {
    fn new(format: Format, metadata: &Metadata<'_>, head: Head) -> Self {
        let mut line = Self {
            format,
            text: String::with_capacity(256),
            keys: Vec::new(),
            from_log_crate: metadata.target() == LOG_CRATE,
            cut: 0,
        };
        let target = head.target.as_deref().unwrap_or(metadata.target());
        let code = codes::of(metadata.name(), target, &head.message.escaped);
        line.begin(*metadata.level(), target, code, head.message);
        line
    }

    fn begin(&mut self, level: Level, target: &str, code: Option<&str>, mut message: Text) {
        if let Format::Terminal { colours } = self.format {
            let (code, name) = match level {
                Level::ERROR => ("31", "ERROR"),
                Level::WARN => ("33", "WARN "),
                Level::INFO => ("32", "INFO "),
                Level::DEBUG => ("34", "DEBUG"),
                Level::TRACE => ("35", "TRACE"),
            };
            let stamp = timestamp();
            let day = stamp.get(11..23).unwrap_or(&stamp);
            let _ = if colours {
                write!(self.text, "\x1b[2m{day}\x1b[0m \x1b[{code}m{name}\x1b[0m ")
            } else {
                write!(self.text, "{day} {name} ")
            };
            self.text.push_str(&message.shown());
            return;
        }
        let level = match level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        if self.format == Format::Json {
            self.text.push('{');
        }
        self.put("ts", &Text::of(format_args!("{}", timestamp())));
        self.put("level", &Text::of(format_args!("{level}")));
        self.put("target", &Text::of(format_args!("{target}")));
        if let Some(code) = code {
            self.put("event", &Text::of(format_args!("{code}")));
        }
        message.must_be_quoted = true;
        self.put("msg", &message);
    }

    fn end(mut self) -> String {
        if self.cut > 0 {
            let cut = self.cut;
            self.key("fields_cut");
            let _ = write!(self.text, "{cut}");
        }
        if self.format == Format::Json {
            self.text.push('}');
        }
        self.text.push('\n');
        self.text
    }

    /// Writes a field of text, if there is room for it.
    fn put(&mut self, key: &str, value: &Text) {
        if !self.has_room(key, value.escaped.len()) {
            return;
        }
        self.key(key);
        if self.format == Format::Json || value.must_be_quoted {
            self.text.push('"');
            self.text.push_str(&value.escaped);
            self.text.push('"');
        } else {
            self.text.push_str(&value.escaped);
        }
    }

    /// Writes a number or a boolean, if there is room for it.
    fn bare(&mut self, key: &str, value: &dyn fmt::Display) {
        let value = value.to_string();
        if self.has_room(key, value.len()) {
            self.key(key);
            self.text.push_str(&value);
        }
    }

    fn has_room(&mut self, key: &str, value: usize) -> bool {
        // A key is a name in some source; none is escaped to more than six times its length.
        let room = self.text.len() + 6 * key.len() + value + RESERVE <= LINE_BYTES_MAX;
        self.cut += u64::from(!room);
        room
    }

    fn key(&mut self, key: &str) {
        match self.format {
            Format::Json => {
                if self.text.len() > 1 {
                    self.text.push(',');
                }
                let key = Text::of(format_args!("{key}"));
                let _ = write!(self.text, "\"{}\":", key.escaped);
            }
            Format::Logfmt | Format::Terminal { .. } => {
                if !self.text.is_empty() {
                    self.text.push(' ');
                }
                let key = logfmt_key(key);
                let _ = match self.format {
                    Format::Terminal { colours: true } => {
                        write!(self.text, "\x1b[2m{key}=\x1b[0m")
                    }
                    _ => write!(self.text, "{key}="),
                };
            }
        }
    }

    /// The key of a field; nothing for one that was written already or is none.
    fn key_of(&mut self, field: &Field) -> Option<Cow<'static, str>> {
        let name = field.name();
        let bridged = self.from_log_crate && name.starts_with("log.");
        if name == "message" || bridged || self.keys.contains(&name) {
            return None;
        }
        self.keys.push(name);
        let name = name.strip_prefix("r#").unwrap_or(name);
        Some(match name {
            "ts" | "level" | "target" | "event" | "msg" | "fields_cut" => format!("{name}_").into(),
            _ => name.into(),
        })
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(key) = self.key_of(field) {
            self.put(&key, &Text::of(format_args!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(key) = self.key_of(field) {
            self.put(&key, &Text::of(format_args!("{value}")));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if let Some(key) = self.key_of(field) {
            self.put(&key, &Text::of(format_args!("{value}")));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, &value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.number(field, &value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.number(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.number(field, &value);
        } else {
            self.record_str(field, &value.to_string());
        }
    }
}

impl Line {
    fn number(&mut self, field: &Field, value: &dyn fmt::Display) {
        if let Some(key) = self.key_of(field) {
            self.bare(&key, value);
        }
    }
}

/// A text as it stands between quotes, cut at [`VALUE_BYTES_MAX`].
#[derive(Default)]
struct Text {
    escaped: String,
    /// Whether a logfmt parser would misread it without quotes.
    must_be_quoted: bool,
    bytes: usize,
    full: bool,
}

impl Text {
    fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self::default();
        // An error here is the value's own; what it wrote until then is shown.
        let _ = text.write_fmt(arguments);
        if text.full {
            let bytes = text.bytes;
            let _ = write!(text.escaped, "… ({bytes} bytes)");
            text.must_be_quoted = true;
        }
        // Quotes tell the text 12 from the number.
        text.must_be_quoted |= text.escaped.is_empty()
            || matches!(&*text.escaped, "true" | "false")
            || text.escaped.parse::<f64>().is_ok();
        text
    }

    /// For people: hidden characters visible, quotes and backslashes as they are.
    fn shown(&self) -> Cow<'_, str> {
        if self.escaped.contains('\\') {
            let plain = self.escaped.replace("\\\"", "\"").replace("\\\\", "\\");
            plain.into()
        } else {
            (&*self.escaped).into()
        }
    }

    fn push(&mut self, c: char) {
        match c {
            '"' | '\\' => {
                self.must_be_quoted = true;
                self.escaped.push('\\');
                self.escaped.push(c);
            }
            '\n' => self.escape("\\n"),
            '\r' => self.escape("\\r"),
            '\t' => self.escape("\\t"),
            _ if is_hidden(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(self.escaped, "\\u{unit:04x}");
                }
                self.must_be_quoted = true;
            }
            _ => {
                self.must_be_quoted |= c == '=' || c.is_whitespace();
                self.escaped.push(c);
            }
        }
    }

    fn escape(&mut self, escape: &str) {
        self.must_be_quoted = true;
        self.escaped.push_str(escape);
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes += text.len();
        for c in text.chars() {
            // The longest escape is twelve bytes.
            self.full |= self.escaped.len() + 12 > VALUE_BYTES_MAX;
            if self.full {
                break;
            }
            self.push(c);
        }
        Ok(())
    }
}

/// A key without what ends a key.
fn logfmt_key(key: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_whitespace() || c == '=' || c == '"' || is_hidden(c);
    if key.is_empty() {
        "_".into()
    } else if key.contains(bad) {
        key.replace(bad, "_").into()
    } else {
        key.into()
    }
}

/// A line about the log itself, with one number.
pub fn notice(format: Format, message: &str, key: &'static str, value: u64) -> String {
    let mut line = Line {
        format,
        text: String::new(),
        keys: Vec::new(),
        from_log_crate: false,
        cut: 0,
    };
    let target = "iothub_gateway::telemetry::log";
    let message = Text::of(format_args!("{message}"));
    line.begin(Level::WARN, target, Some("log_lines_dropped"), message);
    line.bare(key, &value);
    line.end()
}

/// Now, as RFC 3339 in UTC with microseconds.
fn timestamp() -> String {
    let now = clock::unix().since(clock::Unix::default());
    let at = OffsetDateTime::UNIX_EPOCH.saturating_add(now.try_into().unwrap_or_default());
    let (hour, minute, second, micro) = at.to_hms_micro();
    format!(
        "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
    )
}
