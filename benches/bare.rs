//! The least a TLS-PSK server can do: OpenSSL's handshake, CONNACK, silence. `benches/compare
//! storm` holds the gateway's processor time per connect against this one's.
//!
//! `cargo bench --bench bare -- serve PORT FILE`, FILE with lines `identity:hex key`. It serves
//! until it is killed. Without `serve` it does nothing, so that `cargo bench` can pass over it.

use openssl::ssl::{Ssl, SslContext, SslMethod, SslMode, SslOptions, SslSessionCacheMode};
use std::collections::HashMap;
use std::pin::Pin;
use std::process::ExitCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_openssl::SslStream;

type Keys = HashMap<Vec<u8>, Vec<u8>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let at = arguments.iter().position(|argument| argument == "serve");
    let Some([port, file]) = at.and_then(|at| arguments.get(at + 1..at + 3)) else {
        println!("bare: the reference server of benches/compare; `-- serve PORT FILE` starts it");
        return ExitCode::SUCCESS;
    };
    let port: u16 = port.parse().expect("a port");
    let text = std::fs::read_to_string(file).expect("a readable file");
    let context = context(keys(&text));
    // One worker per processor it may use, as the gateway has.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(serve(port, context));
    ExitCode::SUCCESS
}

fn keys(text: &str) -> Keys {
    let line = |line: &str| {
        let (identity, hex) = line.split_once(':')?;
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let key: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
        Some((identity.as_bytes().to_vec(), key?))
    };
    text.lines().filter_map(line).collect()
}

fn context(keys: Keys) -> SslContext {
    let mut builder = SslContext::builder(SslMethod::tls_server()).expect("a context");
    // Nothing but the handshake asked for: no tickets, no sessions kept, no idle buffers.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_num_tickets(0).expect("no tickets");
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    builder.set_psk_server_callback(move |_, identity, out| {
        let Some(key) = identity.and_then(|identity| keys.get(identity)) else {
            return Ok(0);
        };
        out[..key.len()].copy_from_slice(key);
        Ok(key.len())
    });
    builder.build()
}

async fn serve(port: u16, context: SslContext) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.set_nonblocking(true).expect("non-blocking");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    socket.bind(&address.into()).expect("a free port");
    socket.listen(4096).expect("a listener");
    let listener = TcpListener::from_std(socket.into()).expect("registered");
    println!("listening {address}");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let ssl = Ssl::new(&context).expect("memory for a connection");
                tokio::spawn(device(ssl, stream));
            }
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

/// Handshake, one read for CONNECT, CONNACK, and reading until the device goes.
async fn device(ssl: Ssl, stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut stream = Box::new(SslStream::new(ssl, stream).ok()?);
    Pin::new(&mut *stream).accept().await.ok()?;
    let mut scratch = [0; 512];
    if stream.read(&mut scratch).await.ok()? == 0 {
        return None;
    }
    stream.write_all(&[0x20, 2, 0, 0]).await.ok()?;
    while stream.read(&mut scratch).await.ok()? > 0 {}
    Some(())
}
