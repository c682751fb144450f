//! Patterns of rules: globs over names, address ranges over sources.

use std::net::IpAddr;

/// Longest pattern, bytes; with names of at most a few hundred bytes matching stays cheap.
const PATTERN_BYTES_MAX: usize = 256;

/// `*` any text, `?` one character, `\` takes the next character as it is. Case matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Char(char),
}

impl Glob {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("the pattern is empty; leave the key out to match everything");
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err("the pattern is longer than 256 bytes");
        }
        let mut parts = Vec::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' if parts.last() == Some(&Part::Any) => continue,
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Char(chars.next().ok_or("the pattern ends in a backslash")?),
                c => Part::Char(c),
            });
        }
        Ok(Self { parts })
    }

    /// Matches the whole of `name`. Work is at most pattern length times name length.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let parts = &self.parts;
        let (mut part, mut rest) = (0, name);
        // where to go on when what follows the last `*` does not fit
        let mut retry: Option<(usize, &str)> = None;
        loop {
            let mut after = rest.chars();
            let c = after.next();
            match (parts.get(part), c) {
                (Some(Part::Any), _) => {
                    retry = Some((part + 1, rest));
                    part += 1;
                    continue;
                }
                (Some(Part::One), Some(_)) => {
                    part += 1;
                    rest = after.as_str();
                    continue;
                }
                (Some(Part::Char(want)), Some(c)) if *want == c => {
                    part += 1;
                    rest = after.as_str();
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((from, at)) = retry else {
                return false;
            };
            let mut longer = at.chars();
            if longer.next().is_none() {
                return false;
            }
            retry = Some((from, longer.as_str()));
            part = from;
            rest = longer.as_str();
        }
    }
}

/// A range of addresses, `10.20.0.0/16`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u32,
}

impl Cidr {
    /// Reads a range or an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "not an address or range such as 10.20.0.0/16 or 2001:db8::/32";
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| FORM)?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| FORM)?
            }
            Some(_) => return Err(FORM),
        };
        if prefix > width {
            return Err("the prefix is longer than the address");
        }
        let range = Self { base, prefix };
        if bits(base) & !range.mask() != 0 {
            return Err("the address has bits beyond the prefix; write the first of the range");
        }
        Ok(range)
    }

    /// Whether `source` is in the range; IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn contains(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        source.is_ipv4() == self.base.is_ipv4() && bits(source) & self.mask() == bits(self.base)
    }

    /// Whether every address of its family is in it.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        self.prefix == 0
    }

    /// The prefix as the top bits of 128.
    fn mask(&self) -> u128 {
        u128::MAX.checked_shl(128 - self.prefix).unwrap_or_default()
    }
}

/// The address in the top bits of 128.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        let row = |pattern: &str, name: &str, want: bool| {
            let glob = Glob::parse(pattern).unwrap();
            assert_eq!(glob.matches(name), want, "{pattern} {name}");
        };
        row("plant-a-*", "plant-a-7", true);
        row("plant-a-*", "plant-a-", true);
        row("plant-a-*", "xplant-a-7", false);
        row("plant-a-*", "plant-b-7", false);
        row("*", "", true);
        row("a*b*c", "aXbYbZc", true);
        row("a*b*c", "aXbYbZ", false);
        row("a?c", "abc", true);
        row("a?c", "aéc", true);
        row("a?c", "ac", false);
        row(r"a\*c", "a*c", true);
        row(r"a\*c", "abc", false);
        row("Plant", "plant", false);
        row("*-x", "a-x-y-x", true);
        row("**", "anything", true);
    }

    #[test]
    fn a_hostile_name_cannot_make_a_glob_slow() {
        let glob = Glob::parse(&"*a".repeat(60)).unwrap();
        assert!(!glob.matches(&format!("{}b", "a".repeat(4096))));
    }

    #[test]
    fn ranges_hold_their_addresses() {
        let row = |range: &str, source: &str, want: bool| {
            let range = Cidr::parse(range).unwrap();
            assert_eq!(range.contains(source.parse().unwrap()), want, "{source}");
        };
        row("10.20.0.0/16", "10.20.255.1", true);
        row("10.20.0.0/16", "10.21.0.0", false);
        row("10.20.0.0/16", "::ffff:10.20.1.1", true);
        row("0.0.0.0/0", "255.1.2.3", true);
        row("0.0.0.0/0", "2001:db8::1", false);
        row("2001:db8::/32", "2001:db8:1::1", true);
        row("::/0", "2001:db8:1::1", true);
        row("127.0.0.1", "127.0.0.1", true);
        row("127.0.0.1", "127.0.0.2", false);
    }

    #[test]
    fn ranges_that_cannot_be_meant_are_refused() {
        for bad in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0/8",
            "a/8",
            "10.0.0.0/",
            "1.1.1.1/+8",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }
}
