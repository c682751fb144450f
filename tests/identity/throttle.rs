//! Guessing is slowed down, and only for the one who guesses.

use crate::support::device::{Device, Who, open_from};
use crate::support::{Options, PASSWORD};
use crate::{PATIENCE, counted, ended, psk, start};
use bytes::BytesMut;
use mqttbytes::v4::{Connect, Login};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const BAD: [u8; 4] = [127, 0, 0, 2];
const GOOD: [u8; 4] = [127, 0, 0, 3];

/// One plain CONNECT with user `pass-1` from this address: the return code, or `None` when the
/// socket was closed without one.
async fn connect(from: [u8; 4], to: SocketAddr, password: &str) -> Option<u8> {
    login(from, to, "pass-1", password).await
}

/// The same with any user.
async fn login(from: [u8; 4], to: SocketAddr, user: &str, password: &str) -> Option<u8> {
    let attempt = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let mut stream = socket.connect(to).await?;
        let mut connect = Connect::new(user);
        connect.login = Some(Login {
            username: user.to_owned(),
            password: password.to_owned(),
        });
        let mut out = BytesMut::new();
        connect.write(&mut out).expect("fits");
        stream.write_all(&out).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        // Goodbye, so that the next connection takes nothing over.
        if answer[3] == 0 {
            stream.write_all(&[0xE0, 0]).await?;
            while stream.read(&mut [0; 16]).await? > 0 {}
        }
        std::io::Result::Ok(answer[3])
    };
    let answer = tokio::time::timeout(PATIENCE, attempt).await;
    answer.expect("answered or closed in time").ok()
}

/// The median time of a good login in seconds.
async fn median(to: SocketAddr, logins: usize) -> f64 {
    let mut times = Vec::new();
    for _ in 0..logins {
        #[allow(clippy::disallowed_methods)] // what is measured
        let begun = Instant::now();
        assert_eq!(
            connect(GOOD, to, PASSWORD).await,
            Some(0),
            "an honest login"
        );
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_passwords_is_throttled_and_other_sources_do_not_notice() {
    let mut options = Options::default();
    options
        .gateway
        .push_str("[limits]\ntakeover_damping = \"0s\"\nfailures_per_source = 20\n");
    let bench = start("password-flood", options).await;
    let to = bench.plain();
    median(to, 5).await;
    let quiet = median(to, 40).await;
    let (stop, tried) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let flood = {
        let (stop, tried) = (stop.clone(), tried.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let tried = tried.clone();
                tokio::spawn(async move {
                    let count = tried.fetch_add(1, Ordering::Relaxed);
                    // Every other guess is at another name, so that the source is what waits.
                    let user = format!("pass-{}", if count.is_multiple_of(2) { 1 } else { count });
                    assert_ne!(login(BAD, to, &user, "wrong").await, Some(0));
                });
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let begun = async {
        while tried.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun)
        .await
        .expect("a flood");
    let flooded = median(to, 40).await;
    stop.store(true, Ordering::Relaxed);
    flood.await.expect("the flood ends");
    // Before and after, because the machine may be busy with something else in either.
    let quiet = quiet.max(median(to, 40).await).max(0.002);
    println!("median login: quiet {quiet:.5} s, under the flood {flooded:.5} s");
    assert!(flooded <= 3.0 * quiet, "{quiet} → {flooded}");
    let refused = ended(&bench, "throttled_source").await;
    let tried = tried.load(Ordering::Relaxed) as f64;
    assert!(
        refused >= tried * 0.5,
        "{refused} of {tried} were refused unread"
    );
    assert_eq!(
        connect(GOOD, to, PASSWORD).await,
        Some(0),
        "nobody is locked out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_waits_at_the_source_that_failed_with_it_and_nowhere_else() {
    let bench = start("identity-throttle", Options::default()).await;
    let to = bench.plain();
    for attempt in 0..5 {
        assert!(
            matches!(connect(BAD, to, "wrong").await, Some(4 | 5)),
            "attempt {attempt}"
        );
    }
    // Server unavailable, even with the right password: it is not looked at.
    assert_eq!(connect(BAD, to, PASSWORD).await, Some(3));
    counted(&bench, "throttled_identity", 1.0).await;
    assert_eq!(connect(GOOD, to, PASSWORD).await, Some(0));
    assert_eq!(ended(&bench, "throttled_source").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessed_pre_shared_keys_hold_their_identity_back_and_time_forgives_it() {
    let bench = start("psk-throttle", Options::default()).await;
    for (identity, tls13) in [("psk-1", true), ("nobody", true), ("psk-1", false)] {
        let wrong = psk(identity, b"wrong-key-123456", tls13);
        let before = ended(&bench, "throttled_identity").await;
        for _ in 0..6 {
            let refused = Device::try_connect(bench.mqtt(), &wrong, &Who::id("psk-1")).await;
            assert!(refused.is_err());
        }
        bench
            .reaches("disconnects_total", &["throttled_identity"], before + 1.0)
            .await;
    }
    assert_eq!(
        ended(&bench, "psk_wrong_key").await,
        5.0,
        "five are looked at"
    );
    assert_eq!(ended(&bench, "psk_unknown").await, 5.0);
    assert_eq!(ended(&bench, "throttled_source").await, 0.0);
    // Not even the right key is looked at from here; it is from elsewhere.
    let right = psk("psk-1", crate::support::PSK, true);
    let held = Device::try_connect(bench.mqtt(), &right, &Who::id("psk-1")).await;
    assert!(held.is_err(), "held back");
    let elsewhere = open_from(GOOD, bench.mqtt(), &right).await.expect("TLS");
    let elsewhere = Device::try_connect_over(elsewhere, &Who::id("psk-1")).await;
    assert!(elsewhere.expect("answered").is_ok());
    let corrected = async {
        while !matches!(
            Device::try_connect(bench.mqtt(), &right, &Who::id("psk-1")).await,
            Ok(Ok(_))
        ) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, corrected)
        .await
        .expect("let in again");
}
