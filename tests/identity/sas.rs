//! A SAS token ends while its device is connected.

use crate::support::device::{Device, Who};
use crate::support::{DEVICE_KEY, HUB, Options, now, sas};
use crate::{closed, counted, logged, reloaded, replace, start};
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_disconnected_when_its_token_ends_and_told_why() {
    let bench = start("sas-expiry", Options::default()).await;
    let rules = bench.dir.join("rules.toml");
    let text = fs::read_to_string(&rules).expect("rules");
    replace(&rules, &format!("[sas]\nclock_skew = \"0s\"\n{text}"));
    reloaded(&bench, "ok", 1.0).await;
    let user = format!("{HUB}/sas-1/?api-version=2021-04-12");
    let end = now() + 3;
    let token = sas(DEVICE_KEY, &format!("{HUB}/devices/sas-1"), end);
    let who = Who::login("sas-1", &user, &token);
    let mut device = Device::connect(bench.mqtt(), &bench.tls(), &who).await;
    device.ping().await.expect("served while the token lives");
    closed(&mut device).await;
    assert!((end..end + 10).contains(&now()), "not before its end");
    counted(&bench, "credential_expired", 1.0).await;
    assert!(logged(&[
        "sas-1",
        "credential_expired",
        "connect with a new one"
    ]));
    let again = Device::try_connect(bench.mqtt(), &bench.tls(), &who).await;
    assert!(again.expect("an answer").is_err(), "the token is over");
}
