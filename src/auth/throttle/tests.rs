use super::Name::{self, Connect};
use super::{IDENTITIES_MAX, SOURCES_MAX, Throttle, Throttled};
use crate::runtime::clock::Mono;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const BAD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn at(seconds: f64) -> Mono {
    Mono::from_start(Duration::from_secs_f64(1000.0 + seconds))
}

fn throttle() -> Throttle {
    Throttle::new(100, 5, 1_000)
}

/// With the limits as shipped.
fn shipped() -> Throttle {
    let limits = crate::config::limits::Limits::default();
    Throttle::new(
        limits.failures_per_source,
        limits.failures_per_identity,
        limits.connections,
    )
}

/// One attempt with a wrong or unknown credential; whether it was looked at.
fn fails(throttle: &mut Throttle, source: IpAddr, identity: &str, now: Mono) -> bool {
    let identity = Connect(identity);
    let looked_at =
        throttle.source(source, now).is_ok() && throttle.identity(source, identity, now).is_ok();
    if looked_at {
        throttle.failed(source, Some(identity), now);
    }
    looked_at
}

/// One attempt with a good credential of any kind.
fn connects(throttle: &mut Throttle, source: IpAddr, identity: &str, now: Mono) {
    let name = Connect(identity);
    assert!(throttle.source(source, now).is_ok(), "{identity}");
    assert_eq!(throttle.identity(source, name, now), Ok(()), "{identity}");
    throttle.succeeded(source, name, now);
}

#[test]
fn a_source_of_strangers_may_fail_a_hundred_times_and_then_twice_a_second() {
    let mut throttle = throttle();
    let mut looked_at = 0;
    for tick in 0..6000 {
        let now = at(f64::from(tick) / 200.0);
        if throttle.source(BAD, now).is_ok() {
            looked_at += 1;
            throttle.failed(BAD, None, now);
        }
    }
    assert!((156..=162).contains(&looked_at), "{looked_at} in 30 s");
    assert!(throttle.source(GOOD, at(30.0)).is_ok());
    assert!(throttle.source(BAD, at(45.0)).is_ok(), "it is forgiven");
}

#[test]
fn failures_under_way_together_are_paid_for_but_not_for_ever() {
    let mut throttle = throttle();
    for _ in 0..500 {
        throttle.failed(BAD, None, at(0.0));
    }
    assert_eq!(throttle.source(BAD, at(50.0)), Err(Throttled::Source));
    assert!(throttle.source(BAD, at(51.0)).is_ok());
}

#[test]
fn a_broken_device_behind_a_shared_address_does_not_starve_the_others() {
    let mut throttle = throttle();
    for tick in 0..1000 {
        let now = at(f64::from(tick) / 100.0);
        assert!(throttle.source(BAD, now).is_ok(), "tick {tick}");
        throttle.failed(BAD, Some(Connect("broken")), now);
        throttle.succeeded(BAD, Connect("honest"), now);
    }
}

#[test]
fn an_identity_that_is_held_back_takes_nothing_from_its_source() {
    let mut throttle = throttle();
    let mut looked_at = 0;
    for tick in 0..60_000 {
        let now = at(f64::from(tick) / 100.0);
        assert!(throttle.source(BAD, now).is_ok(), "tick {tick}");
        looked_at += u32::from(fails(&mut throttle, BAD, "broken", now));
    }
    assert!((12..=20).contains(&looked_at), "{looked_at} in 10 minutes");
}

#[test]
fn fifty_unknown_devices_among_ten_thousand_behind_one_address_hurt_nobody() {
    let mut throttle = shipped();
    let unknown: Vec<String> = (0..50).map(|n| format!("unknown-{n}")).collect();
    let good: Vec<String> = (0..10_000).map(|n| format!("good-{n}")).collect();
    // The bad ones have the address to themselves for ten seconds: a gateway that starts.
    let mut looked_at = 0;
    for tick in 0..12_000_usize {
        let now = at(tick as f64 / 100.0);
        for bad in &unknown {
            looked_at += usize::from(fails(&mut throttle, BAD, bad, now));
        }
        if tick >= 1_000 {
            // 10,000 devices, each back every ten seconds.
            for n in 0..10 {
                connects(&mut throttle, BAD, &good[(tick * 10 + n) % 10_000], now);
            }
        }
    }
    assert!(looked_at <= 50 * 12, "{looked_at} of 600,000 attempts");
}

#[test]
fn a_new_device_is_let_in_beside_one_that_never_names_itself_twice() {
    let mut throttle = shipped();
    connects(&mut throttle, BAD, "good", at(0.0));
    for n in 0..100_000 {
        let now = at(1.0 + f64::from(n) / 1000.0);
        fails(&mut throttle, BAD, &format!("random-{n}"), now);
    }
    let now = at(101.0);
    connects(&mut throttle, BAD, "good", now);
    assert_eq!(throttle.costly(BAD, Connect("good"), now), Ok(()));
    connects(&mut throttle, BAD, "new", now);
    // A stranger's password is not worth its cost now.
    assert_eq!(
        throttle.costly(BAD, Connect("guess"), now),
        Err(Throttled::Source)
    );
    assert_eq!(throttle.costly(GOOD, Connect("guess"), now), Ok(()));
}

#[test]
fn a_success_buys_no_failures_with_other_names() {
    let mut throttle = throttle();
    let mut checked = 0;
    for n in 0..1_000 {
        let (now, name) = (at(f64::from(n) / 1000.0), format!("guess-{n}"));
        throttle.succeeded(BAD, Connect("mine"), now);
        if throttle.costly(BAD, Connect(&name), now).is_ok() {
            checked += 1;
            throttle.failed(BAD, Some(Connect(&name)), now);
        }
    }
    assert!(checked <= 103, "{checked}");
}

#[test]
fn a_wrong_key_of_a_known_identity_and_an_unknown_one_cost_their_source_the_same() {
    // The throttle does not know the rules; what it knows is who proved what here before.
    let mut throttle = throttle();
    throttle.succeeded(GOOD, Connect("elsewhere"), at(0.0));
    for n in 0..100 {
        assert!(throttle.source(BAD, at(0.0)).is_ok(), "{n}");
        let name = format!("elsewhere-{n}");
        let name = if n == 0 { "elsewhere" } else { &name };
        throttle.failed(BAD, Some(Connect(name)), at(0.0));
    }
    assert_eq!(throttle.source(BAD, at(0.0)), Err(Throttled::Source));
}

#[test]
fn an_identity_waits_longer_with_each_failure_up_to_a_minute() {
    let mut throttle = throttle();
    for _ in 0..5 {
        assert_eq!(throttle.identity(BAD, Connect("dev"), at(0.0)), Ok(()));
        throttle.failed(BAD, Some(Connect("dev")), at(0.0));
    }
    let mut now = 0.0;
    for wait in [5.0, 10.0, 20.0, 40.0, 60.0, 60.0] {
        let refused = throttle.identity(BAD, Connect("dev"), at(now + wait - 0.1));
        assert_eq!(refused, Err(Throttled::Identity), "{wait}");
        now += wait;
        assert_eq!(
            throttle.identity(BAD, Connect("dev"), at(now)),
            Ok(()),
            "{wait}"
        );
        throttle.failed(BAD, Some(Connect("dev")), at(now));
    }
    throttle.failed(BAD, Some(Connect("dev")), at(now + 601.0));
    assert_eq!(
        throttle.identity(BAD, Connect("dev"), at(now + 601.0)),
        Ok(())
    );
}

#[test]
fn nobody_locks_a_device_out_from_elsewhere() {
    let mut throttle = throttle();
    for _ in 0..1000 {
        throttle.failed(BAD, Some(Connect("dev")), at(0.0));
    }
    assert!(throttle.identity(BAD, Connect("dev"), at(1.0)).is_err());
    assert_eq!(throttle.identity(GOOD, Connect("dev"), at(1.0)), Ok(()));
    assert!(throttle.source(GOOD, at(1.0)).is_ok());
    assert_eq!(throttle.identity(BAD, Connect("other"), at(1.0)), Ok(()));
}

#[test]
fn a_success_clears_the_identity() {
    let mut throttle = throttle();
    for _ in 0..5 {
        throttle.failed(BAD, Some(Connect("dev")), at(0.0));
    }
    throttle.succeeded(BAD, Connect("dev"), at(6.0));
    assert_eq!(throttle.identity(BAD, Connect("dev"), at(6.0)), Ok(()));
    let key = throttle.key(BAD, Some(Connect("dev")));
    assert!(throttle.identities.entries.get(&key).is_none());
}

#[test]
fn a_proved_psk_does_not_buy_guesses_at_the_password_of_the_same_name() {
    let mut throttle = throttle();
    for _ in 0..5 {
        throttle.succeeded(BAD, Name::Psk(b"dev"), at(0.0));
        assert_eq!(throttle.identity(BAD, Connect("dev"), at(0.0)), Ok(()));
        throttle.failed(BAD, Some(Connect("dev")), at(0.0));
    }
    throttle.succeeded(BAD, Name::Psk(b"dev"), at(0.0));
    assert!(throttle.identity(BAD, Connect("dev"), at(1.0)).is_err());
}

fn sizes(throttle: &Throttle) -> [usize; 3] {
    [
        throttle.sources.young.len() + throttle.sources.old.len(),
        throttle.identities.entries.young.len() + throttle.identities.entries.old.len(),
        throttle.proved.young.len() + throttle.proved.old.len(),
    ]
}

#[test]
fn a_flood_of_sources_and_names_stays_bounded_and_the_latest_is_known() {
    let mut throttle = Throttle::new(1, 1, 1);
    for n in 0..3 * IDENTITIES_MAX as u32 {
        let source = IpAddr::V4(Ipv4Addr::from(n));
        throttle.failed(source, Some(Connect("x")), at(0.0));
        throttle.succeeded(source, Connect("y"), at(0.0));
        let [sources, identities, proved] = sizes(&throttle);
        assert!(sources <= SOURCES_MAX && identities <= IDENTITIES_MAX && proved <= SOURCES_MAX);
        assert_eq!(
            throttle.costly(source, Connect("x"), at(0.0)),
            Err(Throttled::Source)
        );
        assert!(throttle.identity(source, Connect("x"), at(0.0)).is_err());
    }
}

#[test]
fn nobody_pushes_their_own_failures_out_with_other_names() {
    let mut throttle = shipped();
    for _ in 0..20 {
        throttle.failed(BAD, Some(Connect("victim")), at(0.0));
    }
    let mut names = 0_u32;
    for tick in 0..5_900 {
        let now = at(f64::from(tick) / 100.0);
        for _ in 0..10 {
            names += 1;
            fails(&mut throttle, BAD, &format!("other-{names}"), now);
        }
    }
    assert!(throttle.identity(BAD, Connect("victim"), at(59.0)).is_err());
}

/// 10,000 names a minute from 1,000 addresses for five minutes, beside 10,000 good devices, half of
/// which share those addresses.
#[test]
fn ten_thousand_unknown_names_a_minute_leave_the_tables_flat_and_every_good_device_served() {
    let mut throttle = shipped();
    let address = |n: u32| IpAddr::V4(Ipv4Addr::from(0x7f01_0000 + n));
    let good: Vec<String> = (0..10_000).map(|n| format!("good-{n}")).collect();
    let mut after_a_minute = 0;
    for name in 0..50_000_u32 {
        let now = at(f64::from(name) * 0.006);
        fails(
            &mut throttle,
            address(name % 1_000),
            &format!("unknown-{name}"),
            now,
        );
        for n in 0..6 {
            let device = (name * 6 + n) % 10_000;
            connects(
                &mut throttle,
                address(device % 2_000),
                &good[device as usize],
                now,
            );
        }
        if name == 10_000 {
            after_a_minute = sizes(&throttle)[2];
        }
    }
    let [sources, identities, proved] = sizes(&throttle);
    assert!(
        sources <= 1_000 && identities <= IDENTITIES_MAX,
        "{sources} {identities}"
    );
    assert!(proved <= 2 * after_a_minute, "{after_a_minute} → {proved}");
}
