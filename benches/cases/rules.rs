//! Who may connect: deciding a CONNECT by 10, 1,000 and 100,000 entries, and loading a fleet.
//!
//! Own entries (`[[device]]`, lines of a `[[psk_file]]`) are found by a hash and should cost the
//! same at any number. `[[rule]]`s are an ordered list: the last one costs a pass over all.

use crate::support::Suite;
use crate::support::fleet::{claim, parse, parse_files, psk_lines};
use iothub_gateway::auth::rules::RuleSet;
use iothub_gateway::auth::{Decision, decide};
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
    load(suite);
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

/// `size` entries in files of at most a thousand.
fn files(size: usize, entry: impl Fn(usize) -> String) -> Vec<String> {
    let indices: Vec<usize> = (0..size).collect();
    let file = |chunk: &[usize]| chunk.iter().map(|index| entry(*index)).collect();
    indices.chunks(1_000).map(file).collect()
}

fn device(index: usize) -> String {
    let psk = format!("{{ identity = \"d-{index}\", key = \"hex:ab{index:032x}\" }}");
    format!("[[device]]\nid = \"d-{index}\"\npsk = {psk}\n")
}

fn devices(suite: &mut Suite, size: usize) {
    let name = format!("decide_psk_{size}_devices");
    if !suite.wants(&name) {
        return;
    }
    let rules = parse_files(&files(size, device), "");
    let last = format!("d-{}", size - 1);
    suite.op(&name, || admitted(&rules, &last));
}

/// The last of `size` rules fits.
fn rules(suite: &mut Suite, size: usize) {
    let name = format!("decide_psk_last_of_{size}_rules");
    if !suite.wants(&name) {
        return;
    }
    let rule = |index: usize| {
        let site = size - 1 - index;
        let when = format!("{{ credential = \"psk\", identity = \"site-{site}-*\" }}");
        format!(
            "[[rule]]\nname = \"site {site}\"\nwhen = {when}\ndevice_id = \"{{identity}}\"\n\
             allow = [\"telemetry\"]\n"
        )
    };
    let mut texts = files(size, rule);
    texts.push("[[psk_file]]\npath = \"fleet.psk\"\n".to_owned());
    let line = "site-0-a:00112233445566778899aabbccddeeff\n";
    let rules = parse_files(&texts, line);
    suite.op(&name, || admitted(&rules, "site-0-a"));
}

/// Loading entries of one file: twice the entries should take twice the time.
fn load(suite: &mut Suite) {
    for size in [1_000, 2_000, 4_000] {
        let name = format!("load_{size}_devices_of_one_file");
        if suite.full() && suite.wants(&name) {
            let text: String = (0..size).map(device).collect();
            suite.once(&name, || parse(&text, ""));
        }
    }
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
