//! The result of a run: a table for people, JSON for scripts. Units are in the names.

use super::histogram::Summary;
use super::ledger::Verdict;
use std::collections::BTreeMap;
use std::fmt;

/// Links a gateway attaches a second when it is not told otherwise.
pub const ATTACH_RATE: f64 = 90.0;

/// A first message that waits this long, seconds, is explained.
const WORTH_A_WORD_S: f64 = 1.0;

/// Everything a run found out.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Devices asked for.
    pub devices: u64,
    /// Devices that got their CONNACK (and SUBACK).
    pub connected: u64,
    /// Devices that did not.
    pub failed: u64,
    /// Why not, with counts.
    pub failures: BTreeMap<String, u64>,
    /// Connections that ended before their time.
    pub lost: u64,
    /// Why, with counts.
    pub losses: BTreeMap<String, u64>,
    /// From the first attempt to the last CONNACK.
    pub connect_seconds: f64,
    /// `connected` over `connect_seconds`.
    pub connects_per_second: f64,
    /// From a device's SYN to its CONNACK or SUBACK.
    pub connect: Summary,
    /// Quality of service of the messages.
    pub qos: u8,
    /// Messages due in all, at a fixed rate.
    pub planned: Option<u64>,
    /// Each device's first message, from sent to acknowledged: with a gateway, the wait for the
    /// device's link to the hub.
    pub first_message: Summary,
    /// Devices whose first message was never acknowledged.
    pub first_unacknowledged: u64,
    /// Messages handed to sockets.
    pub sent: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Sent and never acknowledged; they are in no percentile.
    pub unacknowledged: u64,
    /// Acknowledged before an older message of the same device.
    pub acknowledged_out_of_order: u64,
    /// Commands received.
    pub commands: u64,
    /// Length of the measured part.
    pub measured_seconds: f64,
    /// Messages acknowledged in it (at QoS 0: sent).
    pub measured_messages: u64,
    /// Their rate.
    pub messages_per_second: f64,
    /// From due (fixed rate) or sent to acknowledged (at QoS 0: written).
    pub latency: Summary,
    /// From due to sent: the part of the latency this process or a full window is to blame for.
    pub lateness: Option<Summary>,
    /// CPU time of this process for each measured message.
    pub own_cpu_us_per_message: Option<f64>,
    /// The server's process.
    pub server: Option<Server>,
    /// What the emulator's ledger says.
    pub ledger: Option<Verdict>,
    /// Why the ledger could not be read.
    pub ledger_problem: Option<String>,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// What the server's process used; CPU time has a grain of 10 ms in all.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Server {
    /// CPU time of the connect phase over the devices connected.
    pub cpu_us_per_connect: Option<f64>,
    /// CPU time of the measured part over its messages.
    pub cpu_us_per_message: Option<f64>,
    /// CPU time of the measured part over its length; 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Resident memory before the first device.
    pub resident_kib_before: u64,
    /// Resident memory with all devices connected.
    pub resident_kib_connected: u64,
    /// Growth between the two over the devices connected.
    pub resident_kib_per_device: Option<f64>,
    /// Resident memory at the end of the measured part.
    pub resident_kib_after: Option<u64>,
    /// Growth until then over the devices connected.
    pub resident_kib_per_device_after: Option<f64>,
}

impl Report {
    /// Whether every device connected and stayed, and nothing acknowledged is missing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed == 0
            && self.lost == 0
            && self.connected > 0
            && self.ledger_problem.is_none()
            && self.ledger.is_none_or(|ledger| ledger.missing == 0)
    }
}

type Rows = Vec<(String, String)>;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Rows::new();
        self.connects(&mut rows);
        self.messages(&mut rows);
        if let Some(server) = &self.server {
            server.rows(&mut rows);
        }
        self.ledger(&mut rows);
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in rows {
            writeln!(f, "{name:<width$}  {value}")?;
        }
        Ok(())
    }
}

impl Report {
    fn connects(&self, rows: &mut Rows) {
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row(
            "connected",
            format!("{} of {} devices", self.connected, self.devices),
        );
        row(
            "connects/s",
            format!(
                "{:.1} (over {:.2} s)",
                self.connects_per_second, self.connect_seconds
            ),
        );
        row("connect time", percentiles(&self.connect));
        for (reason, count) in &self.failures {
            row("not connected", format!("{count} × {reason}"));
        }
        for (reason, count) in &self.losses {
            row("connection lost", format!("{count} × {reason}"));
        }
        if self.interrupted {
            row("interrupted", "yes; the figures are of a part".to_owned());
        }
    }

    fn messages(&self, rows: &mut Rows) {
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("commands received", self.commands.to_string());
        if self.sent == 0 {
            return;
        }
        let planned = self.planned.map(|planned| {
            let unsent = planned.saturating_sub(self.sent);
            format!(" of {planned} due ({unsent} never sent)")
        });
        row(
            "sent",
            format!("{}{}", self.sent, planned.unwrap_or_default()),
        );
        if self.qos > 0 {
            row(
                "acknowledged",
                format!(
                    "{} ({} never, {} out of order)",
                    self.acknowledged, self.unacknowledged, self.acknowledged_out_of_order
                ),
            );
        }
        row(
            "messages/s",
            format!(
                "{:.1} (over {:.2} s)",
                self.messages_per_second, self.measured_seconds
            ),
        );
        let latency = match (self.qos, self.planned) {
            (0, Some(_)) => "latency, due to written",
            (0, None) => "latency, made to written",
            (_, Some(_)) => "latency, due to acknowledged",
            (_, None) => "latency, sent to acknowledged",
        };
        row(latency, percentiles(&self.latency));
        row("  first of each device", percentiles(&self.first_message));
        if let Some(why) = self.wait_for_links() {
            row("  why the first wait", why);
        }
        if let Some(lateness) = &self.lateness {
            row("  of it, due to sent", percentiles(lateness));
        }
        if let Some(own) = self.own_cpu_us_per_message {
            row("load's own CPU/message", format!("{own:.1} µs"));
        }
    }

    /// What devices waited for, where it was long enough to be asked about.
    fn wait_for_links(&self) -> Option<String> {
        let longest = self.first_message.max_ms / 1000.0;
        if longest < WORTH_A_WORD_S && self.first_unacknowledged == 0 {
            return None;
        }
        let left = match self.first_unacknowledged {
            0 => String::new(),
            left => format!("{left} were still waiting; "),
        };
        Some(format!(
            "{left}a gateway attaches a device's link at its first message, hub.attach_rate \
             links a second ({ATTACH_RATE} by default, {:.0} s for {} devices); --warmup {:.0}s \
             leaves it out of the figures",
            (self.connected as f64 / ATTACH_RATE).ceil(),
            self.connected,
            (self.connected as f64 / ATTACH_RATE).max(longest).ceil() + 1.0,
        ))
    }

    fn ledger(&self, rows: &mut Rows) {
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        if let Some(problem) = &self.ledger_problem {
            row("ledger", format!("could not be read: {problem}"));
        }
        if let Some(ledger) = &self.ledger {
            row(
                "ledger",
                format!(
                    "{} arrived; missing {}, duplicated {}, misordered {}, foreign {}",
                    ledger.arrived,
                    ledger.missing,
                    ledger.duplicated,
                    ledger.misordered,
                    ledger.foreign
                ),
            );
            row(
                "  besides",
                format!(
                    "{} arrived without acknowledgement, {} of other devices",
                    ledger.unconfirmed, ledger.unrelated
                ),
            );
        }
    }
}

impl Server {
    fn rows(&self, rows: &mut Rows) {
        let mut row = |name: &str, value: Option<f64>, unit: &str| {
            if let Some(value) = value {
                rows.push((format!("server {name}"), format!("{value:.1} {unit}")));
            }
        };
        row("CPU/connect", self.cpu_us_per_connect, "µs");
        row("CPU/message", self.cpu_us_per_message, "µs");
        row("CPU in the run", self.cpu_percent, "% of a core");
        row(
            "memory/device, connected",
            self.resident_kib_per_device,
            "KiB",
        );
        row(
            "memory/device, after the run",
            self.resident_kib_per_device_after,
            "KiB",
        );
    }
}

fn percentiles(summary: &Summary) -> String {
    if summary.count == 0 {
        return "nothing measured".to_owned();
    }
    format!(
        "p50 {} · p90 {} · p99 {} · p99.9 {} · max {} ms",
        three(summary.p50_ms),
        three(summary.p90_ms),
        three(summary.p99_ms),
        three(summary.p999_ms),
        three(summary.max_ms)
    )
}

/// Three digits that mean something.
fn three(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Report;
    use crate::load::Verdict;

    fn clean() -> Report {
        Report {
            devices: 2,
            connected: 2,
            ..Report::default()
        }
    }

    #[test]
    fn only_a_full_and_lossless_run_is_clean() {
        assert!(clean().is_clean());
        let missing = Verdict {
            missing: 1,
            ..Verdict::default()
        };
        let bad = [
            Report {
                failed: 1,
                ..clean()
            },
            Report { lost: 1, ..clean() },
            Report {
                ledger: Some(missing),
                ..clean()
            },
            Report {
                ledger_problem: Some("no answer".to_owned()),
                ..clean()
            },
            Report::default(),
        ];
        for report in bad {
            assert!(!report.is_clean(), "{report}");
        }
    }

    #[test]
    fn a_long_wait_for_the_first_acknowledgement_is_explained() {
        let mut report = Report {
            devices: 900,
            connected: 900,
            sent: 1,
            qos: 1,
            ..Report::default()
        };
        report.first_message.count = 900;
        report.first_message.max_ms = 20.0;
        assert!(!report.to_string().contains("attach_rate"), "{report}");
        report.first_message.max_ms = 9_900.0;
        let table = report.to_string();
        assert!(
            table.contains("hub.attach_rate links a second (90 by default, 10 s for 900 devices)")
                && table.contains("--warmup 11s"),
            "{table}"
        );
        report.first_unacknowledged = 7;
        assert!(report.to_string().contains("7 were still waiting"));
    }

    #[test]
    fn the_table_names_every_reason() {
        let mut report = clean();
        report.failures.insert("tls: bad".to_owned(), 3);
        report.losses.insert("mqtt: gone".to_owned(), 4);
        let table = report.to_string();
        assert!(
            table.contains("3 × tls: bad") && table.contains("4 × mqtt: gone"),
            "{table}"
        );
    }
}
