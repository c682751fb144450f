//! What must not get worse and is the same on every machine: allocations per operation, bytes
//! per identity, sizes of what every device holds. The limits stand in `benches/budgets.toml`,
//! the operations are those of the benches. Times are not looked at here.

#[path = "../../benches/cases/amqp.rs"]
mod amqp;
#[path = "../../benches/cases/codec.rs"]
mod codec;
#[path = "../../benches/cases/hello.rs"]
mod hello;
#[path = "../../benches/cases/route.rs"]
mod route;
#[path = "../../benches/cases/rules.rs"]
mod rules;
#[path = "../../benches/cases/session.rs"]
mod session;
#[path = "../../benches/support/mod.rs"]
mod support;
#[path = "../../benches/cases/token.rs"]
mod token;

use std::collections::BTreeMap;
use support::budgets::Budgets;
use support::{Mode, Reference, Row, Suite};

fn keeps(name: &'static str, cases: fn(&mut Suite)) {
    let mut suite = Suite::new(name, Mode::Counts);
    cases(&mut suite);
    assert!(!suite.rows().is_empty(), "{name} measures nothing");
    let broken = suite.broken(&Budgets::load());
    assert!(
        broken.is_empty(),
        "{}\nMake it cheaper, or raise the limit and say why in the commit.",
        broken.join("\n")
    );
}

#[test]
fn the_codec_allocates_no_more_than_budgeted() {
    keeps("codec", codec::all);
}

#[test]
fn a_message_through_the_session_allocates_no_more_than_budgeted() {
    keeps("session", session::all);
}

#[test]
fn deciding_a_connect_and_holding_a_fleet_cost_no_more_than_budgeted() {
    keeps("rules", rules::all);
}

#[test]
fn mapping_topics_and_properties_allocates_no_more_than_budgeted() {
    keeps("route", route::all);
}

#[test]
fn a_message_and_a_link_of_the_amqp_engine_allocate_no_more_than_budgeted() {
    keeps("amqp", amqp::all);
}

#[test]
fn tokens_allocate_no_more_than_budgeted() {
    keeps("token", token::all);
}

#[test]
fn refusing_a_hello_allocates_no_more_than_budgeted() {
    keeps("hello", hello::all);
}

#[test]
fn what_every_device_holds_is_no_larger_than_budgeted() {
    use iothub_gateway::{auth, hub, mqtt, router};
    let found = BTreeMap::from([
        (
            "mqtt::session::Session",
            size_of::<mqtt::session::Session>(),
        ),
        ("hub::DeviceLinks", size_of::<hub::DeviceLinks>()),
        ("auth::Admission", size_of::<auth::Admission>()),
        (
            "router::registry::Claim",
            size_of::<router::registry::Claim>(),
        ),
    ]);
    let budgets = Budgets::load();
    let listed: Vec<&str> = budgets.sizes.keys().map(String::as_str).collect();
    let measured: Vec<&str> = found.keys().copied().collect();
    assert_eq!(listed, measured, "left: budgets.toml, right: measured here");
    let over: Vec<String> = found
        .into_iter()
        .filter(|(name, size)| *size > budgets.sizes[*name])
        .map(|(name, size)| format!("{name} takes {size} bytes, over {}", budgets.sizes[name]))
        .collect();
    assert!(over.is_empty(), "{}", over.join("\n"));
}

#[test]
fn every_suite_of_the_file_is_checked_here() {
    let budgets = Budgets::load();
    let suites: Vec<&str> = budgets.suites().collect();
    assert_eq!(
        suites,
        [
            "amqp", "codec", "hello", "route", "rules", "session", "token"
        ],
        "left: budgets.toml; add a test for a new suite"
    );
}

fn row(name: &str, allocations: f64, ns: f64, theirs: f64) -> Row {
    Row {
        name: name.to_owned(),
        ns: Some(ns),
        allocations: Some(allocations),
        reference: Some(Reference {
            name: "reference",
            ns: Some(theirs),
            allocations: 0.0,
        }),
        figure: None,
    }
}

#[test]
fn a_row_above_its_limit_and_a_row_without_one_and_a_limit_without_a_row_are_reported() {
    let budgets: Budgets = toml::from_str(
        "[sizes]\n[s]\na = { allocations = 1, ratio = 1.5 }\nb = { allocations = 1 }\n",
    )
    .expect("well formed");
    let fine = [row("a", 1.0, 15.0, 10.0)];
    assert_eq!(budgets.broken("s", &fine, true), [""; 0]);
    assert_eq!(budgets.stale("s", &fine).len(), 1, "b has no row");
    let worse = [row("a", 1.5, 16.0, 10.0), row("c", 0.0, 1.0, 1.0)];
    let broken = budgets.broken("s", &worse, true);
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert!(broken[0].contains("s.a allocations is 1.50, at most 1"));
    assert!(broken[1].contains("s.a ratio is 1.60, at most 1.5"));
    assert!(broken[2].contains("s.c has no entry"));
    let in_debug = budgets.broken("s", &worse, false);
    assert_eq!(in_debug.len(), 2, "{in_debug:?}");
}

#[test]
fn an_allocation_is_seen_by_the_counter() {
    assert_eq!(support::count(&mut || Box::new(7_u64)), 1.0);
    assert_eq!(support::count(&mut || 7_u64), 0.0);
}
