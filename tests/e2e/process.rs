//! The gateway as a process: killed under load, stopped by a signal.

use super::log::Stage;
use crate::support::fleet::{Fleet, judge, ledger};
use crate::support::process::{Process, free_port};
use crate::support::{Options, gateway_toml, hub_in, scratch};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const DEVICES: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_or_stopped_under_load() {
    let options = Options {
        fleet: DEVICES,
        ..Options::default()
    };
    let dir = scratch("killed");
    let emulator = hub_in(&dir, &options).await;
    let (mqtt, plain, admin) = (free_port(), free_port(), free_port());
    let config = dir.join("gateway.toml");
    let text = gateway_toml(
        &options,
        crate::support::amqps_port(&emulator),
        mqtt,
        plain,
        admin,
    );
    std::fs::write(&config, text).expect("written");

    let mut gateway = Process::start(&config);
    let fleet = Fleet::start(SocketAddr::from(([127, 0, 0, 1], mqtt)), DEVICES);
    for _ in 0..3 {
        fleet.flows(5 * DEVICES as u64).await;
        gateway.kill();
        gateway = Process::start(&config);
    }
    fleet.flows(5 * DEVICES as u64).await;
    assert_eq!(gateway.terminate().await, Some(0));

    let mut gateway = Process::start(&config);
    fleet.flows(DEVICES as u64).await;
    let seen = fleet.finish().await;
    gateway.kill();
    let verdict = judge(&ledger(&emulator), &seen);
    assert_eq!(
        (verdict.missing, verdict.foreign, verdict.misordered),
        (0, 0, 0),
        "{verdict:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_drain_is_over_when_the_process_is() {
    const TOKEN: &str = "an-operators-token-0123";
    let stage = Stage::new("drain-wait", "").await;
    let variable = "IOTHUB_GATEWAY__ADMIN__OPERATE_TOKEN";
    let gateway = Process::logging_as(&stage.config, Stdio::null(), variable, TOKEN);
    stage.ready().await;
    let admin = stage.admin.to_string();
    let order = move || {
        Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
            .args(["ctl", "--admin", &admin, "drain", "--wait"])
            .env("IOTHUB_GATEWAY_TOKEN", TOKEN)
            .output()
            .expect("ctl runs")
    };
    let done = tokio::task::spawn_blocking(order).await.expect("joined");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let said = (done.status.code(), text.as_str(), done.stderr.as_slice());
    assert_eq!(
        said,
        (Some(0), "stopped\n", &b""[..]),
        "no terminal, no line"
    );
    assert!(std::net::TcpStream::connect(stage.admin).is_err());
    assert_eq!(gateway.ended().await, Some(0));
}
