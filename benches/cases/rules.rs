//! Who may connect: deciding a CONNECT by 10, 1,000 and 100,000 entries, and loading a fleet.
//!
//! Own entries (`[[device]]`, lines of a `[[psk_file]]`) are found by a hash and should cost the
//! same at any number. `[[rule]]`s are an ordered list: the last one costs a pass over all.

use crate::support::Suite;
use crate::support::fleet::{claim, parse, psk_lines};
use iothub_gateway::auth::rules::RuleSet;
use iothub_gateway::auth::{Decision, decide};
use std::fmt::Write as _;
use std::hint::black_box;

const FLEET: usize = 100_000;

/// All of them.
pub fn all(suite: &mut Suite) {
    let sizes: &[usize] = match suite.full() {
        true => &[10, 1_000, 100_000],
        false => &[10, 1_000],
    };
    for &size in sizes {
        psk_identities(suite, size);
        devices(suite, size);
        rules(suite, size);
    }
    fleet(suite);
}

fn admitted(rules: &RuleSet, id: &str) -> Decision {
    let decision = decide(rules, black_box(&claim(id)));
    assert!(matches!(decision, Decision::Admit(_)), "{id} is admitted");
    decision
}

fn psk_identities(suite: &mut Suite, size: usize) {
    let (find, admit) = (
        format!("psk_key_{size}_identities"),
        format!("decide_psk_{size}_identities"),
    );
    if !suite.wants(&find) && !suite.wants(&admit) {
        return;
    }
    let rules = parse("[[psk_file]]\npath = \"fleet.psk\"\n", &psk_lines(size));
    let last = format!("load-{}", size - 1);
    suite.op(&find, || {
        let found = rules.psk(black_box(last.as_bytes()));
        assert!(found.is_some());
    });
    suite.op(&admit, || admitted(&rules, &last));
}

fn devices(suite: &mut Suite, size: usize) {
    let name = format!("decide_psk_{size}_devices");
    if !suite.wants(&name) {
        return;
    }
    let mut text = String::new();
    for index in 0..size {
        let psk = format!("{{ identity = \"d-{index}\", key = \"hex:ab{index:032x}\" }}");
        let _ = writeln!(text, "[[device]]\nid = \"d-{index}\"\npsk = {psk}");
    }
    let rules = parse(&text, "");
    let last = format!("d-{}", size - 1);
    suite.op(&name, || admitted(&rules, &last));
}

/// The last of `size` rules fits.
fn rules(suite: &mut Suite, size: usize) {
    let name = format!("decide_psk_last_of_{size}_rules");
    if !suite.wants(&name) {
        return;
    }
    let mut text = String::from("[[psk_file]]\npath = \"fleet.psk\"\n");
    for index in 0..size {
        let (name, site) = (format!("site {index}"), size - 1 - index);
        let when = format!("{{ credential = \"psk\", identity = \"site-{site}-*\" }}");
        let _ = writeln!(
            text,
            "[[rule]]\nname = \"{name}\"\nwhen = {when}\ndevice_id = \"{{identity}}\"\n\
             allow = [\"telemetry\"]"
        );
    }
    let rules = parse(&text, "site-0-a:00112233445566778899aabbccddeeff\n");
    suite.op(&name, || admitted(&rules, "site-0-a"));
}

/// 100,000 identities: time to load, memory to hold.
fn fleet(suite: &mut Suite) {
    let (load, own, held) = (
        "load_100000_psk_identities",
        "psk_store_bytes_per_identity",
        "held_bytes_per_identity",
    );
    if ![load, own, held].iter().any(|name| suite.wants(name)) {
        return;
    }
    let lines = psk_lines(FLEET);
    let mut rules = None;
    let info = allocation_counter::measure(|| {
        let text = "[[psk_file]]\npath = \"fleet.psk\"\n";
        rules = Some(suite.once(load, || parse(text, &lines)));
    });
    let counts = rules.as_ref().expect("parsed above").counts();
    assert_eq!(counts.psk_identities, FLEET);
    let each = |bytes: f64| bytes / FLEET as f64;
    suite.figure(own, each(counts.psk_bytes as f64), "B");
    suite.figure(held, each(info.bytes_current as f64), "B");
}
