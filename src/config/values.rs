//! Values with units, as people write them: durations, sizes, rates.
//!
//! Pure text in, value or sentence out. The sentences never repeat the text they were given,
//! because the caller knows whether it may be shown.

use std::time::Duration;

/// A number of events in a time: `90/s`, `100/min`, `1000/10s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Events.
    pub count: u64,
    /// In this time.
    pub per: Duration,
}

impl Rate {
    /// Whole events per second, rounded down.
    #[must_use]
    pub fn per_second_floor(self) -> u64 {
        let scaled = u128::from(self.count) * 1_000_000_000 / self.per.as_nanos().max(1);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// Whether the rate is a whole number of events per second.
    #[must_use]
    pub fn is_whole_per_second(self) -> bool {
        (u128::from(self.count) * 1_000_000_000).is_multiple_of(self.per.as_nanos().max(1))
    }
}

const DURATION_UNITS: &[(&str, u64)] = &[
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("sec", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
];

const DURATION_HELP: &str = r#"write a number and a unit, as in "250ms", "6s", "1m30s" or "1h""#;
const SIZE_HELP: &str = r#"write bytes as an integer, or a number and a unit, as in "64KiB""#;
const RATE_HELP: &str = r#"write a whole number per time, as in "90/s" or "100/min""#;

/// Parses a duration: one or more `NUMBER UNIT`, largest unit first, each unit once; units are
/// `d`, `h`, `m`/`min`, `s`, `ms`. A number may have a fraction: `1.5h`.
///
/// # Errors
/// A sentence that says how a duration is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DURATION_HELP.to_owned());
    }
    let mut total_ns: u64 = 0;
    let mut previous_unit_ns = u64::MAX;
    while !rest.is_empty() {
        let (part_ns, unit_ns, tail) = duration_part(rest)?;
        if unit_ns >= previous_unit_ns {
            return Err(format!(
                "units go from large to small, each once; {DURATION_HELP}"
            ));
        }
        previous_unit_ns = unit_ns;
        total_ns = total_ns
            .checked_add(part_ns)
            .ok_or("the duration is too long")?;
        rest = tail.trim_start();
    }
    Ok(Duration::from_nanos(total_ns))
}

/// One `NUMBER UNIT` from the front of `text`: its nanoseconds, its unit's, and what follows.
fn duration_part(text: &str) -> Result<(u64, u64, &str), String> {
    let (number, rest) = split_number(text);
    if number.is_empty() {
        return Err(DURATION_HELP.to_owned());
    }
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(end);
    if unit.is_empty() {
        return Err(format!("the unit is missing; {DURATION_HELP}"));
    }
    let unit_ns = DURATION_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, ns)| *ns)
        .ok_or_else(|| format!("the unit must be d, h, m, s or ms; {DURATION_HELP}"))?;
    let part_ns = scale(number, unit_ns).ok_or("the duration is too long or no number")?;
    Ok((part_ns, unit_ns, tail))
}

/// Parses a size in bytes: an integer, or a number with `B`, `KiB`, `MiB`, `GiB` (powers of
/// 1024) or `KB`, `MB`, `GB` (powers of 1000); case does not matter.
///
/// # Errors
/// A sentence that says how a size is written.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text.trim());
    if number.is_empty() {
        return Err(SIZE_HELP.to_owned());
    }
    let unit = unit.trim();
    let factor = if unit.is_empty() {
        1
    } else {
        SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, bytes)| *bytes)
            .ok_or_else(|| {
                format!("the unit must be B, KiB, MiB, GiB, KB, MB or GB; {SIZE_HELP}")
            })?
    };
    scale(number, factor).ok_or_else(|| format!("the size is no number or too large; {SIZE_HELP}"))
}

/// Parses a rate: `COUNT/UNIT` or `COUNT/DURATION`, count a positive integer.
///
/// # Errors
/// A sentence that says how a rate is written.
pub fn rate(text: &str) -> Result<Rate, String> {
    let (count, per) = text.split_once('/').ok_or(RATE_HELP)?;
    let count: u64 = count.trim().parse().map_err(|_| RATE_HELP.to_owned())?;
    let per = per.trim();
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        duration(per)?
    } else {
        duration(&format!("1{per}")).map_err(|_| RATE_HELP.to_owned())?
    };
    if count == 0 || per.is_zero() {
        return Err(format!("a rate must be above zero; {RATE_HELP}"));
    }
    Ok(Rate { count, per })
}

/// Splits the leading digits and dots off.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `number` times `factor`, exact to the unit, or nothing when it is no number or overflows.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut total = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let digits = u32::try_from(fraction.len()).ok()?;
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
        let part = part / 10_u128.pow(digits);
        total = total.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(total)
}

/// A duration as the file would have it: `1m30s`, `250ms`, `0s`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest_ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_ms) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if rest_ms >= unit_ms {
            text.push_str(&format!("{}{unit}", rest_ms / unit_ms));
            rest_ms %= unit_ms;
        }
    }
    text
}

/// A size as the file would have it, exact: `64KiB`, `1500B`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// A size for people, three figures: `3.7 GiB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// A count with thousands separated: `15,000`.
#[must_use]
pub fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in [
            ("6s", 6_000),
            ("1h", 3_600_000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("1.5h", 5_400_000),
            ("2min", 120_000),
            ("1D", 86_400_000),
            ("0s", 0),
            ("1d1h1m1s1ms", 90_061_001),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn durations_without_a_clear_meaning_are_refused() {
        for text in [
            "",
            " ",
            "6",
            "s",
            "-1s",
            "6 parsecs",
            "30s1m",
            "1s1s",
            "1.s",
            ".5s",
            "1..5s",
            "6s,",
            "99999999999999999999s",
            "300000d1d",
            "1e3s",
            "∞s",
            "1m30",
        ] {
            assert!(duration(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sizes_keep_binary_and_decimal_units_apart() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("1MB", 1_000_000),
            ("1MiB", 1_048_576),
            ("4096", 4_096),
            ("4_096", 4_096),
            ("1.5 KiB", 1_536),
            ("12b", 12),
            ("2gib", 2_147_483_648),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "64K",
            "1 TB",
            "18446744073709551616",
            "17179869184GiB",
        ] {
            assert!(size(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn rates_name_a_count_and_a_time() {
        let rate_of = |count, secs| {
            Ok(Rate {
                count,
                per: Duration::from_secs(secs),
            })
        };
        assert_eq!(rate("90/s"), rate_of(90, 1));
        assert_eq!(rate("100/min"), rate_of(100, 60));
        assert_eq!(rate("1000/10s"), rate_of(1000, 10));
        assert_eq!(rate(" 5 / h "), rate_of(5, 3600));
        for text in [
            "", "90", "90/", "/s", "0/s", "90/0s", "1.5/s", "90 per s", "90/s/s",
        ] {
            assert!(rate(text).is_err(), "{text:?} was taken");
        }
        assert_eq!(rate("100/min").map(Rate::per_second_floor), Ok(1));
        assert_eq!(rate("100/min").map(Rate::is_whole_per_second), Ok(false));
        assert_eq!(rate("120/min").map(Rate::is_whole_per_second), Ok(true));
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        for ms in [0, 1, 250, 6_000, 90_000, 1_177_000, 3_600_000, 90_061_001] {
            let value = Duration::from_millis(ms);
            assert_eq!(duration(&show_duration(value)), Ok(value));
        }
        for bytes in [0, 1, 1500, 4096, 266_240, 1 << 31] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(human_size(3_993_600_000), "3.7 GiB");
        assert_eq!(human_count(15_000), "15,000");
        assert_eq!(human_count(999), "999");
    }
}
