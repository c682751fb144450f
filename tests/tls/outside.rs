//! Programs as clients.

use crate::support::PATIENCE;
use iothub_gateway::tls::{Acceptor, HandshakeError, Peer};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Bytes a program gets for its line.
pub const ANSWER: usize = 3000;

/// One connection of a program, which gets the address, sends one line and reads until the
/// server closes; answers what it printed.
pub async fn outside(
    acceptor: &Arc<Acceptor>,
    program: impl AsRef<std::ffi::OsStr>,
    words: impl FnOnce(&str) -> Vec<String>,
) -> (Result<Peer, HandshakeError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Command::new("timeout")
        .arg("30")
        .arg(program)
        .args(words(&address))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    let _ = input.write_all(b"*\n");
    let client = tokio::task::spawn_blocking(move || {
        let output = client.wait_with_output().unwrap();
        drop(input);
        [output.stdout, output.stderr].concat()
    });
    let server = async {
        let dialled = tokio::time::timeout(PATIENCE, listener.accept()).await;
        let (tcp, source) = dialled.expect("the program connects").unwrap();
        let accepted = acceptor.accept(tcp, source).await?;
        let mut stream = accepted.stream;
        if stream.read_u8().await.is_ok() {
            let _ = stream.write_all(&[b'*'; ANSWER]).await;
            let _ = stream.shutdown().await;
        }
        Ok(accepted.peer)
    };
    let both = async { tokio::join!(server, client) };
    let (server, output) = tokio::time::timeout(PATIENCE * 2, both).await.unwrap();
    (
        server,
        String::from_utf8_lossy(&output.unwrap()).into_owned(),
    )
}
