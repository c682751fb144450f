//! The log line of a refusal: who, where, by which rule, what was expected and what came, what to
//! do, and the `check` that asks the rules again.

pub(super) mod connect;

use super::quota::Quotas;
use super::{Records, away, log_text};
use crate::auth::Who;
use crate::hub::Hub;
use crate::runtime::clock;
use crate::telemetry::causes::{Cause, Causes};
use crate::telemetry::log::{REFUSAL, VALUE_BYTES_MAX, told};
use crate::telemetry::reason::{Basis, Reason};
use crate::telemetry::shell::option;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest hint that is given, bytes; escaped, it fits a value of the log.
const HINT_BYTES_MAX: usize = VALUE_BYTES_MAX / 2 - 2;

/// Lines about refusals: bounded, and counted where they are left out.
pub(super) struct Voice {
    quotas: Quotas,
    /// What `check -c` is to read; empty where there is no file.
    config: PathBuf,
    /// Where the last ones are kept.
    causes: Arc<Causes>,
    hub: Option<Hub>,
}

/// Room for a line, with the number of lines left out before it; or none.
pub(super) struct Place(Option<u64>);

impl Place {
    pub(super) const fn is_free(&self) -> bool {
        self.0.is_some()
    }
}

/// One refusal. What is not known is left out of the line.
pub(super) struct Line<'a> {
    /// What happened, a few words.
    pub(super) what: &'static str,
    pub(super) who: Who,
    pub(super) source: SocketAddr,
    pub(super) reason: Reason,
    /// What the peer is told.
    pub(super) text: Cow<'a, str>,
    /// What only operators are told.
    pub(super) detail: &'a str,
    /// The device the rules name for the credential.
    pub(super) device: Option<String>,
    /// The rule or entry that decided.
    pub(super) rule: Option<String>,
    /// What would have been right, where that can be said in a word.
    pub(super) expected: Option<String>,
    /// What came instead.
    pub(super) got: Option<String>,
    /// The topic or filter.
    pub(super) topic: Option<&'a str>,
    /// Whether it was subscribed to; else it was published to.
    pub(super) is_filter: bool,
    pub(super) qos: Option<u8>,
    /// What became of the message.
    pub(super) message: Option<Message>,
    /// Whether the device had proved itself.
    pub(super) is_of_session: bool,
}

/// A message that was refused.
#[derive(Default)]
pub(super) struct Message {
    /// `refused_messages_total{action}`
    pub(super) action: &'static str,
    /// Its name in the folder.
    pub(super) id: Option<String>,
    pub(super) bytes: Option<usize>,
    pub(super) sha256: Option<String>,
}

impl<'a> Line<'a> {
    /// The line of `who`, with what there always is.
    pub(super) fn new(
        what: &'static str,
        who: Who,
        source: SocketAddr,
        reason: Reason,
        text: impl Into<Cow<'a, str>>,
    ) -> Self {
        Self {
            what,
            who,
            source,
            reason,
            text: text.into(),
            detail: "",
            device: None,
            rule: None,
            expected: None,
            got: None,
            topic: None,
            is_filter: false,
            qos: None,
            message: None,
            is_of_session: false,
        }
    }
}

impl Voice {
    /// Lines with these records behind them.
    pub(super) fn of(records: &Records) -> Self {
        Self {
            quotas: Quotas::default(),
            config: records.config.clone(),
            causes: records.causes.clone(),
            hub: records.hub.clone(),
        }
    }

    /// Keeps the cause, and writes the line, unless there were too many of its reason.
    pub(super) fn say(&self, line: Line<'_>) {
        self.say_at(self.place(line.reason), line);
    }

    /// A place among the lines of this reason, for one that is dear to make; none when they are
    /// used up.
    pub(super) fn place(&self, reason: Reason) -> Place {
        Place(self.quotas.take(reason, clock::mono()))
    }

    /// Where causes are kept.
    pub(super) fn causes(&self) -> &Arc<Causes> {
        &self.causes
    }

    /// [`Self::say`] in a place that was taken before.
    pub(super) fn say_at(&self, place: Place, line: Line<'_>) {
        let hint = self.hint(&line);
        self.note(Self::cause(&line, hint.clone()), line.is_of_session);
        if let Some(suppressed) = place.0 {
            Self::write(line, hint, suppressed);
        }
    }

    /// Writes how many lines were left out and have no later line that says so.
    pub(super) fn tell_left_out(&self) {
        for (reason, suppressed) in self.quotas.left_out() {
            tracing::info!(
                name: "refusals_left_out",
                target: REFUSAL,
                %reason,
                suppressed,
                "lines about refusals were left out"
            );
        }
    }

    /// Keeps why a session ended that nobody refused. While the hub serves nobody that comes
    /// first: a device that gave up waiting is not to blame.
    pub(super) fn lost(&self, mut line: Line<'_>) {
        let hub = self.hub.as_ref();
        let waited = hub.and_then(|hub| away::waited(hub, log_text(&line.text)));
        match waited {
            Some((text, fix)) => {
                line.what = "hub unavailable";
                line.text = text.into();
                self.note(
                    Cause {
                        fix: fix.into(),
                        ..Self::cause(&line, None)
                    },
                    true,
                );
            }
            // Nothing is wrong with a device that says goodbye.
            None if line.reason == Reason::Clean => {}
            None => self.note(Self::cause(&line, None), true),
        }
    }

    fn cause(line: &Line<'_>, hint: Option<String>) -> Cause {
        Cause {
            rule: line.rule.clone(),
            expected: line.expected.clone(),
            got: line.got.clone().or(line.topic.map(str::to_owned)),
            listener: line.who.listener.clone(),
            source: line.who.source.to_string(),
            identity: line.who.identity().unwrap_or_default(),
            client_id: line.who.client_id.clone().unwrap_or_default(),
            hint,
            ..Cause::of(line.what, line.reason, log_text(&line.text))
        }
    }

    fn note(&self, cause: Cause, is_of_session: bool) {
        let now = clock::unix();
        match is_of_session {
            true => self.causes.of_device(cause, now),
            false => self.causes.of_stranger(cause, now),
        }
    }

    fn write(mut line: Line<'_>, hint: Option<String>, suppressed: u64) {
        let message = line.message.take().unwrap_or_default();
        tracing::info!(
            name: "refused",
            target: REFUSAL,
            listener = line.who.listener,
            source = %line.source,
            identity = line.who.identity(),
            client_id = line.who.client_id,
            rule = line.rule,
            reason = %line.reason,
            expected = line.expected,
            got = line.got,
            text = log_text(&line.text),
            detail = told(line.detail),
            topic = line.topic,
            qos = line.qos,
            action = told(message.action),
            id = message.id,
            bytes = message.bytes,
            sha256 = message.sha256,
            suppressed = Some(suppressed).filter(|lines| *lines > 0),
            fix = told(line.reason.fix()),
            hint,
            "{}",
            line.what
        );
    }

    /// The `check` that comes to the same answer.
    fn hint(&self, line: &Line<'_>) -> Option<String> {
        if self.config.as_os_str().is_empty() || !line.reason.refuses() {
            return None;
        }
        let mut hint = String::from("iothub-gateway check");
        hint.push_str(" -c ");
        hint.push_str(&crate::telemetry::shell::quoted(
            &self.config.to_string_lossy(),
        ));
        hint.push_str(&line.who.question());
        if let Some(topic) = line.topic {
            let flag = if line.is_filter {
                "subscribe"
            } else {
                "publish"
            };
            option(&mut hint, flag, topic);
        }
        if let Some(qos) = line.qos {
            option(&mut hint, "qos", &qos.to_string());
        }
        if line.reason.basis() != Basis::Rules {
            option(&mut hint, "reason", line.reason.word());
        }
        // One that the log would cut is none: half of a quoted word waits for its end.
        Some(hint).filter(|hint| hint.len() <= HINT_BYTES_MAX)
    }
}
