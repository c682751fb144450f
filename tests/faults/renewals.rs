//! The token is renewed again and again under load, and nothing else happens.

use crate::full;
use crate::stage::{Damage, Stage, alone};
use crate::support::Options;
use iothub_gateway::runtime::clock::{self, Mono};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const DEVICES: usize = 100;
const PACE: Duration = Duration::from_millis(250);

/// The value below which `share` of `sorted` lie.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let at = (sorted.len() as f64 * share) as usize;
    sorted
        .get(at)
        .or(sorted.last())
        .copied()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_after_renewal_under_load_costs_nothing() {
    let _turn = alone().await;
    let wanted = if full() { 100 } else { 10 };
    let options = Options {
        token_ttl: "6s",
        // No grace: a token that is one second late would be seen.
        emulator: "[limits]\ntoken_skew = \"0s\"\n".to_owned(),
        ..Options::default()
    };
    let mut stage = Stage::set("renewals", DEVICES, options).await;
    let put = |stage: &Stage| stage.bench.emulator.stats().tokens_put;
    let before = put(&stage);
    stage.crew.pace(Some(PACE));
    stage.crew.latencies();
    // Both connections renew once a period.
    let mut renewals: Vec<Mono> = Vec::new();
    let renewing = async {
        let mut known = before;
        while renewals.len() < 2 * wanted {
            sleep(Duration::from_millis(10)).await;
            let now = put(&stage);
            renewals.extend((known..now).map(|_| clock::mono()));
            known = now;
        }
    };
    let patience = Duration::from_secs(6) * u32::try_from(wanted).expect("small");
    timeout(patience, renewing)
        .await
        .expect("renewals come on time");
    stage
        .crew
        .rest(Duration::from_secs(10))
        .await
        .expect("rest");
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for (at, latency) in stage.crew.latencies() {
        let half = Duration::from_millis(500);
        let by = |renewal: &Mono| at.since(*renewal) < half && renewal.since(at) < half;
        match renewals.iter().any(by) {
            true => near.push(latency),
            false => far.push(latency),
        }
    }
    near.sort_unstable();
    far.sort_unstable();
    let (near_p99, far_p99) = (percentile(&near, 0.99), percentile(&far, 0.99));
    println!(
        "{} renewals; p99 {near_p99:?} of {} messages in renewal seconds, {far_p99:?} of {} in \
         others: ratio {:.2}",
        renewals.len(),
        near.len(),
        far.len(),
        near_p99.as_secs_f64() / far_p99.as_secs_f64(),
    );
    let refused = stage.bench.emulator.stats();
    assert_eq!((refused.tokens_refused, refused.detaches_token), (0, 0));
    assert_eq!(stage.damage().await, Damage::default());
    stage.crew.leave().await;
}
