//! Marked secrets are searched for in everything the gateway says.

use crate::support::device::{Device, Transport, Who};
use crate::support::process::{free_port, signal};
use crate::support::{
    DEVICE_KEY, HUB, Options, PASSWORD, POLICY_KEY, PSK, amqps_port, gateway_toml, http, hub_in,
    now, sas, scratch,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The gateway as a process that writes its log to `log`, once it is ready.
async fn start(config: &Path, log: &Path, admin: SocketAddr) -> Child {
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
        .args(["run", "-c"])
        .arg(config)
        .stderr(Stdio::from(std::fs::File::create(log).expect("log file")))
        .spawn()
        .expect("the binary starts");
    let ready = || {
        let up = std::net::TcpStream::connect(admin).is_ok();
        up && http::request(admin, "GET", "/ready", "").0 == 200
    };
    for _ in 0..400 {
        if ready() {
            return gateway;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gateway.kill().expect("killed");
    gateway.wait().expect("reaped");
    panic!(
        "not ready: {}",
        std::fs::read_to_string(log).unwrap_or_default()
    );
}

/// Right and wrong credentials of every kind; gives every token that was used.
async fn use_every_credential(address: SocketAddr, ca: &Path) -> Vec<String> {
    let tls = Transport::Tls {
        ca: ca.to_owned(),
        certificate: None,
    };
    let psk = |key: &[u8]| Transport::Psk {
        identity: "psk-1".to_owned(),
        key: key.to_vec(),
        tls13: true,
    };
    let scope = format!("{HUB}/devices/sas-1");
    let good = sas(DEVICE_KEY, &scope, now() + 3600);
    let expired = sas(DEVICE_KEY, &scope, now() - 3600);
    let user = format!("{HUB}/sas-1/?api-version=2021-04-12");
    for (transport, who) in [
        (psk(PSK), Who::id("psk-1")),
        (psk(b"MARKER-WRONG-PSK"), Who::id("psk-1")),
        (tls.clone(), Who::login("sas-1", &user, &good)),
        (tls.clone(), Who::login("sas-1", &user, &expired)),
        (tls.clone(), Who::login("pass-1", "pass-1", PASSWORD)),
        (tls, Who::login("pass-1", "pass-1", "MARKER-WRONG-PASSWORD")),
    ] {
        if let Ok(Ok(mut device)) = Device::try_connect(address, &transport, &who).await {
            let topic = format!("devices/{}/messages/events/", who.client_id);
            device.publish(&topic, b"x").await.expect("PUBACK");
            device.goodbye().await.expect("closed");
        }
    }
    let signature = |token: &str| {
        let after = token.split("sig=").nth(1).expect("a signature");
        after.split('&').next().expect("a first part").to_owned()
    };
    vec![signature(&good), signature(&expired), good, expired]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_at_trace_level_in_metrics_or_in_arguments() {
    let options = Options::default();
    let dir = scratch("secrets");
    let emulator = hub_in(&dir, &options).await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(&options, amqps_port(&emulator), mqtt, plain, admin);
    let filter = "trace,rustls=trace,hyper=trace,mio=trace,tokio=trace";
    std::fs::write(&config, format!("{text}[log]\nfilter = \"{filter}\"\n")).expect("written");
    let (log, admin) = (dir.join("log"), loopback(admin));
    let mut gateway = start(&config, &log, admin).await;

    let mut secrets = use_every_credential(loopback(mqtt), &dir.join("ca.pem")).await;
    let metrics = tokio::task::spawn_blocking(move || {
        http::get(admin, "/metrics") + &http::request(admin, "GET", "/ready", "").1
    });
    let metrics = metrics.await.expect("scraped");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", gateway.id())).expect("cmdline");
    signal(&gateway, "TERM");
    let ended = tokio::task::spawn_blocking(move || gateway.wait().expect("reaped"));
    assert!(ended.await.expect("joined").success());

    let log = std::fs::read_to_string(&log).expect("log");
    assert!(
        log.contains(" level=trace ") && log.contains("psk-1"),
        "at trace level:\n{log}"
    );
    assert!(
        metrics.contains("connects_total{result=\"accepted\"} 3"),
        "{metrics}"
    );
    secrets.push("MARKER".to_owned());
    for key in [POLICY_KEY, DEVICE_KEY, PSK] {
        secrets.push(BASE64.encode(key));
        secrets.push(key.iter().map(|b| format!("{b:02x}")).collect());
    }
    let everything = format!("{log}\n{metrics}\n{}", String::from_utf8_lossy(&arguments));
    for secret in secrets {
        let found = everything.lines().find(|line| line.contains(&secret));
        assert!(found.is_none(), "a secret stands in: {found:?}");
    }
}
