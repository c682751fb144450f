//! What the hub refuses at the moment, and when to say so: at the start, each minute, at the end;
//! pure.
//!
//! Refusals of one cause are one episode, whoever meets them, so that ten thousand devices behind
//! a used-up quota are one line a minute and a true count. An episode ends when everybody who was
//! refused got through, or when somebody did and nobody was refused for a while, or when nobody
//! tries any more. What an episode remembers is bounded by [`SUBJECTS_MAX`].

mod cause;
mod classify;
#[cfg(test)]
mod tests;

pub use cause::{Class, Reach, RefusalCause, documentation};
pub use classify::{of_error, of_status};

use crate::runtime::clock::Mono;
use std::time::Duration;

/// An episode that lasts is said again after this.
pub const REPEAT: Duration = Duration::from_secs(60);
/// Nobody is refused for this long while somebody gets through: it is over.
pub const QUIET: Duration = Duration::from_secs(10);
/// Nobody is refused for this long at all: nobody tries any more.
pub const FORGOTTEN: Duration = Duration::from_secs(300);
/// Refused connections and devices remembered per cause; ids have at most 128 bytes (a module's
/// 257), so all causes together hold less than half a MiB.
pub const SUBJECTS_MAX: usize = 64;
/// Of those, as many are named in a line.
const NAMED_MAX: usize = 3;

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first refusal.
    Began,
    /// It goes on.
    Lasts,
    /// It is over.
    Over,
    /// Nobody tries any more.
    Forgotten,
}

/// One line about an episode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which line.
    pub phase: Phase,
    /// Of what.
    pub cause: RefusalCause,
    /// Refusals since it began.
    pub count: u64,
    /// Refusals since the line before.
    pub recent: u64,
    /// How long it lasts.
    pub lasted: Duration,
    /// Some of those refused, and how many more are known.
    pub refused: String,
    /// The hub's latest words; empty when it had none.
    pub words: String,
}

/// An episode under way, for `/ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of what.
    pub cause: RefusalCause,
    /// Refusals since it began.
    pub count: u64,
    /// How long it lasts.
    pub lasted: Duration,
    /// How long ago the latest refusal is.
    pub quiet: Duration,
    /// Whether it keeps everybody out.
    pub blocks: bool,
}

#[derive(Debug)]
struct Episode {
    cause: RefusalCause,
    since: Mono,
    last: Mono,
    said: Mono,
    count: u64,
    recent: u64,
    /// Who was refused and did not get through since.
    subjects: Vec<String>,
    /// There were more than can be remembered.
    more: bool,
    /// When somebody got through last.
    good: Option<Mono>,
    words: String,
}

/// All episodes under way; at most one per cause.
#[derive(Debug, Default)]
pub struct Refusals {
    episodes: Vec<Episode>,
}

impl Refusals {
    /// `subject` was refused. The first of an episode is to be said at once.
    pub fn refused(
        &mut self,
        cause: RefusalCause,
        subject: &str,
        words: &str,
        now: Mono,
    ) -> Option<Report> {
        let known = self.episodes.iter().position(|e| e.cause == cause);
        let episode = match known {
            Some(index) => &mut self.episodes[index],
            None => {
                self.episodes.push(Episode::new(cause, now));
                self.episodes.last_mut()?
            }
        };
        episode.count += 1;
        episode.recent += 1;
        episode.last = now;
        words.clone_into(&mut episode.words);
        if !episode.subjects.iter().any(|known| known == subject) {
            if episode.subjects.len() < SUBJECTS_MAX {
                episode.subjects.push(subject.to_owned());
            } else {
                episode.more = true;
            }
        }
        known.is_none().then(|| episode.report(Phase::Began, now))
    }

    /// `subject` got as far as `class` says. An episode about connections or the token ends at
    /// once with its last subject; others at the next [`Self::tick`], since a hub that throttles
    /// takes some and refuses some.
    pub fn succeeded(&mut self, class: Class, subject: &str, now: Mono) -> Vec<Report> {
        for episode in self
            .episodes
            .iter_mut()
            .filter(|e| class.shows(e.cause.class()))
        {
            episode.good = Some(now);
            episode.subjects.retain(|known| known != subject);
        }
        match class {
            Class::Connect | Class::Token => self.take(
                |e| (e.cause.class() == class && e.passed()).then_some(Phase::Over),
                now,
            ),
            Class::Link | Class::Message => Vec::new(),
        }
    }

    /// What time alone brings about.
    pub fn tick(&mut self, now: Mono) -> Vec<Report> {
        let mut reports = self.take(|episode| episode.end(now), now);
        for episode in &mut self.episodes {
            if now.since(episode.said) >= REPEAT && episode.recent > 0 {
                reports.push(episode.report(Phase::Lasts, now));
            }
        }
        reports
    }

    /// Bits of the classes whose success would be news.
    #[must_use]
    pub fn standing_classes(&self) -> u32 {
        let news = |class: &Class| self.episodes.iter().any(|e| class.shows(e.cause.class()));
        let classes = [Class::Connect, Class::Token, Class::Link, Class::Message];
        let bits = classes.into_iter().filter(news).map(Class::bit);
        bits.fold(0, |all, bit| all | bit)
    }

    /// What is under way, the longest first.
    #[must_use]
    pub fn standing(&self, now: Mono) -> Vec<Standing> {
        let standing = |episode: &Episode| Standing {
            cause: episode.cause,
            count: episode.count,
            lasted: now.since(episode.since),
            quiet: now.since(episode.last),
            blocks: episode.blocks(now),
        };
        self.episodes.iter().map(standing).collect()
    }

    /// Ends the episodes that `end` says are over.
    fn take(&mut self, end: impl Fn(&Episode) -> Option<Phase>, now: Mono) -> Vec<Report> {
        let mut reports = Vec::new();
        self.episodes.retain_mut(|episode| match end(episode) {
            Some(phase) => {
                reports.push(episode.report(phase, now));
                false
            }
            None => true,
        });
        reports
    }
}

impl Episode {
    fn new(cause: RefusalCause, now: Mono) -> Self {
        Self {
            cause,
            since: now,
            last: now,
            said: now,
            count: 0,
            recent: 0,
            subjects: Vec::new(),
            more: false,
            good: None,
            words: String::new(),
        }
    }

    /// Whether everybody who was refused got through.
    fn passed(&self) -> bool {
        self.subjects.is_empty() && !self.more
    }

    fn end(&self, now: Mono) -> Option<Phase> {
        let silence = now.since(self.last);
        let good = self.good.is_some_and(|good| good >= self.last);
        let settled = match self.cause.reach() {
            // What holds for everybody is disproved by anybody.
            Reach::All => good && silence >= QUIET / 5,
            Reach::One => good && self.passed() && silence >= QUIET / 5,
        };
        if settled || (good && self.more && silence >= QUIET) {
            return Some(Phase::Over);
        }
        (silence >= FORGOTTEN).then_some(Phase::Forgotten)
    }

    /// Whether nobody gets through. One success may have crossed a refusal; a while without one
    /// has not. What the hub did not say in words may be about one device for a while.
    fn blocks(&self, now: Mono) -> bool {
        let said = !self.cause.code().is_empty();
        let nobody = match self.good {
            Some(good) => self.last > good && now.since(good) >= QUIET,
            None => said || now.since(self.since) >= QUIET,
        };
        self.cause.reach() == Reach::All && nobody
    }

    fn report(&mut self, phase: Phase, now: Mono) -> Report {
        self.said = now;
        Report {
            phase,
            cause: self.cause,
            count: self.count,
            recent: std::mem::take(&mut self.recent),
            lasted: now.since(self.since),
            refused: self.named(),
            words: self.words.clone(),
        }
    }

    /// The first few of those refused.
    fn named(&self) -> String {
        let mut text = self
            .subjects
            .iter()
            .take(NAMED_MAX)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        let rest = self.subjects.len().saturating_sub(NAMED_MAX);
        if self.more {
            text.push_str(&format!(" and more than {rest} others"));
        } else if rest > 0 {
            text.push_str(&format!(" and {rest} more"));
        }
        text
    }
}
