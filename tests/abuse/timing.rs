//! T-2: an unknown identity and a wrong credential look alike and take the same time.
//!
//! Samples of both are taken in turns, in random order, from the client's last byte to the end of
//! the connection. They are enough when medians are within 5 % and Welch's t of the samples below
//! the 90th percentile is below 4.5. A busy machine needs more of them; a difference that is
//! there does not go away with more.

use crate::raw::{Connect, field, options};
use crate::support::device::Transport;
use crate::support::{Bench, HUB, now, sas};
use iothub_gateway::runtime::clock;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// Samples of each kind before the first judgement, and at most.
const ENOUGH: usize = 1_500;
const AT_MOST: usize = 12_000;
const BATCH: usize = 500;

/// One refused attempt: what is sent first, up to which bytes the answer is read, what is sent
/// then. The time counts from there.
struct Attempt {
    address: SocketAddr,
    opening: Vec<u8>,
    until: &'static [u8],
    last: Vec<u8>,
}

impl Attempt {
    /// Seconds to the end, and the last bytes of the answer.
    fn run(&self) -> (f64, Vec<u8>) {
        let mut tcp = TcpStream::connect(self.address).expect("connected");
        tcp.set_nodelay(true).expect("an option");
        tcp.set_read_timeout(Some(Duration::from_secs(20)))
            .expect("an option");
        if !self.opening.is_empty() {
            tcp.write_all(&self.opening).expect("sent");
            let mut seen = Vec::new();
            let mut chunk = [0; 4096];
            while !seen.ends_with(self.until) {
                let count = tcp.read(&mut chunk).expect("an answer");
                assert!(count > 0, "closed too early");
                seen.extend(&chunk[..count]);
            }
        }
        let mut answer = Vec::new();
        let begun = clock::mono();
        tcp.write_all(&self.last).expect("sent");
        tcp.read_to_end(&mut answer).expect("an end");
        let took = clock::mono().since(begun).as_secs_f64();
        (took, answer)
    }
}

/// Takes samples until they are alike, or panics at the bound.
fn assert_alike(name: &str, pair: &[Attempt; 2]) {
    let mut times = [Vec::new(), Vec::new()];
    let answers = [pair[0].run().1, pair[1].run().1];
    assert_eq!(
        answers[0], answers[1],
        "{name}: the same alert or return code"
    );
    assert!(!answers[0].is_empty(), "{name}: an answer");
    let mut order = [0; BATCH];
    while times[0].len() < AT_MOST {
        getrandom::fill(&mut order).expect("random bytes");
        for bit in order {
            let arm = usize::from(bit & 1);
            let (took, answer) = pair[arm].run();
            assert_eq!(answer, answers[0], "{name}");
            times[arm].push(took);
        }
        if times.iter().any(|arm| arm.len() < ENOUGH) {
            continue;
        }
        if let Ok(figures) = verdict(&times) {
            println!("{name}: {figures}, {} samples of each", times[0].len());
            return;
        }
    }
    let problem = verdict(&times).expect_err("judged above");
    panic!("{name}: {problem}, {AT_MOST} samples of each");
}

/// The figures; `Err` when the two can be told apart.
fn verdict(times: &[Vec<f64>; 2]) -> Result<String, String> {
    let mut sorted = times.clone();
    for arm in &mut sorted {
        arm.sort_by(f64::total_cmp);
    }
    let median = |arm: &[f64]| arm[arm.len() / 2];
    let (a, b) = (median(&sorted[0]), median(&sorted[1]));
    let apart = (a - b).abs() / a.min(b);
    let mut all = sorted.concat();
    all.sort_by(f64::total_cmp);
    let cut = all[all.len() * 9 / 10];
    let trimmed = sorted.map(|mut arm| {
        arm.retain(|time| *time <= cut);
        arm
    });
    let t = welch(&trimmed[0], &trimmed[1]);
    let figures = format!(
        "medians {:.1} and {:.1} µs ({:.1} % apart), t = {t:.1}",
        a * 1e6,
        b * 1e6,
        apart * 100.0
    );
    match apart < 0.05 && t.abs() < 4.5 {
        true => Ok(figures),
        false => Err(figures),
    }
}

fn welch(a: &[f64], b: &[f64]) -> f64 {
    let moments = |arm: &[f64]| {
        let count = arm.len() as f64;
        let mean = arm.iter().sum::<f64>() / count;
        let variance = arm.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((mean_a, error_a), (mean_b, error_b)) = (moments(a), moments(b));
    (mean_a - mean_b) / (error_a + error_b).sqrt()
}

/// The first record a client with this identity and key sends.
pub async fn hello(identity: &str, key: &[u8], tls13: bool) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let transport = Transport::Psk {
        identity: identity.to_owned(),
        key: key.to_vec(),
        tls13,
    };
    let client = async {
        let opened = crate::support::device::open(address, &transport).await;
        assert!(opened.is_err(), "nobody answers");
    };
    let server = async {
        let (mut tcp, _) = listener.accept().await.expect("the client");
        let mut record = vec![0; 5];
        tcp.read_exact(&mut record).await.expect("a header");
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + length, 0);
        tcp.read_exact(&mut record[5..]).await.expect("a record");
        record
    };
    tokio::join!(client, server).1
}

async fn psk13(address: SocketAddr) -> [Attempt; 2] {
    let attempt = |hello| Attempt {
        address,
        opening: Vec::new(),
        until: b"",
        last: hello,
    };
    let wrong = b"no device's key!";
    [
        attempt(hello("psk-1", wrong, true).await),
        attempt(hello("psk-9", wrong, true).await),
    ]
}

async fn psk12(address: SocketAddr) -> [Attempt; 2] {
    let hello = hello("psk-1", b"no device's key!", false).await;
    let attempt = |identity: &[u8]| {
        let identity = field(identity);
        let length = u8::try_from(identity.len()).expect("short");
        let exchange = [&[16, 0, 0, length], &identity[..]].concat();
        let mut last = vec![22, 3, 3, 0, length + 4];
        last.extend(exchange);
        // ChangeCipherSpec, and a Finished no key made.
        last.extend([20, 3, 3, 0, 1, 1]);
        last.extend([22, 3, 3, 0, 40]);
        last.extend([9; 40]);
        Attempt {
            address,
            opening: hello.clone(),
            // ServerHelloDone
            until: &[14, 0, 0, 0],
            last,
        }
    };
    [attempt(b"psk-1"), attempt(b"psk-9")]
}

fn connects(address: SocketAddr, wrong: &Connect, unknown: &Connect) -> [Attempt; 2] {
    let attempt = |connect: &Connect| Attempt {
        address,
        opening: Vec::new(),
        until: b"",
        last: connect.packet(),
    };
    [attempt(wrong), attempt(unknown)]
}

fn sas_pair(address: SocketAddr) -> [Attempt; 2] {
    let ends = now() + 3600;
    let with = |id: &str| {
        let token = sas(b"no device's key!", &format!("{HUB}/devices/{id}"), ends);
        Connect::id(id).login(
            Some(&format!("{HUB}/{id}/?api-version=2021-04-12")),
            Some(token.as_bytes()),
        )
    };
    connects(address, &with("sas-1"), &with("sas-9"))
}

fn password_pair(address: SocketAddr) -> [Attempt; 2] {
    let with = |id: &str| Connect::id(id).login(Some(id), Some(b"no password"));
    connects(address, &with("pass-1"), &with("pass-9"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_identity_and_a_wrong_credential_take_the_same_time() {
    let bench = Bench::start("timing", options("")).await;
    let kinds = [
        ("PSK in TLS 1.3", psk13(bench.mqtt()).await),
        ("PSK in TLS 1.2", psk12(bench.mqtt()).await),
        ("SAS", sas_pair(bench.plain())),
        ("password", password_pair(bench.plain())),
    ];
    let sampled = tokio::task::spawn_blocking(move || {
        for (name, pair) in &kinds {
            assert_alike(name, pair);
        }
    });
    sampled.await.expect("alike");
    for reason in ["psk_wrong_key", "psk_unknown"] {
        let label = format!("result=\"{reason}\"");
        for version in ["tls_version=\"1.2\"", "tls_version=\"1.3\""] {
            let count = bench.metric("handshakes_total", &[&label, version]).await;
            assert!(count >= 1_500.0, "{reason}: {count}");
        }
    }
    for reason in ["sas_signature", "device_unknown", "bad_password"] {
        let label = format!("result=\"{reason}\"");
        assert!(
            bench.metric("connects_total", &[&label]).await >= 1_500.0,
            "{reason}"
        );
    }
}

#[test]
fn a_difference_of_a_tenth_is_found_and_noise_is_not() {
    let noise = |seed: u64, scale: f64| -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f64 / f64::from(1 << 24)
        };
        (0..2000).map(|_| scale * (1.0 + 0.3 * next())).collect()
    };
    assert!(verdict(&[noise(1, 1e-3), noise(2, 1e-3)]).is_ok());
    assert!(verdict(&[noise(1, 1e-3), noise(2, 1.1e-3)]).is_err());
    assert!(
        verdict(&[noise(1, 1e-3), noise(2, 1.02e-3)]).is_err(),
        "t finds what medians allow"
    );
}
