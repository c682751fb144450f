//! How large the records are that a device with small buffers gets, as OpenSSL's client sees them.

use crate::outside::{ANSWER, outside};
use crate::support::{KEY, Site};
use iothub_gateway::tls::Acceptor;
use std::fmt::Write as _;
use std::sync::Arc;

/// What encryption adds to a record at most: CBC with SHA-256 in TLS 1.2.
const OVERHEAD: usize = 16 + 32 + 16;

/// Lengths of the records the server sent to `s_client` with these words.
async fn records(acceptor: &Arc<Acceptor>, words: &str) -> Vec<usize> {
    let key = KEY.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let words = words.replace("KEY", &format!("-psk_identity dev-1 -psk {key}"));
    let (server, output) = outside(acceptor, "openssl", |address| {
        let all = format!("s_client -quiet -msg -connect {address} {words}");
        all.split_whitespace().map(str::to_owned).collect()
    })
    .await;
    assert!(server.is_ok(), "{server:?}\n{output}");
    let mut lines = output.lines();
    let mut lengths = Vec::new();
    while let Some(line) = lines.next() {
        // What was received stands before it on the line.
        if !(line.contains("<<< ") && line.contains("RecordHeader")) {
            continue;
        }
        let bytes: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        lengths.push(usize::from_str_radix(&bytes[3..5].concat(), 16).unwrap());
    }
    assert!(
        lengths.iter().sum::<usize>() > ANSWER,
        "{words}: {lengths:?}"
    );
    lengths
}

const CLIENTS: [&str; 4] = [
    "-tls1_3",
    "-tls1_2",
    "-tls1_3 KEY",
    "-tls1_2 -cipher PSK-AES128-GCM-SHA256 KEY",
];

fn longest(lengths: &[usize]) -> usize {
    lengths.iter().copied().max().unwrap()
}

#[tokio::test]
async fn without_a_bound_an_answer_is_one_record() {
    let acceptor = Site::new().acceptor();
    for client in CLIENTS {
        let lengths = records(&acceptor, client).await;
        assert!(longest(&lengths) > ANSWER, "{client}: {lengths:?}");
    }
}

#[tokio::test]
async fn the_listener_bounds_every_record_handshake_included() {
    let mut site = Site::new();
    for bytes in [256, 1024] {
        site.tls().record_bytes = Some(bytes);
        let acceptor = site.acceptor();
        for client in CLIENTS {
            let lengths = records(&acceptor, client).await;
            assert!(
                longest(&lengths) <= bytes + OVERHEAD,
                "{client}: {lengths:?}"
            );
        }
    }
}

/// Not the handshake: a client whose wish was not agreed on has to take it whole.
#[tokio::test]
async fn a_client_that_asks_for_small_records_gets_them_with_a_certificate_too() {
    let acceptor = Site::new().acceptor();
    for bytes in [512, 1024] {
        for client in CLIENTS {
            let lengths = records(&acceptor, &format!("{client} -maxfraglen {bytes}")).await;
            let mut sum = 0;
            let answer = lengths.iter().rev().take_while(|length| {
                sum += **length;
                sum < ANSWER + 10 * OVERHEAD
            });
            let answer: Vec<_> = answer.copied().collect();
            assert!(answer.len() > ANSWER / bytes, "{client}: {lengths:?}");
            assert!(
                longest(&answer) <= bytes + OVERHEAD,
                "{client}: {lengths:?}"
            );
        }
    }
}
