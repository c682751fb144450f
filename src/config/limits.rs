//! Every bound of the process, in one table: name, default, range, unit, and the memory it
//! multiplies.
//!
//! The table makes the struct, its defaults, what the file parser takes, what `check` prints and
//! what `config/gateway.toml` says (a test holds the file against [`reference`]). The sum of the
//! table is [`Limits::worst_case_bytes`]: a figure the process never exceeds.

mod memory;

pub use memory::{MemoryRow, WorstCase};

use crate::config::OnDisconnect;
use std::fmt;
use std::time::Duration;

/// A value of the table, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Bound {
    /// A number of things.
    Count(u64),
    /// Bytes.
    Bytes(u64),
    /// A time.
    Time(Duration),
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// The key in `[limits]`.
    pub key: &'static str,
    /// What it bounds.
    pub about: &'static str,
    /// The value when the file says nothing.
    pub default: Bound,
    /// The smallest value taken.
    pub min: Bound,
    /// The largest value taken.
    pub max: Bound,
    /// Worst-case memory, and why one would change it.
    pub cost: &'static str,
    /// Reads the bound.
    pub get: fn(&Limits) -> Bound,
    /// Writes the bound; a value of another unit changes nothing.
    pub set: fn(&mut Limits, Bound),
}

macro_rules! limit_type {
    (count) => {
        usize
    };
    (bytes) => {
        usize
    };
    (time) => {
        Duration
    };
}

macro_rules! bound {
    (count, $value:expr) => {
        Bound::Count($value as u64)
    };
    (bytes, $value:expr) => {
        Bound::Bytes($value as u64)
    };
    (time, $value:expr) => {
        Bound::Time($value)
    };
}

macro_rules! assign {
    (count, $place:expr, $bound:expr) => {
        if let Bound::Count(value) = $bound {
            $place = usize::try_from(value).unwrap_or(usize::MAX);
        }
    };
    (bytes, $place:expr, $bound:expr) => {
        if let Bound::Bytes(value) = $bound {
            $place = usize::try_from(value).unwrap_or(usize::MAX);
        }
    };
    (time, $place:expr, $bound:expr) => {
        if let Bound::Time(value) = $bound {
            $place = value;
        }
    };
}

macro_rules! limits {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $kind:ident = $default:expr, $min:expr => $max:expr, $cost:literal;
    )+) => {
        /// `[limits]`. Memory cost is worst case, per unit of the bound.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $( $(#[doc = $doc])+ pub $name: limit_type!($kind), )+
            /// What becomes of unacknowledged commands when their device leaves.
            pub commands_on_disconnect: OnDisconnect,
        }

        impl Default for Limits {
            fn default() -> Self {
                Self {
                    $( $name: $default, )+
                    commands_on_disconnect: OnDisconnect::Release,
                }
            }
        }

        /// The table.
        pub const ROWS: &[Row] = &[$( Row {
            key: stringify!($name),
            about: concat!($($doc),+),
            default: bound!($kind, $default),
            min: bound!($kind, $min),
            max: bound!($kind, $max),
            cost: $cost,
            get: |limits| bound!($kind, limits.$name),
            set: |limits, bound| assign!($kind, limits.$name, bound),
        }, )+];
    };
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const fn secs(value: u64) -> Duration {
    Duration::from_secs(value)
}

limits! {
    /// Device connections, all listeners together.
    connections: count = 15_000, 1 => 1_000_000,
        "32KiB idle, and all the bounds below, each; a refused device sees its socket closed";
    /// Connections from one source address.
    connections_per_source: count = 15_000, 1 => 1_000_000,
        "none; lower it where no load balancer or NAT hides the devices' addresses";
    /// Connections that have not finished TLS and CONNECT.
    handshakes: count = 1_000, 1 => 100_000,
        "64KiB each; bounds the processor time strangers can claim";
    /// The same, from one source address.
    handshakes_per_source: count = 500, 1 => 100_000,
        "none; keeps room for honest devices while one address floods";
    /// Time for a whole ClientHello.
    hello_timeout: time = secs(5), ms(100) => secs(60),
        "none; raise it for links of minutes of latency";
    /// Time for TLS.
    tls_timeout: time = secs(10), ms(100) => secs(120),
        "none; raise it for slow radios or slow device processors";
    /// Time from the end of TLS to a whole CONNECT.
    connect_timeout: time = secs(5), ms(100) => secs(120),
        "none; a trickling sender cannot extend it";
    /// Time a socket may refuse to take bytes before the device is closed.
    write_timeout: time = secs(30), ms(100) => secs(600),
        "none; how long a dead reader keeps its commands from the hub";
    /// Time for a packet once its first byte was read.
    packet_timeout: time = secs(30), ms(100) => secs(600),
        "none; raise it for packet_bytes over very slow links";
    /// Largest keep-alive granted, also used for keep-alive 0 (IoT Hub: 1177 s).
    keep_alive_max: time = secs(1177), secs(1) => secs(65_535),
        "none; a dead device is seen after 1.5 times this";
    /// Keep-alive beyond which a connection is shown in long_keep_alive_connections: load balancers
    /// cut what is silent for longer, 4 minutes is common.
    keep_alive_advised: time = secs(240), secs(1) => secs(65_535),
        "none; it refuses nobody";
    /// Largest packet before CONNECT is answered, bytes.
    connect_bytes: bytes = 4 * KIB, 512 => 64 * KIB,
        "within the handshake's 64KiB; raise it for long tokens or Wills";
    /// Largest packet after it, bytes.
    packet_bytes: bytes = 256 * KIB + 4 * KIB, KIB => 512 * KIB,
        "itself per connection; the hub takes messages of 256KiB, lower it when yours are small";
    /// Largest frame of a WebSocket, bytes.
    websocket_frame_bytes: bytes = MIB, KIB => 64 * MIB,
        "none, a frame is never collected; raise it for devices that put many packets into one";
    /// Uplink messages of a device the hub has not decided about.
    uplink_messages: count = 32, 1 => 1_000,
        "within uplink_bytes; at this number the socket is not read";
    /// Their bytes.
    uplink_bytes: bytes = 512 * KIB, 4 * KIB => 64 * MIB,
        "itself per connection; at least packet_bytes";
    /// Commands sent to a device and not acknowledged; the AMQP credit.
    downlink_messages: count = 8, 1 => 50,
        "64KiB each per connection; the hub queues 50 per device";
    /// Method calls a device has and has not answered; one more takes the place of the oldest,
    /// whose answer is then late.
    method_calls: count = 32, 1 => 1_000,
        "256B each per connection, their payloads are with the device";
    /// Largest payload of a method call and of its answer, bytes (IoT Hub: 128 KiB).
    method_bytes: bytes = 128 * KIB, KIB => 256 * KIB,
        "4 of it per connection are on their way at most, to the device and back; further calls \
         wait at the hub";
    /// Time a device has for the answer to a method (IoT Hub: 300 s at most).
    method_timeout: time = secs(300), secs(1) => secs(600),
        "none; later answers are dropped";
    /// Requests of a device to its twin the hub has not answered; one more is answered 429.
    twin_requests: count = 8, 1 => 100,
        "within twin_bytes";
    /// Their bytes; a request that is larger is answered 413.
    twin_bytes: bytes = 64 * KIB, KIB => 512 * KIB,
        "itself per connection; the hub takes 32KiB of reported properties";
    /// Time the hub has for the answer to a twin request; then the device is answered 504.
    twin_timeout: time = secs(60), secs(1) => secs(600),
        "none; PUBACKs behind a request the hub does not take wait as long";
    /// Desired properties kept for each device that subscribes to them, to find what was missed
    /// while its link was down, bytes.
    desired_bytes: bytes = 32 * KIB, 0 => 512 * KIB,
        "itself per connection; larger ones are sent whole after a loss, without what was removed";
    /// Topic length, bytes.
    topic_bytes: bytes = 2 * KIB, 128 => 65_535,
        "within packet_bytes; the property bag of a message is in its topic";
    /// Topic levels.
    topic_levels: count = 16, 8 => 128,
        "none; IoT Hub's topics have 7 at most";
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    filters_per_packet: count = 32, 1 => 1_000,
        "within packet_bytes";
    /// Properties of one message.
    properties: count = 64, 1 => 1_000,
        "within packet_bytes";
    /// Password checks running at once.
    password_checks: count = 4, 1 => 256,
        "64MiB each (argon2id); raise it with the processors";
    /// Failed attempts at once, and a fiftieth of them each second, of the identities that never
    /// proved themselves from one source address; more close its connections unread, unless
    /// devices have proved themselves from there.
    failures_per_source: count = 1_000, 1 => 1_000_000,
        "under 1MiB for the 10,000 latest sources, and 160 B per device of connections for those \
         that proved themselves; the default has room for a NAT of 10,000 devices";
    /// Failed attempts of one identity from one source before it waits, 5 s and then up to 60 s.
    failures_per_identity: count = 5, 1 => 1_000_000,
        "under 3MiB for the 65,536 latest identities; other sources and other identities are not \
         held back";
    /// Closes of one device for a message that is refused, within ten minutes, before it waits, 5 s
    /// and then up to 60 s, to be let in again.
    failures_per_device: count = 5, 1 => 1_000_000,
        "under 1MiB for the 10,000 latest devices; on_refused in a rule ends the loop";
    /// Last causes kept of devices that were refused or lost, and as many of strangers, one for
    /// each name and reason; `ctl explain` shows them.
    causes: count = 4_096, 0 => 1_000_000,
        "at most 3KiB each, 24MiB at the default; 0 keeps none";
    /// Devices an operator keeps out for a time; more are not taken.
    blocks: count = 10_000, 0 => 1_000_000,
        "at most 300 B each";
    /// Devices an operator looks at at once (`ctl watch`); more are not taken.
    watches: count = 16, 0 => 1_000,
        "at most 200KiB each, while somebody looks";
    /// Bytes of the messages in rules.refused_folder; at this number they are refused as without
    /// it.
    refused_folder_bytes: bytes = 64 * MIB, 64 * KIB => 1024 * 1024 * MIB,
        "none, the disk holds them; on_refused = \"file\" in a rule fills it";
    /// Pause forced on a device whose holders take it over again and again; doubles up to 60 s.
    takeover_damping: time = secs(1), ms(0) => secs(60),
        "none; 0s turns it off";
}

/// Those that are built into something at the start: a reload leaves them as they are.
pub const AT_START: &[&str] = &[
    "hello_timeout",
    "password_checks",
    "failures_per_source",
    "failures_per_identity",
    "failures_per_device",
    "causes",
    "blocks",
    "watches",
    "refused_folder_bytes",
    "takeover_damping",
];

impl fmt::Display for Bound {
    /// As the file would have it: `15000`, `64KiB`, `1m30s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count(value) => write!(f, "{value}"),
            Self::Bytes(value) => f.write_str(&crate::config::values::show_size(value)),
            Self::Time(value) => f.write_str(&crate::config::values::show_duration(value)),
        }
    }
}

impl Row {
    /// Whether `bound` has the row's unit and lies in its range.
    #[must_use]
    pub fn admits(&self, bound: Bound) -> bool {
        std::mem::discriminant(&bound) == std::mem::discriminant(&self.default)
            && self.min <= bound
            && bound <= self.max
    }

    /// The default as a TOML value.
    #[must_use]
    pub fn default_toml(&self) -> String {
        match self.default {
            Bound::Count(value) => value.to_string(),
            other => format!("\"{other}\""),
        }
    }
}

/// The `[limits]` section of a complete file, commented, every value its default.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("[limits]\n");
    for row in ROWS {
        let about = row.about.trim();
        let (min, max, cost) = (row.min, row.max, row.cost);
        comment(
            &mut text,
            &format!("{about} Range {min}..{max}. Memory: {cost}."),
        );
        text.push_str(&format!("{} = {}\n\n", row.key, row.default_toml()));
    }
    comment(
        &mut text,
        "What becomes of commands a device has not acknowledged when it leaves: \"release\" (back \
         in the queue at once), \"abandon\" (the same, marked failed) or \"lock_expiry\" (back \
         after the hub's lock of one minute, not counted as a delivery). Memory: none.",
    );
    text.push_str("commands_on_disconnect = \"release\"\n");
    text
}

/// Adds `words` as comment lines of at most 96 columns.
fn comment(text: &mut String, words: &str) {
    let mut width = 0;
    for word in words.split_whitespace() {
        if width == 0 || width + 1 + word.len() > 96 {
            text.push_str(if width == 0 { "# " } else { "\n# " });
            width = 2;
        } else {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += word.len();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_in_its_range_and_comes_from_the_table() {
        let limits = Limits::default();
        for row in ROWS {
            assert!(row.admits(row.default), "{}", row.key);
            assert_eq!((row.get)(&limits), row.default, "{}", row.key);
            assert!(!row.cost.is_empty() && !row.about.trim().is_empty());
        }
    }

    #[test]
    fn what_waits_for_a_start_is_in_the_table() {
        for key in AT_START {
            assert!(ROWS.iter().any(|row| row.key == *key), "{key}");
        }
    }

    #[test]
    fn a_row_writes_its_own_field_only() {
        for row in ROWS {
            let mut limits = Limits::default();
            (row.set)(&mut limits, row.min);
            for other in ROWS {
                let expected = if other.key == row.key {
                    row.min
                } else {
                    other.default
                };
                assert_eq!(
                    (other.get)(&limits),
                    expected,
                    "{} by {}",
                    other.key,
                    row.key
                );
            }
        }
    }

    #[test]
    fn a_value_of_another_unit_is_not_admitted() {
        let connections = &ROWS[0];
        assert!(!connections.admits(Bound::Bytes(5)));
        assert!(!connections.admits(Bound::Count(0)));
        assert!(connections.admits(Bound::Count(1)));
        assert!(!connections.admits(Bound::Count(1_000_001)));
    }
}
