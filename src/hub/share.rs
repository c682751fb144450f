//! A part of a gauge, given back when its owner is gone.

use prometheus::IntGauge;

/// What one owner adds to a gauge.
pub struct Share {
    gauge: IntGauge,
    held: i64,
}

impl Share {
    /// Adds `amount`.
    pub fn new(gauge: &IntGauge, amount: usize) -> Self {
        let mut share = Self {
            gauge: gauge.clone(),
            held: 0,
        };
        share.set(amount);
        share
    }

    /// Adds `amount` in place of what was added.
    pub fn set(&mut self, amount: usize) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        self.gauge.add(amount - self.held);
        self.held = amount;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.sub(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::Share;
    use prometheus::IntGauge;

    #[test]
    fn what_an_owner_added_goes_with_it() {
        let gauge = IntGauge::new("g", "g").unwrap();
        let mut one = Share::new(&gauge, 3);
        let two = Share::new(&gauge, 4);
        assert_eq!(gauge.get(), 7);
        one.set(1);
        assert_eq!(gauge.get(), 5);
        drop(one);
        drop(two);
        assert_eq!(gauge.get(), 0);
    }
}
