//! Take-over, damping, eviction and drain, on real time with small bounds.

use super::{ClaimError, Eviction, Order, SessionKey};
use crate::auth::identity::{DeviceId, ModuleId};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// A session is known by a word here; in the gateway by its `AuthenticatedDevice`.
type Registry = super::Registry<&'static str>;
type Claim = super::Claim<&'static str>;

const SOON: Duration = Duration::from_secs(10);

fn key(device: &str) -> SessionKey {
    SessionKey::new(DeviceId::parse(device).unwrap(), None)
}

async fn order(claim: &Claim) -> Order {
    timeout(SOON, poll_fn(|cx| claim.poll_order(cx)))
        .await
        .unwrap()
}

async fn claim(registry: &Arc<Registry>, device: &str) -> Result<Claim, ClaimError> {
    timeout(SOON, registry.claim(key(device), "any"))
        .await
        .unwrap()
}

/// A session that closes when told to, and counts how many live at once.
fn serve(claim: Claim, live: Arc<AtomicUsize>) -> tokio::task::JoinHandle<Order> {
    assert_eq!(live.fetch_add(1, Ordering::SeqCst), 0, "two live sessions");
    tokio::spawn(async move {
        let order = order(&claim).await;
        live.fetch_sub(1, Ordering::SeqCst);
        drop(claim);
        order
    })
}

#[tokio::test]
async fn the_older_session_has_ended_when_the_newer_is_answered() {
    let registry = Registry::new(Duration::ZERO);
    let live = Arc::new(AtomicUsize::new(0));
    let older = serve(claim(&registry, "a").await.unwrap(), live.clone());
    let newer = claim(&registry, "a").await.unwrap();
    assert_eq!(live.load(Ordering::SeqCst), 0);
    assert_eq!(older.await.unwrap(), Order::TakenOver);
    assert_eq!(
        registry.len(),
        1,
        "the older may not remove the newer's entry"
    );
    drop(newer);
    assert!(registry.is_empty());
}

#[tokio::test]
async fn a_device_and_its_module_are_different_sessions() {
    let registry = Registry::new(Duration::ZERO);
    let device = claim(&registry, "a").await.unwrap();
    let module = SessionKey::new(
        DeviceId::parse("a").unwrap(),
        Some(ModuleId::parse("m").unwrap()),
    );
    let module = registry.claim(module, "any").await.unwrap();
    assert_eq!(registry.len(), 2);
    assert_eq!(module.key().to_string(), "a/m");
    drop((device, module));
    assert!(registry.is_empty());
}

#[tokio::test]
async fn an_older_session_that_does_not_end_keeps_its_place() {
    let registry = Registry::with_patience(Duration::ZERO, Duration::from_millis(50));
    let older = claim(&registry, "a").await.unwrap();
    let refused = claim(&registry, "a").await.err();
    assert_eq!(refused, Some(ClaimError::Stuck));
    assert_eq!(registry.len(), 1);
    drop(older);
    assert!(registry.is_empty());
    drop(claim(&registry, "a").await.unwrap());
}

#[tokio::test]
async fn only_one_newcomer_waits() {
    let registry = Registry::new(Duration::ZERO);
    let older = claim(&registry, "a").await.unwrap();
    let waiting = tokio::spawn({
        let registry = registry.clone();
        async move { claim(&registry, "a").await }
    });
    assert_eq!(order(&older).await, Order::TakenOver);
    assert_eq!(
        claim(&registry, "a").await.err(),
        Some(ClaimError::Contended)
    );
    drop(older);
    let newer = waiting.await.unwrap().unwrap();
    assert_eq!(registry.len(), 1);
    drop(newer);
    assert!(registry.is_empty());
}

#[tokio::test]
async fn a_newcomer_that_gives_up_leaves_no_trace() {
    let registry = Registry::new(Duration::ZERO);
    let older = claim(&registry, "a").await.unwrap();
    for end_first in [false, true] {
        let mut waiting = Box::pin(registry.claim(key("a"), "any"));
        let waker = std::task::Waker::noop();
        let mut cx = std::task::Context::from_waker(waker);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        if end_first {
            break;
        }
        drop(waiting);
    }
    drop(older);
    assert!(registry.is_empty(), "an entry outlived its session");
}

#[tokio::test]
async fn an_entry_whose_newcomer_gives_up_after_its_end_is_removed() {
    let registry = Registry::new(Duration::ZERO);
    let older = claim(&registry, "a").await.unwrap();
    let mut waiting = Box::pin(registry.claim(key("a"), "any"));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    drop(older);
    assert_eq!(registry.len(), 1, "kept for the one who waits");
    drop(waiting);
    assert!(registry.is_empty());
}

#[tokio::test]
async fn repeated_takeovers_are_damped_and_the_live_session_stays() {
    let base = Duration::from_secs(20);
    let registry = Registry::new(base);
    let live = Arc::new(AtomicUsize::new(0));
    let first = serve(claim(&registry, "a").await.unwrap(), live.clone());
    let second = claim(&registry, "a").await.unwrap();
    first.await.unwrap();
    let second = serve(second, live.clone());
    for _ in 0..100 {
        assert_eq!(claim(&registry, "a").await.err(), Some(ClaimError::Damped));
    }
    assert!(!second.is_finished());
    drop(claim(&registry, "b").await.unwrap());
    assert!(registry.kick(&key("a"), Eviction::Operator));
    second.await.unwrap();
}

#[tokio::test]
async fn a_short_damping_pause_is_waited_out() {
    let base = Duration::from_millis(40);
    let registry = Registry::new(base);
    let live = Arc::new(AtomicUsize::new(0));
    let mut session = serve(claim(&registry, "a").await.unwrap(), live.clone());
    let begun = crate::runtime::clock::mono();
    for _ in 0..3 {
        let next = claim(&registry, "a").await.unwrap();
        assert_eq!(session.await.unwrap(), Order::TakenOver);
        session = serve(next, live.clone());
    }
    // Nothing, then one pause, then two.
    assert!(crate::runtime::clock::mono().since(begun) >= base * 3);
}

#[tokio::test]
async fn many_contenders_never_make_two_live_sessions() {
    let registry = Registry::new(Duration::ZERO);
    let live = Arc::new(AtomicUsize::new(0));
    let contenders: Vec<_> = (0..200)
        .map(|_| {
            let (registry, live) = (registry.clone(), live.clone());
            tokio::spawn(async move {
                if let Ok(claim) = claim(&registry, "a").await {
                    serve(claim, live);
                }
                tokio::task::yield_now().await;
            })
        })
        .collect();
    for contender in contenders {
        contender.await.unwrap();
    }
    assert_eq!(registry.kick_where(Eviction::Operator, |_, _| true), 1);
    let last = claim(&registry, "a").await.unwrap();
    assert_eq!(live.load(Ordering::SeqCst), 0);
    drop(last);
    assert!(registry.is_empty());
}

#[tokio::test]
async fn only_the_picked_sessions_are_evicted() {
    let registry = Registry::new(Duration::ZERO);
    let a = claim(&registry, "a").await.unwrap();
    let b = claim(&registry, "b").await.unwrap();
    let picked = registry.kick_where(Eviction::RightsRevoked, |key, about| {
        key.device().as_str() == "a" && *about == "any"
    });
    assert_eq!(picked, 1);
    assert_eq!(order(&a).await, Order::Evicted(Eviction::RightsRevoked));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(b.poll_order(&mut cx).is_pending());
    assert!(!registry.kick(&key("nobody"), Eviction::Operator));
}

#[tokio::test]
async fn a_drain_staggers_the_closes_and_admits_nobody() {
    let registry = Registry::new(Duration::ZERO);
    let mut claims = Vec::new();
    for device in ["a", "b", "c", "d"] {
        claims.push(claim(&registry, device).await.unwrap());
    }
    registry.drain(Duration::from_secs(8), Duration::from_secs(4));
    let mut places = Vec::new();
    for claim in &claims {
        match order(claim).await {
            Order::Drain {
                close_at,
                settle_until,
            } => {
                places.push(close_at);
                assert!(settle_until > close_at);
            }
            other => panic!("not a drain: {other:?}"),
        }
    }
    places.sort();
    for pair in places.windows(2) {
        assert_eq!(pair[1].since(pair[0]), Duration::from_secs(1));
    }
    assert_eq!(
        claim(&registry, "new").await.err(),
        Some(ClaimError::Draining)
    );
    assert_eq!(registry.len(), 4);
}

#[tokio::test]
async fn a_drain_does_not_soften_an_eviction() {
    let registry = Registry::new(Duration::ZERO);
    let a = claim(&registry, "a").await.unwrap();
    registry.kick(&key("a"), Eviction::Operator);
    registry.drain(SOON, SOON);
    assert_eq!(order(&a).await, Order::Evicted(Eviction::Operator));
}
