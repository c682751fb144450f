//! `openssl s_client` as a device: MQTT bytes through its standard input and output.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// Ends the process with the test.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects with a PSK over TLS 1.2, publishes `body` at QoS 1, waits for the PUBACK, leaves.
pub fn publish(address: SocketAddr, suite: &str, id: &str, key: &[u8], body: &str) {
    let key = key.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    // `-quiet` keeps its own words out of the output and its commands out of the input.
    let client = Command::new("timeout")
        .args([
            "30", "openssl", "s_client", "-quiet", "-tls1_2", "-cipher", suite,
        ])
        .args([
            "-connect",
            &address.to_string(),
            "-psk_identity",
            id,
            "-psk",
            &key,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    let mut client = Client(client);
    let mut input = client.0.stdin.take().expect("piped");
    let mut output = client.0.stdout.take().expect("piped");
    let mut connect = b"\0\x04MQTT\x04\x02\0\x3c".to_vec();
    connect.extend(field(id));
    input.write_all(&packet(0x10, &connect)).expect("CONNECT");
    input.flush().expect("CONNECT");
    assert_eq!(answer(&mut output), [0x20, 2, 0, 0], "{suite}: CONNACK 0");
    let mut publish = field(&format!("devices/{id}/messages/events/"));
    publish.extend([0, 1]);
    publish.extend(body.as_bytes());
    input.write_all(&packet(0x32, &publish)).expect("PUBLISH");
    input.flush().expect("PUBLISH");
    assert_eq!(answer(&mut output), [0x40, 2, 0, 1], "{suite}: PUBACK");
    input.write_all(&[0xE0, 0]).expect("DISCONNECT");
    input.flush().expect("DISCONNECT");
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest, b"", "{suite}");
}

fn answer(output: &mut impl Read) -> [u8; 4] {
    let mut bytes = [0; 4];
    output.read_exact(&mut bytes).expect("an answer");
    bytes
}

fn field(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("short").to_be_bytes();
    [&length, text.as_bytes()].concat()
}

/// Short enough for a length of one byte.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).ok().filter(|length| *length < 128);
    let head = [first, length.expect("short")];
    [&head, body].concat()
}
