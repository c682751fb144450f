//! The status page in a real browser, Debian's Chromium; `tests/run` installs it.

use crate::support::device::{Device, Transport, Who};
use crate::support::{Bench, Options, PSK, http};
use std::process::Command;

/// The page as it stands once its script has run, and what the browser complained of.
async fn page(bench: &Bench, query: &str) -> (String, String) {
    let url = format!("http://{}/{query}", bench.gateway.admin());
    let mut browser = Command::new("chromium");
    let profile = bench.dir.join("browser");
    let picture = bench.dir.join("page.png");
    browser
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", picture.display()))
        .args([
            "--window-size=1280,1400",
            "--virtual-time-budget=4000",
            "--dump-dom",
        ])
        .arg(url);
    let run = move || {
        browser
            .output()
            .expect("chromium runs; tests/run installs it")
    };
    let done = tokio::task::spawn_blocking(run).await.expect("joined");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let complaints = text(&done.stderr);
    let complaints = complaints.lines().filter(|line| line.contains("CONSOLE"));
    (
        text(&done.stdout),
        complaints.collect::<Vec<_>>().join("\n"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_hub_devices_refusals_and_one_device_and_asks_nobody_else() {
    let bench = Bench::start("page", Options::default()).await;
    let psk = |key: &[u8]| Transport::psk("psk-1", key);
    let hostile = Who::id("<img src=x onerror=alert(1)>");
    let _ = Device::try_connect(bench.mqtt(), &psk(PSK), &hostile).await;
    let wrong = psk(b"wrong-key-123456");
    let _ = Device::try_connect(bench.mqtt(), &wrong, &Who::id("psk-1")).await;
    let mut device = Device::connect(bench.mqtt(), &psk(PSK), &Who::id("psk-1")).await;
    let events = "devices/psk-1/messages/events/";
    device.publish(events, b"x").await.expect("PUBACK");

    let (dom, complaints) = page(&bench, "?id=psk-1").await;
    assert_eq!(complaints, "", "{dom}");
    for shown in [
        "test.azure-devices.net",
        "2 of 2 with a valid token",
        ">psk</dt><dd>1</dd>",
        "psk_wrong_key",
        "admitted by</dt><dd>device psk-1",
        "--reason psk_wrong_key",
        "&lt;img src=x onerror=alert(1)&gt;",
    ] {
        assert!(dom.contains(shown), "{shown} in\n{dom}");
    }
    for never in ["<img", "MARKER", "https://", "sig="] {
        assert!(!dom.contains(never), "{never} in\n{dom}");
    }
    let address = bench.gateway.admin();
    let files = ["/", "/page.css", "/page.js"].map(|path| http::get(address, path));
    assert!(files.iter().all(|file| file.len() < 16 * 1024));
}
