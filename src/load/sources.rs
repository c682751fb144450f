//! Local addresses to connect from: one address reaches a server port only as often as there are
//! ephemeral ports (28,000 by Linux' default). Pure.

use std::net::{IpAddr, Ipv4Addr};

/// Most source addresses used; more are cut, since 64 already reach a million connections.
const SOURCES_MAX: usize = 64;

/// Parses a comma-separated list of addresses (`127.0.0.2`), ranges (`127.0.0.2-127.0.0.9`) and
/// IPv4 networks (`127.0.0.0/8`, without network and broadcast address; the first 64 are used).
///
/// # Errors
/// A sentence that names the part that is not understood.
pub fn parse(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim) {
        let bad = || {
            format!(
                "source {:?} is not understood; write 127.0.0.2, 127.0.0.2-127.0.0.9 or \
                 127.0.0.0/8",
                part.chars().take(64).collect::<String>()
            )
        };
        if let Ok(address) = part.parse::<IpAddr>() {
            found.push(address);
            continue;
        }
        let (first, last) = range(part).ok_or_else(bad)?;
        let addresses = (first..=last).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
        found.extend(addresses.take(SOURCES_MAX));
    }
    found.truncate(SOURCES_MAX);
    Ok(found)
}

fn range(part: &str) -> Option<(u32, u32)> {
    if let Some((first, last)) = part.split_once('-') {
        let first: Ipv4Addr = first.trim().parse().ok()?;
        let last: Ipv4Addr = last.trim().parse().ok()?;
        return (first <= last).then_some((first.to_bits(), last.to_bits()));
    }
    let (network, length) = part.split_once('/')?;
    let network: Ipv4Addr = network.parse().ok()?;
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
    let base = network.to_bits() & !hosts;
    // in /31 and /32 every address is a host
    let edge = u32::from(hosts > 1);
    Some((base + edge, base + hosts - edge))
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn list(text: &str) -> Vec<String> {
        parse(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn addresses_ranges_and_networks_are_spelled_out() {
        assert_eq!(list("127.0.0.5"), ["127.0.0.5"]);
        assert_eq!(list("127.0.0.2-127.0.0.4, ::1").len(), 4);
        assert_eq!(list("10.1.2.3/30"), ["10.1.2.1", "10.1.2.2"]);
        assert_eq!(list("10.1.2.3/32"), ["10.1.2.3"]);
        let loopback = list("127.0.0.0/8");
        assert_eq!((loopback[0].as_str(), loopback.len()), ("127.0.0.1", 64));
        assert_eq!(list("0.0.0.0/0").len(), 64);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for bad in [
            "",
            "localhost",
            "127.0.0.9-127.0.0.2",
            "127.0.0.0/33",
            "127.0.0.0/x",
        ] {
            assert!(parse(bad).unwrap_err().contains("not understood"), "{bad}");
        }
    }
}
