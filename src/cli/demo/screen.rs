//! What the demo prints: coloured in a terminal, plain when piped.

use super::files::{Layout, SIMULATED, Samples};
use std::fmt::Write as _;
use std::io::IsTerminal;

/// Decides once whether escape sequences are wanted.
pub struct Screen {
    colour: bool,
}

/// What can be typed.
const KEYS: &str = "Enter: the commands again · s: stop or start sim-1 · q or Ctrl-C: end";

/// A command to paste: what it shows, and the text.
pub struct Offer {
    /// The credential it uses.
    pub title: &'static str,
    /// One shell command.
    pub command: String,
}

impl Screen {
    /// A screen for standard output. `NO_COLOR` is honoured.
    #[must_use]
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colour: wanted && std::io::stdout().is_terminal(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The head of the demo: what runs where, and what to try.
    #[must_use]
    pub fn head(&self, layout: &Layout, offers: &[Offer]) -> String {
        let mut text = String::new();
        let rows = [
            ("gateway", format!("mqtts://localhost:{}", layout.mqtt_port)),
            (
                "status page",
                format!("http://127.0.0.1:{}/", layout.admin_port),
            ),
            (
                "metrics",
                format!("http://127.0.0.1:{}/metrics", layout.admin_port),
            ),
            (
                "hub emulator",
                format!("amqps://localhost:{}", layout.amqp_port),
            ),
            (
                "control API",
                format!("http://127.0.0.1:{}/messages", layout.control_port),
            ),
            (
                "files",
                format!("{}  (delete it to start afresh)", layout.dir.display()),
            ),
        ];
        let _ = writeln!(text, "\n{}\n", self.paint("1", "iothub-gateway demo"));
        for (name, value) in rows {
            let _ = writeln!(text, "  {}{value}", self.paint("2", &format!("{name:<14}")));
        }
        let hint = "Paste into another terminal, from this folder:";
        let _ = writeln!(text, "\n{}", self.paint("1", hint));
        for offer in offers {
            let _ = writeln!(text, "\n  {}", self.paint("36", offer.title));
            let _ = writeln!(text, "    {}", offer.command);
        }
        let last = "Messages as the hub accepts them, and whom the gateway refuses";
        let _ = writeln!(
            text,
            "\n{}  {}\n",
            self.paint("1", last),
            self.paint("2", KEYS)
        );
        text
    }

    /// The keys, where the head has scrolled away.
    #[must_use]
    pub fn reminder(&self) -> String {
        format!("  {}\n", self.paint("2", KEYS))
    }

    /// What became of the simulated device's messages.
    #[must_use]
    pub fn stream(&self, on: bool) -> String {
        let text = match on {
            true => format!("{SIMULATED} sends again"),
            false => format!("{SIMULATED} sends no more; s lets it go on"),
        };
        format!("  {}\n", self.paint("2", &text))
    }

    /// One refusal: who, why, what to do.
    #[must_use]
    pub fn refusal(&self, time: &str, who: &str, reason: &str, fix: &str) -> String {
        let refused = self.paint("31", &format!("refused {who}: {reason}"));
        format!("  {time}  {refused}; {fix}")
    }

    /// One accepted message.
    #[must_use]
    pub fn message(&self, time: &str, seq: u64, device: &str, body: &str, bag: &str) -> String {
        let device = self.paint(
            if device == SIMULATED { "2" } else { "32" },
            &format!("{device:<10}"),
        );
        let seq = self.paint("2", &format!("#{seq:<4}"));
        format!("  {time}  {seq} {device} {body}  {}", self.paint("2", bag))
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// The commands, each complete in itself.
#[must_use]
pub fn offers(layout: &Layout, samples: &Samples, sas_token: &str) -> Vec<Offer> {
    let dir = layout.dir.display();
    let server = format!("-h localhost -p {}", layout.mqtt_port);
    let psk = format!("--psk-identity thermo-1 --psk {}", samples.psk_hex);
    let hub = super::files::HUB_HOST;
    let ca = format!("--cafile {dir}/ca.pem");
    let offer = |title, command| Offer { title, command };
    let publish = |title, login: String, id: &str, body: &str| {
        let topic = format!("-i {id} -q 1 -t devices/{id}/messages/events/");
        offer(
            title,
            format!("mosquitto_pub {server} {login} {topic} -m '{body}'"),
        )
    };
    let certificate = format!("{ca} --cert {dir}/press-7.pem --key {dir}/press-7.key");
    let user = format!("{hub}/pump-3/?api-version=2021-04-12");
    let sas = format!("{ca} -u '{user}' -P '{sas_token}'");
    let password = format!("{ca} -u valve-9 -P {}", samples.password);
    let mut tls12 = publish(
        "pre-shared key, TLS 1.2 only",
        psk.clone(),
        "thermo-1",
        "psk over TLS 1.2",
    );
    tls12
        .command
        .insert_str(0, &format!("OPENSSL_CONF={dir}/tls12.cnf "));
    let filter = "-t 'devices/thermo-1/messages/devicebound/#'";
    let control = format!("http://127.0.0.1:{}", layout.control_port);
    let send = format!("{control}/devices/thermo-1/commands?unit=percent");
    vec![
        publish(
            "pre-shared key, TLS 1.3",
            psk.clone(),
            "thermo-1",
            "psk over TLS 1.3",
        ),
        tls12,
        publish("X.509 certificate", certificate, "press-7", "certificate"),
        publish("SAS token, as IoT Hub takes it", sas, "pump-3", "sas token"),
        publish("user name and password", password, "valve-9", "password"),
        offer(
            "receive commands (leave it running) …",
            format!("mosquitto_sub {server} {psk} -i thermo-1 -q 1 {filter} -v"),
        ),
        offer(
            "… and send one through the hub's control API",
            format!("curl -sS -X POST --data 'open the valve' '{send}'"),
        ),
        offer(
            "why a device was refused: give one a wrong key first, then ask",
            format!(
                "{} ctl --admin 127.0.0.1:{} explain thermo-1",
                super::program(),
                layout.admin_port
            ),
        ),
    ]
}
