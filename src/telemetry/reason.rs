//! Every word with which a handshake, a CONNECT, a session or a message is refused or ended.
//!
//! One table, in [`table`]: the word of log lines, metrics and `check --as`; where it is said; what
//! decides it; what it means; what to do. Nothing in the gateway makes such a word of its own, so
//! that what a log line says can be looked up and asked again. Never holds anything of a peer.

// In this order, and the table last: each hands its rows to the next.
#[macro_use]
mod handshake;
#[macro_use]
mod door;
#[macro_use]
mod connect;
#[macro_use]
mod protocol;
#[macro_use]
mod session;
mod table;

pub use table::Reason;

/// Where a reason is said; one may be said in several places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// From the accepted socket to the end of TLS: `handshakes_total{result}`.
    Handshake,
    /// The answer to CONNECT: `connects_total{result}`.
    Connect,
    /// The end of a session: `disconnects_total{reason}`.
    Session,
    /// One message or subscription: `messages_total{result}`.
    Message,
}

impl Stage {
    /// The word of documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Connect => "connect",
            Self::Session => "session",
            Self::Message => "message",
        }
    }
}

/// What a refusal depends on, and so who can repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The configuration and the names the device gave: `check --as` finds it by itself.
    Rules,
    /// What the device proved: a key, a token, a password, a certificate.
    Proof,
    /// The bytes the device sent.
    Wire,
    /// What else was going on: load, failed attempts, another connection, the hub, a reload.
    State,
    /// Nobody was refused: the device left, or its time was over.
    End,
}

impl Basis {
    /// The word of documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Proof => "proof",
            Self::Wire => "wire",
            Self::State => "state",
            Self::End => "end",
        }
    }
}

impl Reason {
    /// The reason of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.word() == word)
    }

    /// The code under which IoT Hub's own logs and answers have the same (wire sheet §6.4); empty
    /// where they have none.
    #[must_use]
    pub const fn hub_code(self) -> &'static str {
        match self {
            Self::GoneDeviceNotFound | Self::DeviceUnknown => "404001",
            Self::GoneDeviceDisabled | Self::DeviceDisabled => "403012",
            Self::GoneStolen | Self::TakenOver => "400027",
            Self::SasExpired
            | Self::SasSignature
            | Self::SasScope
            | Self::SasMalformed
            | Self::SasLifeTooLong
            | Self::BadPassword
            | Self::NoCredentials
            | Self::CredentialExpired => "401003",
            Self::RuleDenied | Self::NoRule | Self::ClientIdMismatch => "401002",
            Self::PeerClosed | Self::PeerReset | Self::PeerLost | Self::KeepAliveTimeout => {
                "404104"
            }
            Self::MessageTooLarge | Self::PayloadTooLarge | Self::PacketTooLarge => "413001",
            Self::ThrottledIdentity | Self::ThrottledSource => "429001",
            _ => "",
        }
    }

    /// Whether it is said in this place.
    #[must_use]
    pub fn is_said_at(self, stage: Stage) -> bool {
        self.stages().contains(&stage)
    }

    /// Whether something was refused to a device, as against a connection that ended.
    #[must_use]
    pub fn refuses(self) -> bool {
        self.basis() != Basis::End
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl PartialEq<&str> for Reason {
    fn eq(&self, word: &&str) -> bool {
        self.word() == *word
    }
}

/// The table of `config/README.md`, in its order.
#[must_use]
pub fn documentation() -> String {
    let mut text =
        String::from("| reason | said at | depends on | means | fix |\n|---|---|---|---|---|\n");
    for reason in Reason::ALL {
        let stages: Vec<_> = reason.stages().iter().map(|stage| stage.word()).collect();
        let cells = [
            &format!("`{}`", reason.word()),
            &stages.join(", "),
            reason.basis().word(),
            reason.means(),
            reason.fix(),
        ];
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Basis, Reason};
    use std::collections::HashSet;

    #[test]
    fn every_word_is_a_distinct_metric_label_and_every_row_is_whole() {
        let mut words = HashSet::new();
        let mut meanings = HashSet::new();
        for reason in Reason::ALL {
            let word = reason.word();
            assert!(words.insert(word), "{word} stands twice");
            assert!(
                meanings.insert(reason.means()),
                "{word}: two words for one thing"
            );
            let snake = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            assert!(word.bytes().all(snake), "{word}");
            assert!(
                !reason.stages().is_empty() && !reason.means().is_empty(),
                "{word}"
            );
            assert_eq!(
                reason.fix().is_empty(),
                reason.basis() == Basis::End,
                "{word}"
            );
            for text in [reason.means(), reason.fix()] {
                assert!(
                    !text.contains("  ") && !text.contains('|'),
                    "{word}: {text}"
                );
                assert!(!text.ends_with('.'), "{word}: {text}");
            }
            assert_eq!(Reason::of(word), Some(*reason));
        }
        assert_eq!(Reason::of("nothing_of_the_kind"), None);
    }
}
