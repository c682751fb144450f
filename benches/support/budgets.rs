//! `budgets.toml`: what must not get worse.

use super::Row;
use std::collections::BTreeMap;

/// The limits of one operation; what is absent is not bounded.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Allocations per operation.
    pub allocations: Option<f64>,
    /// Our time ÷ the reference's; release builds only.
    pub ratio: Option<f64>,
    /// For figures that are not times.
    pub figure: Option<f64>,
}

/// The whole file: bench → operation → limit, and the sizes of types in bytes.
#[derive(Debug, serde::Deserialize)]
pub struct Budgets {
    /// `size_of` of what every device holds.
    pub sizes: BTreeMap<String, usize>,
    #[serde(flatten)]
    suites: BTreeMap<String, BTreeMap<String, Limit>>,
}

impl Budgets {
    /// Reads the committed file.
    pub fn load() -> Self {
        const TEXT: &str = include_str!("../budgets.toml");
        toml::from_str(TEXT).expect("benches/budgets.toml is well formed")
    }

    /// The rows above their limit, and those without one. `ratios`: whether times mean anything.
    pub fn broken(&self, suite: &str, rows: &[Row], ratios: bool) -> Vec<String> {
        let mut broken = Vec::new();
        for row in rows {
            let name = format!("{suite}.{}", row.name);
            let Some(limit) = self.suites.get(suite).and_then(|s| s.get(&row.name)) else {
                if row.allocations.is_some() || row.figure.is_some() {
                    broken.push(format!("{name} has no entry in benches/budgets.toml"));
                }
                continue;
            };
            let figure = row.figure.map(|(value, _)| value);
            for (what, value, most) in [
                ("allocations", row.allocations, limit.allocations),
                ("ratio", row.ratio().filter(|_| ratios), limit.ratio),
                ("figure", figure, limit.figure),
            ] {
                if let (Some(value), Some(most)) = (value, most)
                    && value > most
                {
                    broken.push(format!(
                        "{name} {what} is {value:.2}, at most {most} allowed"
                    ));
                }
            }
        }
        broken
    }

    /// Limits of this suite that no row answers to.
    pub fn stale(&self, suite: &str, rows: &[Row]) -> Vec<String> {
        let limits = self.suites.get(suite).into_iter().flatten();
        limits
            .filter(|(name, _)| rows.iter().all(|row| row.name != **name))
            .map(|(name, _)| format!("{suite}.{name} is in benches/budgets.toml, not in the bench"))
            .collect()
    }

    /// The names of the suites that have limits.
    pub fn suites(&self) -> impl Iterator<Item = &str> {
        self.suites.keys().map(String::as_str)
    }
}
