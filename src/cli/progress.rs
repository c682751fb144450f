//! A line about work that takes long, for people: only at a terminal, only after a second.

use crate::runtime::clock::{self, Mono};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

/// Work that is done sooner needs no word.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two words.
const PACE: Duration = Duration::from_millis(200);

/// The line, on standard error; it is gone when this is dropped.
pub struct Progress {
    is_terminal: bool,
    begun: Mono,
    said: Option<Mono>,
}

impl Progress {
    /// Nothing is shown yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            begun: clock::mono(),
            said: None,
        }
    }

    /// Shows how far the work is, if it is time for it.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.is_due(clock::mono()) {
            let _ = write!(io::stderr(), "\r\x1b[K{}", text());
        }
    }

    fn is_due(&mut self, now: Mono) -> bool {
        let last = self.said.unwrap_or_default();
        let due = self.is_terminal
            && now.since(self.begun) >= PATIENCE
            && (self.said.is_none() || now.since(last) >= PACE);
        if due {
            self.said = Some(now);
        }
        due
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.said.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Progress;
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    #[test]
    fn a_word_is_said_after_a_second_and_then_five_times_a_second() {
        let at = |ms| Mono::from_start(Duration::from_millis(ms));
        let mut progress = Progress {
            is_terminal: true,
            begun: at(0),
            said: None,
        };
        let said = (0..3000).filter(|ms| progress.is_due(at(*ms))).count();
        assert_eq!(said, 10);
        progress.is_terminal = false;
        assert!(!progress.is_due(at(9000)));
        progress.said = None; // nothing to take back from the test's own terminal
    }
}
