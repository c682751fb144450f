//! Where tokens come from: signed here with the policy's keys, or made by somebody else.
//!
//! One source for all connections, so that a period has one token. With keys it also says in
//! which order to try them, and by which clock: the primary key comes first again each period,
//! so that a rotation finds its way back by itself. Never puts a token; that is `token`'s.

use super::outside::Ask;
use super::sas;
use super::schedule::Slot;
use super::timekeeper::{Offset, Timekeeper};
use super::tuning;
use crate::config::HubConfig;
use crate::config::secret::Secret;
use crate::runtime::clock::{Mono, Unix};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A token.
#[derive(Clone)]
pub struct Token {
    /// The text that is put.
    pub text: Secret,
    /// `se`
    pub expiry: Unix,
    /// When it was minted, or received.
    pub minted: Mono,
    /// When it ends on the monotonic clock.
    pub ends: Mono,
}

/// Why a source has no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoToken {
    /// The newest one it has is over.
    pub ended: bool,
    /// A sentence.
    pub words: String,
}

impl NoToken {
    /// The same, in other words.
    pub fn says(self, words: impl FnOnce(String) -> String) -> Self {
        Self {
            ended: self.ended,
            words: words(self.words),
        }
    }
}

impl<T: Into<String>> From<T> for NoToken {
    fn from(words: T) -> Self {
        Self {
            ended: false,
            words: words.into(),
        }
    }
}

/// One way to come by a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Signed here with this key, by this clock.
    Signed(Slot, Offset),
    /// Made elsewhere; the word is where.
    Outside(&'static str),
}

impl Candidate {
    /// `token_key_in_use{slot}` and status word.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Signed(slot, _) => slot.label(),
            Self::Outside(origin) => origin,
        }
    }
}

/// The source of all tokens.
pub enum Mint {
    /// The policy's keys.
    Keys(Box<Mutex<Keys>>),
    /// A file or a service; the word is which.
    Outside(&'static str, mpsc::Sender<Ask>),
}

/// A shared access policy and its keys.
#[derive(Clone, PartialEq, Eq)]
pub struct PolicyKeys {
    policy: String,
    primary: Secret,
    secondary: Option<Secret>,
}

impl PolicyKeys {
    /// Those of `[hub]`.
    #[must_use]
    pub fn of(config: &HubConfig) -> Self {
        Self {
            policy: config.policy.clone(),
            primary: config.key.clone(),
            secondary: config.secondary_key.clone(),
        }
    }
}

/// The policy's keys and what the hub said about them.
pub struct Keys {
    keys: PolicyKeys,
    newest: [Option<(Token, Offset)>; 2],
    life: Duration,
    reuse: Duration,
    primary_refused: Option<Mono>,
    timekeeper: Timekeeper,
}

/// The share of a token's life in which all connections are given the same one.
pub fn period(config: &HubConfig) -> f64 {
    (config.renew_at - tuning::RENEWAL_SPREAD).clamp(0.01, 0.99)
}

impl Mint {
    /// Signs with the keys of `config`.
    pub fn keys(config: &HubConfig) -> Self {
        Self::Keys(Box::new(Mutex::new(Keys::new(config))))
    }

    /// The ways to come by a token now, best first; at least one.
    pub fn candidates(&self, now: Mono, wall: Unix) -> Vec<Candidate> {
        match self {
            Self::Keys(keys) => lock(keys).candidates(now, wall),
            Self::Outside(origin, _) => vec![Candidate::Outside(origin)],
        }
    }

    /// The token of this period by `candidate`.
    ///
    /// # Errors
    /// When a source outside has none.
    pub async fn token(
        &self,
        config: &HubConfig,
        candidate: Candidate,
        now: Mono,
    ) -> Result<Token, NoToken> {
        match (self, candidate) {
            (Self::Keys(keys), Candidate::Signed(slot, offset)) => {
                Ok(lock(keys).token(config, slot, offset, now))
            }
            (Self::Outside(_, asks), _) => {
                let (reply, answer) = oneshot::channel();
                let asked = asks.send(Ask::Token(reply)).await.is_ok();
                let answer = if asked { answer.await.ok() } else { None };
                answer.unwrap_or_else(|| Err("the token's source has stopped".into()))
            }
            (Self::Keys(_), Candidate::Outside(_)) => Err("no such source".into()),
        }
    }

    /// The hub took a token of `candidate`.
    pub fn accepted(&self, candidate: Candidate) {
        if let (Self::Keys(keys), Candidate::Signed(slot, offset)) = (self, candidate) {
            let mut keys = lock(keys);
            keys.timekeeper.accepted(offset);
            if slot == Slot::Primary {
                keys.primary_refused = None;
            }
        }
    }

    /// The hub refused a token of `candidate`.
    pub fn refused(&self, candidate: Candidate, now: Mono) {
        match (self, candidate) {
            (Self::Keys(keys), Candidate::Signed(slot, offset)) => {
                let mut keys = lock(keys);
                keys.timekeeper.refused(offset);
                keys.newest[index(slot)] = None;
                if slot == Slot::Primary {
                    keys.primary_refused.get_or_insert(now);
                }
            }
            // A full queue means that somebody is asking anyway.
            (Self::Outside(_, asks), _) => drop(asks.try_send(Ask::Refused)),
            (Self::Keys(_), Candidate::Outside(_)) => {}
        }
    }

    /// Signs with these keys from now on; whether they are other ones.
    pub fn rekey(&self, fresh: PolicyKeys) -> bool {
        let Self::Keys(keys) = self else {
            return false;
        };
        let mut keys = lock(keys);
        let changed = keys.keys != fresh;
        if changed {
            keys.keys = fresh;
            keys.newest = [None, None];
            keys.primary_refused = None;
        }
        changed
    }

    /// Whether the wall clock has moved since the hub last took a token.
    pub fn clock_jumped(&self, now: Mono, wall: Unix) -> bool {
        match self {
            Self::Keys(keys) => lock(keys).timekeeper.jumped(Offset::of(now, wall)),
            Self::Outside(..) => false,
        }
    }
}

fn lock(keys: &Mutex<Keys>) -> MutexGuard<'_, Keys> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(slot: Slot) -> usize {
    usize::from(slot == Slot::Secondary)
}

impl Keys {
    fn new(config: &HubConfig) -> Self {
        let life = config.token_ttl.max(Duration::from_secs(1));
        Self {
            newest: [None, None],
            life,
            reuse: life.mul_f64(period(config)),
            keys: PolicyKeys::of(config),
            primary_refused: None,
            timekeeper: Timekeeper::default(),
        }
    }

    fn candidates(&mut self, now: Mono, wall: Unix) -> Vec<Candidate> {
        if self
            .primary_refused
            .is_some_and(|at| now.since(at) >= self.reuse)
        {
            self.primary_refused = None; // a new period: it may have been put right
        }
        let slots: &[Slot] = match (self.keys.secondary.is_some(), self.primary_refused) {
            (false, _) => &[Slot::Primary],
            (true, None) => &[Slot::Primary, Slot::Secondary],
            (true, Some(_)) => &[Slot::Secondary, Slot::Primary],
        };
        let clocks = self.timekeeper.clocks(Offset::of(now, wall));
        let signed = |clock| move |slot: &Slot| Candidate::Signed(*slot, clock);
        let by = |clock: &Offset| slots.iter().map(signed(*clock));
        clocks.iter().flat_map(by).collect()
    }

    fn token(&mut self, config: &HubConfig, slot: Slot, offset: Offset, now: Mono) -> Token {
        let place = &mut self.newest[index(slot)];
        if let Some((token, by)) = place.as_ref()
            && now.since(token.minted) < self.reuse
            && by.agrees(offset)
        {
            return token.clone();
        }
        // `se` counts whole seconds: rounding up keeps short lives from being cut.
        let wall = offset.wall(now);
        let end = wall + self.life;
        let expiry = Unix::from_secs(end.as_millis().div_ceil(1000));
        let PolicyKeys {
            policy,
            primary,
            secondary,
        } = &self.keys;
        let key = match (secondary, slot) {
            (Some(key), Slot::Secondary) => key,
            _ => primary,
        };
        let token = Token {
            text: sas::mint(&config.audience, policy, key, expiry),
            expiry,
            minted: now,
            ends: now + expiry.since(wall),
        };
        *place = Some((token.clone(), offset));
        token
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Keys, Mint, Offset, Slot};
    use crate::config::HubConfig;
    use crate::hub::tests::config;
    use crate::runtime::clock::{Mono, Unix};
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: f64) -> (Mono, Unix) {
        let since = Duration::from_secs_f64(seconds);
        (Mono::from_start(since), Unix::from_secs(1_000_000) + since)
    }

    fn minted(keys: &mut Keys, config: &HubConfig, now: Mono, wall: Unix) -> Unix {
        let offset = Offset::of(now, wall);
        keys.token(config, Slot::Primary, offset, now).expiry
    }

    fn slots(mint: &Mint, seconds: f64) -> Vec<&'static str> {
        let (now, wall) = at(seconds);
        let all = mint.candidates(now, wall);
        all.into_iter().map(Candidate::label).collect()
    }

    #[test]
    fn one_token_is_minted_per_period() {
        let config = config(1);
        let mut keys = Keys::new(&config); // ttl 1 h, renewed at 85 %
        let mut token = |s| {
            let (now, wall) = at(s);
            minted(&mut keys, &config, now, wall)
        };
        let first = token(0.0);
        assert_eq!(token(1000.0), first);
        assert_eq!(token(2870.0), first, "the earliest renewal is at 80 %");
        let second = token(2881.0);
        assert!(second > first);
        assert_eq!(token(3060.0), second, "other connections get the same one");
    }

    #[test]
    fn the_life_is_never_cut_by_whole_seconds() {
        let config = config(1);
        let (now, wall) = at(0.9);
        let mut keys = Keys::new(&config);
        let token = keys.token(&config, Slot::Primary, Offset::of(now, wall), now);
        assert!(token.expiry.since(wall) >= config.token_ttl);
        assert_eq!(token.ends.since(now), token.expiry.since(wall));
    }

    #[test]
    fn a_token_signed_by_another_clock_is_not_used_again() {
        let config = config(1);
        let mut keys = Keys::new(&config);
        let (now, wall) = at(7200.0);
        let first = minted(&mut keys, &config, now, wall);
        let later = minted(&mut keys, &config, now, wall + HOUR);
        assert_eq!(later.since(first), HOUR);
        let back = minted(&mut keys, &config, now, wall);
        assert_eq!(back, first);
    }

    #[test]
    fn the_other_key_and_the_other_clock_are_in_line() {
        let mut config = config(1);
        config.secondary_key = Some("second".into());
        let mint = Mint::keys(&config);
        let (now, wall) = at(7200.0);
        let first = mint.candidates(now, wall)[0];
        mint.accepted(first);
        assert!(!mint.clock_jumped(now, wall));
        assert!(mint.clock_jumped(now, wall + HOUR));
        let all = mint.candidates(now, wall + HOUR);
        let (jumped, steady) = (Offset::of(now, wall + HOUR), Offset::of(now, wall));
        let expected = [
            Candidate::Signed(Slot::Primary, jumped),
            Candidate::Signed(Slot::Secondary, jumped),
            Candidate::Signed(Slot::Primary, steady),
            Candidate::Signed(Slot::Secondary, steady),
        ];
        assert_eq!(all, expected);
        for refused in &all[..2] {
            mint.refused(*refused, now);
        }
        mint.accepted(all[2]);
        assert!(!mint.clock_jumped(now, wall + HOUR), "the hub has decided");
        assert_eq!(mint.candidates(now, wall + HOUR)[0], expected[2]);
    }

    #[test]
    fn a_refused_primary_key_comes_first_again_next_period() {
        let mut config = config(1);
        config.secondary_key = Some("second".into());
        let mint = Mint::keys(&config);
        assert_eq!(slots(&mint, 0.0), ["primary", "secondary"]);
        let (now, wall) = at(100.0);
        mint.refused(mint.candidates(now, wall)[0], now);
        assert_eq!(slots(&mint, 101.0), ["secondary", "primary"]);
        assert_eq!(slots(&mint, 2900.0), ["secondary", "primary"]);
        assert_eq!(slots(&mint, 2981.0), ["primary", "secondary"]);
        // Refused again: the other connections of this period do not ask.
        mint.refused(mint.candidates(at(2981.0).0, wall)[0], at(2981.0).0);
        assert_eq!(slots(&mint, 2982.0), ["secondary", "primary"]);
        mint.accepted(Candidate::Signed(Slot::Primary, Offset::of(now, wall)));
        assert_eq!(slots(&mint, 2983.0), ["primary", "secondary"]);
    }
}
