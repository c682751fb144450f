//! The policy's keys are rotated at the hub while devices publish: the other key is taken within
//! one attempt, and back again.

use crate::stage::{Damage, Stage, USABLE, shared};
use crate::support::{Options, POLICY_KEY};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const DEVICES: usize = 50;
const TTL: Duration = Duration::from_secs(6);
const PACE: Duration = Duration::from_millis(250);

impl Stage {
    async fn rotate(&self, which: &str, key: &[u8]) {
        let key = BASE64.encode(key);
        let body = format!("{{\"which\":\"{which}\",\"key\":\"{key}\"}}");
        let (status, text) = self
            .bench
            .control("POST", "/policies/device/rotate", &body)
            .await;
        assert_eq!(status, 200, "{text}");
    }

    /// Waits until every connection has renewed, and looks at the key that is in use then.
    async fn renewed_with(&self, slot: &str) {
        // Two connections with one period: three renewals are one of each at least.
        let goal = self.bench.emulator.stats().tokens_put + 3;
        let renewing = async {
            while self.bench.emulator.stats().tokens_put < goal {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(3 * TTL, renewing).await.expect("renewals go on");
        let label = format!("slot=\"{slot}\"");
        assert_eq!(self.bench.metric("token_key_in_use", &[&label]).await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_both_ways_and_no_device_is_closed() {
    let _turn = shared().await;
    let options = Options {
        token_ttl: "6s",
        emulator: "[limits]\ntoken_skew = \"0s\"\n".to_owned(),
        ..Options::default()
    };
    let mut stage = Stage::set("rotation", DEVICES, options).await;
    stage.crew.pace(Some(PACE));
    stage.renewed_with("primary").await;
    let refused = |stage: &Stage| stage.bench.emulator.stats().tokens_refused;

    stage
        .rotate("primary", b"a key the gateway does not have")
        .await;
    stage.renewed_with("secondary").await;
    stage
        .whole(USABLE)
        .await
        .expect("every connection has its token");
    // Each of two connections was refused once at most: the next attempt took the other key.
    assert!((1..=2).contains(&refused(&stage)), "{}", refused(&stage));

    stage.rotate("primary", POLICY_KEY).await;
    stage
        .rotate("secondary", b"a key the gateway does not have either")
        .await;
    stage.renewed_with("primary").await;
    stage
        .whole(USABLE)
        .await
        .expect("every connection has its token");
    assert!((2..=4).contains(&refused(&stage)), "{}", refused(&stage));

    stage.crew.probe(USABLE).await.expect("all devices work");
    stage.crew.rest(USABLE).await.expect("rest");
    assert_eq!(stage.bench.emulator.stats().detaches_token, 0);
    assert_eq!(stage.damage().await, Damage::default());
    stage.crew.leave().await;
}
