//! Rules and devices made up for benches.

use iothub_gateway::auth::rules::{Resolvers, RuleSet, RulesText};
use iothub_gateway::auth::{
    AuthenticatedDevice, Claim, CredentialKind, Decision, Transport, decide,
};
use iothub_gateway::runtime::clock::Unix;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Rules of one file whose only `psk_file` reads as `fleet`.
pub fn parse(text: &str, fleet: &str) -> RuleSet {
    parse_files(&[text], fleet)
}

/// Rules of several files, in order.
pub fn parse_files<T: AsRef<str>>(texts: &[T], fleet: &str) -> RuleSet {
    let files: Vec<RulesText<'_>> = texts
        .iter()
        .map(|text| RulesText {
            name: "rules.toml",
            text: text.as_ref(),
        })
        .collect();
    let resolvers = Resolvers {
        read: &|_| Ok(Vec::new()),
        read_secret: &|_| Ok(fleet.as_bytes().to_vec()),
        secret: &|_| Err("no secrets here".to_owned()),
    };
    RuleSet::parse(&files, &resolvers).unwrap_or_else(|problems| panic!("{}", problems[0]))
}

/// Mosquitto's format: `load-0:…`, with keys of 32 bytes.
pub fn psk_lines(count: usize) -> String {
    let mut text = String::with_capacity(count * 80);
    for index in 0..count {
        let _ = writeln!(text, "load-{index}:ab{index:062x}");
    }
    text
}

/// A CONNECT of the device that proved the PSK of the same name.
pub fn claim(id: &str) -> Claim<'_> {
    Claim {
        transport: Transport::Psk(id),
        listener: "devices",
        accept: &[CredentialKind::Psk],
        source: IpAddr::V4(Ipv4Addr::new(10, 20, 0, 7)),
        client_id: id,
        username: None,
        password: None,
        hub_host: "myhub.azure-devices.net",
        now: Unix::from_secs(1_800_000_000),
    }
}

/// A device that proved its key.
pub fn device(id: &str) -> AuthenticatedDevice {
    let line = format!("{id}:00112233445566778899aabbccddeeff\n");
    let rules = parse("[[psk_file]]\npath = \"fleet.psk\"\n", &line);
    match decide(&rules, &claim(id)) {
        Decision::Admit(admission) => admission.device,
        _ => unreachable!("the only line of the file names it"),
    }
}
