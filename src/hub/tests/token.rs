//! The token's life: rotation, outages, jumping clocks, tokens made elsewhere, a busy data path.

use super::fake::FakeHub;
use super::strict::emulator;
use super::{PATIENCE, accepted, config, device, message, start};
use crate::config::secret::Secret;
use crate::config::{HubConfig, TokenSource, TokenUrl};
use crate::hub::environment::Environment;
use crate::hub::{Hub, sas};
use crate::runtime::clock::{self, Unix};
use crate::telemetry::metrics::Metrics;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

fn key_in_use(hub: &Hub) -> &'static str {
    hub.status().key_in_use
}

/// Waits for something that only metrics or status show.
async fn until(what: &str, mut true_: impl FnMut() -> bool) {
    let wait = async {
        while !true_() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect(what);
}

#[tokio::test]
async fn a_revoked_key_is_replaced_within_one_attempt_and_the_way_back_is_found() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.secondary_key = Some(Secret::from("secondary-key"));
    settings.token_ttl = 4 * SECOND;
    settings.renew_at = 0.3;
    let hub = start(settings).await;
    let mut links = device(&hub, "d1");
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    assert_eq!(key_in_use(&hub), "primary");
    fake.signed_with("secondary-key");
    until("the secondary key is used", || {
        key_in_use(&hub) == "secondary"
    })
    .await;
    let seen = fake.seen();
    assert_eq!(
        seen.tokens_refused, 1,
        "one refusal, then the other key at once"
    );
    let gauge = |slot| {
        let metrics = &hub.shared.metrics.token_key_in_use;
        metrics.with_label_values(&[slot]).get()
    };
    assert_eq!((gauge("primary"), gauge("secondary")), (0, 1));
    fake.signed_with("primary-key");
    until("the primary key is used again", || {
        key_in_use(&hub) == "primary"
    })
    .await;
    assert_eq!((gauge("primary"), gauge("secondary")), (1, 0));
    links.send(2, message("x"));
    assert_eq!(accepted(&mut links).await, 2);
    let seen = fake.seen();
    assert_eq!((seen.connections, seen.detaches), (1, 0));
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn renewals_refused_until_the_end_are_bounded_and_the_device_stays() {
    let fake = FakeHub::start().await;
    let mut settings = config(fake.port);
    settings.token_ttl = 3 * SECOND;
    settings.renew_at = 0.3;
    let hub = start(settings).await;
    let mut links = device(&hub, "d1");
    links.send(1, message("x"));
    assert_eq!(accepted(&mut links).await, 1);
    fake.signed_with("another-key");
    let mut ready = hub.shared.ready.subscribe();
    let refused = fake.until(|seen| seen.tokens_refused >= 1).await;
    assert_eq!(*ready.borrow(), 1, "the token is kept while it lives");
    assert_eq!(refused.detaches, 0);
    timeout(PATIENCE, ready.wait_for(|n| *n == 0))
        .await
        .unwrap()
        .unwrap();
    assert!(hub.status().problem.contains("token"), "{:?}", hub.status());
    let mut late = device(&hub, "d2");
    late.send(1, message("waits for a token"));
    let waits = timeout(SECOND, late.next()).await;
    assert!(waits.is_err(), "{waits:?}");
    // Back-off of 20 to 200 ms, and not one put for each device that waits.
    let attempts = fake.seen().tokens_refused;
    assert!((3..60).contains(&attempts), "{attempts} attempts");
    fake.signed_with("primary-key");
    assert_eq!(accepted(&mut late).await, 1);
    links.send(2, message("x"));
    assert_eq!(accepted(&mut links).await, 2);
    assert_eq!(fake.seen().connections, 1);
    assert!(hub.shutdown(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_an_hour_either_way_costs_nobody_anything() {
    for jump in [3600, -3600] {
        let (emulator, mut settings) = emulator(1).await;
        settings.token_ttl = 20 * SECOND;
        let off = Arc::new(AtomicI64::new(0));
        let wall = {
            let off = Arc::clone(&off);
            move || {
                let off = off.load(Ordering::Relaxed);
                let now = clock::unix().as_secs();
                Unix::from_secs(now.saturating_add_signed(off))
            }
        };
        let metrics = Arc::new(Metrics::new());
        let world = Environment {
            wall: Arc::new(wall),
            ..Environment::default()
        };
        let causes = Arc::new(crate::telemetry::causes::Causes::new(1));
        let hub = Hub::start_in(world, Arc::new(settings), Arc::clone(&metrics), causes);
        assert!(hub.ready(PATIENCE).await);
        let mut links = device(&hub, "load-0");
        links.send(0, message("x"));
        assert_eq!(accepted(&mut links).await, 0);
        let put = emulator.stats().tokens_put;
        off.store(jump, Ordering::Relaxed);
        until("the jump is answered", || emulator.stats().tokens_put > put).await;
        // Corrected again, and once more away: each is one renewal, not a storm.
        for off_by in [0, jump] {
            let put = emulator.stats().tokens_put;
            off.store(off_by, Ordering::Relaxed);
            until_put_or_quiet(&emulator, put).await;
        }
        links.send(1, message("x"));
        assert_eq!(accepted(&mut links).await, 1);
        let stats = emulator.stats();
        assert!(stats.tokens_put <= 6, "{jump}: {stats:?}");
        assert!(stats.tokens_refused <= 3, "{jump}: {stats:?}");
        assert_eq!((stats.connections_total, stats.detaches_token), (1, 0));
        assert_eq!(*hub.shared.ready.borrow(), 1);
        assert!(hub.shutdown(PATIENCE).await);
    }
}

/// A jump back to a time the hub is known to share needs no renewal.
async fn until_put_or_quiet(emulator: &crate::emulator::EmulatorHandle, put: u64) {
    for _ in 0..30 {
        if emulator.stats().tokens_put > put {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A token somebody else made, good for `life`.
pub(super) fn ready_made(life: Duration) -> String {
    let wall = clock::unix() + life;
    let scope = "myhub.azure-devices.net/devices";
    let token = sas::mint(scope, "device", &Secret::from("primary-key"), wall);
    token.expose_str().unwrap().to_owned()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("iothub-gateway-{}-{name}", std::process::id()))
}

/// As a side-car does: whole or not at all, and for us alone.
fn rewrite(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[tokio::test]
async fn a_token_file_is_followed_and_its_end_counts() {
    let fake = FakeHub::start().await;
    let path = scratch("token");
    let mut settings = config(fake.port);
    settings.token_source = TokenSource::File {
        path: path.clone(),
        insecure_permissions: false,
    };
    let hub = Hub::start(Arc::new(settings), Arc::new(Metrics::new()));
    assert!(!hub.ready(Duration::from_millis(300)).await);
    assert!(hub.status().problem.contains("token"), "{:?}", hub.status());
    rewrite(&path, &ready_made(60 * SECOND));
    assert!(hub.ready(PATIENCE).await, "{:?}", hub.status());
    assert_eq!(key_in_use(&hub), "file");
    assert_eq!(fake.seen().tokens, 1);

    rewrite(&path, &ready_made(5 * SECOND));
    fake.until(|seen| seen.tokens == 2).await;
    until("the newer end counts", || {
        let left = hub.status().token_expiry.map(|at| at.since(clock::unix()));
        left.is_some_and(|left| left <= 6 * SECOND)
    })
    .await;
    // Nobody renews it: it is reported before the end, and not put again and again.
    until("a late writer is reported", || {
        hub.status().problem.contains("none newer")
    })
    .await;
    assert_eq!(fake.seen().tokens, 2);
    rewrite(&path, "what is this\n");
    until("nonsense is reported", || {
        hub.status().problem.contains("no SAS token")
    })
    .await;
    let mut ready = hub.shared.ready.subscribe();
    timeout(PATIENCE, ready.wait_for(|n| *n == 0))
        .await
        .unwrap()
        .unwrap();
    rewrite(&path, &format!("{}\n", ready_made(60 * SECOND)));
    assert!(hub.ready(PATIENCE).await, "{:?}", hub.status());
    until("all is well", || hub.status().problem.is_empty()).await;
    assert_eq!(fake.seen().connections, 1);
    assert!(hub.shutdown(PATIENCE).await);
    std::fs::remove_file(path).unwrap();
}

/// A token service that answers with `status`, and counts what it is asked.
async fn service(status: Arc<AtomicU32>, asked: Arc<AtomicU32>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let line = "GET /t?code=1&sr=myhub.azure-devices.net%2Fdevices HTTP/1.1\r\n";
            assert!(request.starts_with(line), "{request}");
            asked.fetch_add(1, Ordering::SeqCst);
            let token = ready_made(5 * SECOND);
            let answer = match status.load(Ordering::SeqCst) {
                200 => format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{token}",
                    token.len()
                ),
                status => format!("HTTP/1.1 {status} Sorry\r\n\r\n"),
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn a_token_service_is_asked_once_a_period_for_all_connections() {
    let fake = FakeHub::start().await;
    let status = Arc::new(AtomicU32::new(503));
    let asked = Arc::new(AtomicU32::new(0));
    let port = service(Arc::clone(&status), Arc::clone(&asked)).await;
    let mut settings = config(fake.port);
    settings.connections = 2;
    settings.renew_at = 0.5;
    let url = TokenUrl::parse(&format!("http://127.0.0.1:{port}/t?code=1")).unwrap();
    settings.token_source = TokenSource::Url(url);
    let hub = Hub::start(Arc::new(settings), Arc::new(Metrics::new()));
    assert!(!hub.ready(Duration::from_millis(500)).await);
    let problem = hub.status().problem;
    assert!(
        problem.contains("status 503") && !problem.contains("code=1"),
        "{problem}"
    );
    let early = asked.load(Ordering::SeqCst);
    assert!(early <= 2, "{early} requests in half a second of back-off");
    status.store(200, Ordering::SeqCst);
    assert!(hub.ready(PATIENCE).await, "{:?}", hub.status());
    assert_eq!(key_in_use(&hub), "service");
    let before = asked.load(Ordering::SeqCst);
    let seen = fake.until(|seen| seen.tokens == 6).await;
    let renewals = asked.load(Ordering::SeqCst) - before;
    assert!(
        (2..=3).contains(&renewals),
        "{renewals} requests for three periods"
    );
    // Down for a while: the token at hand lives on.
    status.store(500, Ordering::SeqCst);
    let down = asked.load(Ordering::SeqCst);
    until("it is asked again", || {
        asked.load(Ordering::SeqCst) >= down + 2
    })
    .await;
    assert_eq!(*hub.shared.ready.borrow(), 2);
    status.store(200, Ordering::SeqCst);
    fake.until(|later| later.tokens >= seen.tokens + 2).await;
    assert_eq!(fake.seen().connections, 2);
    assert!(hub.shutdown(PATIENCE).await);
}

#[test]
fn a_saturated_data_path_delays_no_renewal() {
    let runtime = |threads| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .unwrap()
    };
    let (hubs, data) = (runtime(1), runtime(2));
    let fake = hubs.block_on(FakeHub::start());
    let settings = HubConfig {
        token_ttl: 4 * SECOND,
        renew_at: 0.5,
        ..config(fake.port)
    };
    let hub = data.block_on(start(settings));
    // Every thread of the data path is taken for a third of a second at a time.
    for _ in 0..4 {
        data.spawn(async {
            loop {
                std::thread::sleep(Duration::from_millis(330));
                tokio::task::yield_now().await;
            }
        });
    }
    let mut ready = hub.shared.ready.subscribe();
    hubs.block_on(async {
        let lost = timeout(10 * SECOND, ready.wait_for(|n| *n == 0)).await;
        assert!(
            lost.is_err(),
            "a moment without a token: {:?}",
            hub.status()
        );
    });
    let seen = fake.seen();
    assert!(seen.tokens >= 4, "{} renewals in ten seconds", seen.tokens);
    assert_eq!(seen.connections, 1);
    let late = hub.shared.late_ms.load(Ordering::Relaxed);
    assert!(late < 250, "decided {late} ms late");
    data.shutdown_background();
}
