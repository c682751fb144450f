//! The names of the file: which keys each section has, and the nearest one to a misspelt key.
//!
//! The file's shape, environment variables and suggestions all come from this one table.

use super::limits::ROWS;

/// A section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Root,
    Hub,
    Listener,
    Tls,
    Rules,
    Limits,
    Admin,
    AdminTls,
    Log,
    Telemetry,
    Otlp,
    Shutdown,
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A string, number or boolean.
    Value,
    /// An array of strings.
    List,
    /// `[section]` or an inline table.
    Table(Section),
    /// `[[section]]`.
    Tables(Section),
}

const SECTIONS: &[Section] = &[
    Section::Root,
    Section::Hub,
    Section::Listener,
    Section::Tls,
    Section::Rules,
    Section::Limits,
    Section::Admin,
    Section::AdminTls,
    Section::Log,
    Section::Telemetry,
    Section::Otlp,
    Section::Shutdown,
];

const HUB: &[&str] = &[
    "host",
    "policy",
    "key",
    "secondary_key",
    "connection_string",
    "token_file",
    "token_url",
    "audience",
    "endpoint",
    "ca",
    "token_ttl",
    "renew_at",
    "connections",
    "max_devices_per_connection",
    "sessions_per_connection",
    "attach_rate",
    "connect_timeout",
    "operation_timeout",
    "outcome_timeout",
    "idle_timeout",
    "backoff_min",
    "backoff_max",
    "connection_bytes_max",
];

const TLS: &[&str] = &[
    "cert",
    "key",
    "client_ca",
    "crl",
    "mixed",
    "psk_ffdhe",
    "psk_cbc_sha1",
    "psk_ke",
    "record_bytes",
];

/// Former names of keys: read as before, with a warning that says the name.
const RENAMED: &[(Section, &str)] = &[(Section::Tls, "dhe_psk")];

impl Section {
    /// The keys, in the order they are documented.
    pub(super) fn keys(self) -> Vec<&'static str> {
        match self {
            Self::Root => vec![
                "insecure_permissions",
                "hub",
                "listener",
                "rules",
                "limits",
                "admin",
                "log",
                "telemetry",
                "shutdown",
            ],
            Self::Hub => HUB.to_vec(),
            Self::Listener => vec!["name", "bind", "tls", "insecure", "accept", "mqtt_versions"],
            Self::Tls => TLS.to_vec(),
            Self::Rules => vec!["files", "refused_folder"],
            Self::Limits => {
                let mut keys: Vec<_> = ROWS.iter().map(|row| row.key).collect();
                keys.push("commands_on_disconnect");
                keys
            }
            Self::Admin => vec!["bind", "tls", "read_token", "operate_token"],
            Self::AdminTls => vec!["cert", "key"],
            Self::Log => vec!["format", "filter"],
            Self::Telemetry => vec!["otlp"],
            Self::Otlp => vec!["endpoint", "ca", "sample_ratio", "queue_spans", "timeout"],
            Self::Shutdown => vec!["announce", "settle", "close", "drain_rate", "handover"],
        }
    }

    /// What `key` of this section holds, if there is such a key.
    pub(super) fn shape(self, key: &str) -> Option<Shape> {
        if !self.keys().contains(&key) && !RENAMED.contains(&(self, key)) {
            return None;
        }
        Some(match (self, key) {
            (Self::Root, "hub") => Shape::Table(Self::Hub),
            (Self::Root, "listener") => Shape::Tables(Self::Listener),
            (Self::Root, "rules") => Shape::Table(Self::Rules),
            (Self::Root, "limits") => Shape::Table(Self::Limits),
            (Self::Root, "admin") => Shape::Table(Self::Admin),
            (Self::Root, "log") => Shape::Table(Self::Log),
            (Self::Root, "telemetry") => Shape::Table(Self::Telemetry),
            (Self::Telemetry, "otlp") => Shape::Table(Self::Otlp),
            (Self::Root, "shutdown") => Shape::Table(Self::Shutdown),
            (Self::Listener, "tls") => Shape::Table(Self::Tls),
            (Self::Admin, "tls") => Shape::Table(Self::AdminTls),
            (Self::Listener, "accept" | "mqtt_versions") | (Self::Rules, "files") => Shape::List,
            _ => Shape::Value,
        })
    }

    /// How the section is written in the file.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Root => "the top of the file",
            Self::Hub => "[hub]",
            Self::Listener => "[[listener]]",
            Self::Tls => "tls = { … } of a [[listener]]",
            Self::Rules => "[rules]",
            Self::Limits => "[limits]",
            Self::Admin => "[admin]",
            Self::AdminTls => "tls = { … } of [admin]",
            Self::Log => "[log]",
            Self::Telemetry => "[telemetry.otlp]",
            Self::Otlp => "[telemetry.otlp]",
            Self::Shutdown => "[shutdown]",
        }
    }
}

/// What to say about `key`, which `section` does not have.
pub(super) fn unknown_key(section: Section, key: &str) -> String {
    let keys = section.keys();
    if let Some(near) = nearest(key, &keys) {
        return format!("unknown key; did you mean `{near}`?");
    }
    let folded = fold(key);
    let home = SECTIONS
        .iter()
        .find(|other| other.keys().contains(&folded.as_str()));
    if let Some(home) = home {
        return format!("unknown key here; `{folded}` belongs in {}", home.title());
    }
    format!(
        "unknown key; remove it. {} has: {}",
        section.title(),
        keys.join(", ")
    )
}

/// The candidate a person most likely meant by `word`, or nothing when none is close.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = fold(word);
    if word.len() > 64 {
        return None;
    }
    let close = candidates
        .iter()
        .map(|candidate| (distance(&word, candidate), *candidate))
        .filter(|(steps, candidate)| *steps <= (candidate.len() / 3).max(1))
        .min();
    if let Some((_, candidate)) = close {
        return Some(candidate);
    }
    // `certificate` for `cert`, `connection` for `connection_string`: the shorter one leads.
    let leads = |a: &str, b: &str| a.len() >= 3 && b.starts_with(a);
    candidates
        .iter()
        .find(|candidate| leads(&word, candidate) || leads(candidate, &word))
        .copied()
}

fn fold(word: &str) -> String {
    word.trim().to_lowercase().replace('-', "_")
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognised() {
        let hub = Section::Hub.keys();
        for (typed, meant) in [
            ("token_tll", "token_ttl"),
            ("tokenttl", "token_ttl"),
            ("Token-TTL", "token_ttl"),
            ("hostname", "host"),
            ("renewat", "renew_at"),
            ("max_device_per_connection", "max_devices_per_connection"),
        ] {
            assert_eq!(nearest(typed, &hub), Some(meant), "{typed}");
        }
        assert_eq!(nearest("certificate", &Section::Tls.keys()), Some("cert"));
        assert_eq!(
            nearest("listeners", &Section::Root.keys()),
            Some("listener")
        );
        assert_eq!(nearest("colour", &hub), None);
        assert_eq!(nearest(&"x".repeat(100_000), &hub), None);
    }

    #[test]
    fn a_key_in_the_wrong_section_is_sent_home() {
        assert!(unknown_key(Section::Hub, "filter").contains("[log]"));
        assert!(unknown_key(Section::Listener, "packet_bytes").contains("[limits]"));
        assert!(unknown_key(Section::Log, "colour").contains("format, filter"));
    }

    #[test]
    fn distance_counts_single_slips() {
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("abc", "ab"), 1);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
