//! The rows of the matrix: a fault, how long it lasts, and what devices may notice.

use crate::support::proxy::Line;
use iothub_gateway::emulator::FaultKind;
use std::time::Duration;

/// What is done to the gateway's connections.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The hub does it.
    Hub(FaultKind),
    /// The hub does it, and its connections are cut so that it is met.
    HubAfterCut(FaultKind),
    /// The hub does it, and cuts its connections when it is over.
    HubThenCut(FaultKind),
    /// The line does it for a while.
    Line(&'static str, Line),
    /// The line is cut.
    Reset,
    HalfClose,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub what: What,
    pub value: Option<&'static str>,
    /// Only the first of two connections.
    pub one: bool,
    pub lasting: Duration,
    /// The hub names the device or its message: devices are closed, and come back.
    pub closes: bool,
    /// All devices work again within this after the end.
    pub usable: Duration,
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn hub(kind: FaultKind, lasting: u64) -> Row {
    Row {
        what: What::Hub(kind),
        value: None,
        one: false,
        lasting: seconds(lasting),
        closes: false,
        usable: seconds(5),
    }
}

const fn line(name: &'static str, lasting: u64, line: Line) -> Row {
    Row {
        what: What::Line(name, line),
        ..hub(FaultKind::KillTcp, lasting)
    }
}

const GOOD: Line = Line {
    latency: Duration::ZERO,
    jitter: Duration::ZERO,
    rate: None,
    silent: false,
    byte_by_byte: false,
    refuse: false,
};

impl Row {
    const fn one(mut self) -> Self {
        self.one = true;
        self
    }

    const fn after_cut(mut self) -> Self {
        if let What::Hub(kind) = self.what {
            self.what = What::HubAfterCut(kind);
        }
        self
    }

    /// Throttled, the gateway waits 2.5 to 5 s as IoT Hub asks, and 5 to 10 s after the second
    /// answer of that kind, wherever the fault's end falls.
    const fn patient(mut self) -> Self {
        self.usable = seconds(11);
        self
    }

    /// Whether the hub decides message by message.
    pub const fn picks(&self) -> bool {
        matches!(
            self.what,
            What::Hub(
                FaultKind::OutcomeRejected
                    | FaultKind::OutcomeReleased
                    | FaultKind::OutcomeModified
                    | FaultKind::InvokeThrottling
                    | FaultKind::InvokeMaxMessageQuota
            )
        )
    }

    pub fn name(&self) -> String {
        let kind = match self.what {
            What::Hub(kind) | What::HubAfterCut(kind) | What::HubThenCut(kind) => kind.name(),
            What::Line(name, _) => name,
            What::Reset => "line reset",
            What::HalfClose => "line half-closed",
        };
        let value = self
            .value
            .map(|value| format!(" {value}"))
            .unwrap_or_default();
        let one = if self.one { ", one of two" } else { "" };
        let lasting = match self.lasting.as_secs() {
            0 => String::new(),
            n => format!(", {n} s"),
        };
        let cut = match self.what {
            What::HubThenCut(_) => " and a cut at the end",
            _ => "",
        };
        format!("{kind}{cut}{value}{one}{lasting}")
    }
}

/// Conditions after which the hub wants nothing of this device or message.
const FATAL: &[&str] = &["amqp:link:message-size-exceeded", "amqp:not-found"];
/// Conditions that ask for less.
const THROTTLES: &[&str] = &[
    "com.microsoft:device-container-throttled",
    "amqp:resource-limit-exceeded",
    "amqp:link:detach-forced",
    "com.microsoft:iot-hub-suspended",
];

fn conditions(kind: FaultKind, lasting: u64) -> impl Iterator<Item = Row> {
    kind.values().iter().map(move |value| {
        let stolen = kind == FaultKind::DetachLink && *value == "amqp:link:stolen";
        let row = Row {
            value: Some(value),
            closes: stolen || FATAL.contains(value),
            ..hub(kind, lasting)
        };
        if THROTTLES.contains(value) {
            row.patient()
        } else {
            row
        }
    })
}

/// Every row.
pub fn all() -> Vec<Row> {
    use FaultKind as F;
    let mut rows = hub_rows();
    rows.extend(line_rows());
    let statuses = F::CbsStatus.values().iter().map(|status| Row {
        value: Some(status),
        ..hub(F::CbsStatus, 2)
    });
    rows.extend(statuses);
    rows.extend(conditions(F::OutcomeRejected, 1));
    rows.extend(conditions(F::DetachLink, 0));
    rows
}

/// Faults of the hub that take no value.
fn hub_rows() -> Vec<Row> {
    use FaultKind as F;
    vec![
        hub(F::KillTcp, 0),
        hub(F::KillTcp, 0).one(),
        hub(F::KillTcp, 1),
        hub(F::KillAmqpConnection, 0),
        hub(F::KillAmqpConnection, 0).one(),
        hub(F::ShutDownAmqp, 0),
        hub(F::KillAmqpSession, 0),
        hub(F::KillAmqpCBSLinkReq, 0),
        hub(F::KillAmqpCBSLinkResp, 0),
        hub(F::KillAmqpD2CLink, 0),
        hub(F::KillAmqpC2DLink, 0),
        hub(F::InvokeThrottling, 1).patient(),
        hub(F::InvokeMaxMessageQuota, 1).patient(),
        hub(F::InvokeAuthError, 1),
        hub(F::RefuseConnections, 3).after_cut(),
        hub(F::BlackHole, 11),
        hub(F::BlackHole, 11).one(),
        hub(F::CloseDuringOpen, 2).after_cut(),
        hub(F::CloseDuringBegin, 2).after_cut(),
        hub(F::CloseDuringAttach, 2).after_cut(),
        hub(F::CbsSilent, 3),
        hub(F::DispositionNever, 4),
        hub(F::DispositionsDelayed, 2),
        hub(F::DispositionsReordered, 2),
        hub(F::DispositionsBatched, 2),
        hub(F::CreditZero, 3),
        Row {
            what: What::HubThenCut(F::CreditZero),
            ..hub(F::CreditZero, 2)
        },
        hub(F::OutcomeReleased, 2),
        hub(F::OutcomeModified, 2),
        Row {
            what: What::Reset,
            ..hub(F::KillTcp, 0)
        },
        Row {
            what: What::HalfClose,
            ..hub(F::KillTcp, 0)
        },
    ]
}

/// Faults of the way to the hub.
fn line_rows() -> Vec<Row> {
    vec![
        line(
            "line slow and uneven",
            4,
            Line {
                latency: Duration::from_millis(400),
                jitter: Duration::from_millis(200),
                ..GOOD
            },
        ),
        line(
            "line of 20 kB/s",
            3,
            Line {
                rate: Some(20_000),
                ..GOOD
            },
        ),
        line(
            "line byte by byte",
            2,
            Line {
                byte_by_byte: true,
                ..GOOD
            },
        ),
        line(
            "line silent for a moment",
            3,
            Line {
                silent: true,
                ..GOOD
            },
        ),
        line(
            "line silent",
            12,
            Line {
                silent: true,
                ..GOOD
            },
        ),
    ]
}
