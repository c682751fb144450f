//! Tokens in motion: one mint for the hub, one keeper per connection.
//!
//! The keeper puts the token, renews it, and sends the keep-alive Flow. It owns its own session
//! and links (`cbs`), so that nothing it does can disturb a device's link, and nothing on the
//! data path can delay it.

use super::cbs::{Cbs, CbsError};
use super::connection::BeginRequest;
use super::io::KillSwitch;
use super::lane::{Lane, Shared};
use super::outcome;
use super::sas;
use super::schedule::{Action, Plan, Schedule, Slot};
use super::tuning;
use crate::config::HubConfig;
use crate::config::secret::Secret;
use crate::runtime::clock::{self, Mono, Unix};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A minted token.
#[derive(Clone)]
pub struct Token {
    /// The text that is put.
    pub text: Secret,
    /// `se`
    pub expiry: Unix,
    /// When it was minted.
    pub minted: Mono,
    /// When it ends on the monotonic clock.
    pub ends: Mono,
}

/// Mints one token per period and key, for all connections.
pub struct TokenSource {
    newest: Mutex<[Option<Token>; 2]>,
    preferred: Mutex<Slot>,
    life: Duration,
    reuse: Duration,
}

impl TokenSource {
    /// A source that has minted nothing.
    pub fn new(config: &HubConfig) -> Self {
        let life = config.token_ttl.max(Duration::from_secs(1));
        let share = (config.renew_at - tuning::RENEWAL_SPREAD).clamp(0.01, 0.99);
        Self {
            newest: Mutex::new([None, None]),
            preferred: Mutex::new(Slot::Primary),
            life,
            reuse: life.mul_f64(share),
        }
    }

    /// The token of this period, signed with `slot`'s key; a new one once the earliest renewal of
    /// the current one is due, or when the wall clock left the current one behind.
    pub fn token(&self, config: &HubConfig, slot: Slot, now: Mono, wall: Unix) -> Token {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let place = &mut newest[usize::from(slot == Slot::Secondary)];
        if let Some(token) = place.as_ref() {
            let plausible = token.expiry > wall && token.expiry.since(wall) <= self.life * 2;
            if now.since(token.minted) < self.reuse && plausible {
                return token.clone();
            }
        }
        // `se` counts whole seconds: rounding up keeps short lives from being cut.
        let end = wall + self.life;
        let expiry = Unix::from_secs(end.as_millis().div_ceil(1000));
        let key = match (&config.secondary_key, slot) {
            (Some(key), Slot::Secondary) => key,
            _ => &config.key,
        };
        let token = Token {
            text: sas::mint(&config.audience, &config.policy, key, expiry),
            expiry,
            minted: now,
            ends: now + expiry.since(wall),
        };
        *place = Some(token.clone());
        token
    }

    fn preferred(&self) -> Slot {
        *self
            .preferred
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn prefer(&self, slot: Slot) {
        *self
            .preferred
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = slot;
    }
}

/// Keeps one connection's token.
pub struct Keeper {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    kill: KillSwitch,
    begin: mpsc::Sender<BeginRequest>,
    schedule: Schedule,
    cbs: Option<Cbs>,
    expiry: Option<Unix>,
}

impl Keeper {
    /// A keeper for a connection that has just opened.
    pub fn new(
        shared: Arc<Shared>,
        lane: Arc<Lane>,
        kill: KillSwitch,
        begin: mpsc::Sender<BeginRequest>,
    ) -> Self {
        let plan = Plan {
            renew_at: shared.config.renew_at,
            backoff_min: shared.config.backoff_min,
            backoff_max: shared.config.backoff_max,
            has_secondary: shared.config.secondary_key.is_some(),
        };
        let schedule = Schedule::new(plan, shared.tokens.preferred(), clock::mono());
        Self {
            shared,
            lane,
            kill,
            begin,
            schedule,
            cbs: None,
            expiry: None,
        }
    }

    /// Runs until told to stop; the connection's end is noticed by whoever tells it.
    pub async fn run(mut self, stop: CancellationToken) {
        let keep_alive = tuning::KEEP_ALIVE_MAX.min(self.shared.config.idle_timeout / 3);
        let keep_alive = keep_alive.max(Duration::from_millis(100));
        let mut ping_at = clock::mono() + keep_alive;
        while !stop.is_cancelled() {
            let now = clock::mono();
            if let Action::Put(slot) = self.schedule.action(now) {
                self.put(slot).await;
                self.publish();
                continue;
            }
            if now >= ping_at {
                ping_at = now + keep_alive;
                self.ping(now);
            }
            let Action::Wait(until) = self.schedule.action(now) else {
                continue;
            };
            tokio::select! {
                () = sleep(until.min(ping_at).since(now)) => {}
                () = self.lane.suspect.notified() => self.schedule.suspected(clock::mono()),
                () = stop.cancelled() => {}
            }
            self.publish();
        }
        if let Some(cbs) = self.cbs.take() {
            self.close(cbs).await;
        }
    }

    /// The keep-alive Flow, and a look at the wall clock: a machine that slept has an old token.
    fn ping(&mut self, now: Mono) {
        if let Some(cbs) = &mut self.cbs {
            cbs.ping();
        }
        let wall = clock::unix();
        if self.expiry.is_some_and(|expiry| expiry <= wall) && self.schedule.holds_token(now) {
            self.schedule.overslept(now);
        }
    }

    fn publish(&self) {
        let holds = self.schedule.holds_token(clock::mono());
        if self.shared.authorize(&self.lane, holds) && !holds {
            self.problem("the token ended and could not be renewed".to_owned());
        }
    }

    fn problem(&self, text: String) {
        self.shared.problem(self.lane.index, text);
    }

    async fn put(&mut self, slot: Slot) {
        let config = Arc::clone(&self.shared.config);
        let (now, wall) = (clock::mono(), clock::unix());
        let token = self.shared.tokens.token(&config, slot, now, wall);
        let result = self.put_once(&token).await;
        let now = clock::mono();
        let count = |result| {
            let counter = self
                .shared
                .metrics
                .token_renewals
                .with_label_values(&[result]);
            counter.inc();
        };
        match result {
            Ok(()) => {
                count("accepted");
                self.problem(String::new());
                let roll = tuning::roll();
                self.schedule.accepted(now, token.minted, token.ends, roll);
                self.expiry = Some(token.expiry);
                self.shared.tokens.prefer(slot);
                self.shared.token_accepted(token.expiry, slot.label());
            }
            Err(error @ CbsError::Status { code, .. }) if outcome::token_refused(code) => {
                count("refused");
                let key = slot.label();
                self.problem(format!("the hub refused the {key} key's token: {error}"));
                self.schedule.refused(now, tuning::roll());
            }
            Err(error) => {
                count(error.label());
                self.problem(format!("putting the token failed: {error}"));
                self.schedule.failed(now, tuning::roll());
                if error.broken()
                    && let Some(cbs) = self.cbs.take()
                {
                    self.close(cbs).await;
                }
            }
        }
    }

    async fn put_once(&mut self, token: &Token) -> Result<(), CbsError> {
        let deadline = self.shared.config.operation_timeout;
        let cbs = match &mut self.cbs {
            Some(cbs) => cbs,
            place => {
                let (reply, session) = oneshot::channel();
                if self.begin.send(reply).await.is_err() {
                    return Err(CbsError::Lost);
                }
                let session = session.await.map_err(|_| CbsError::Lost)?;
                let open = timeout(deadline, Cbs::open(session)).await;
                let Ok(opened) = open else {
                    self.kill.kill(); // an attach may not be cancelled (fe2o3 F2)
                    return Err(CbsError::Timeout);
                };
                place.insert(opened?)
            }
        };
        let name = &self.shared.config.audience;
        let put = timeout(deadline, cbs.put(name, &token.text)).await;
        put.unwrap_or(Err(CbsError::Timeout))
    }

    async fn close(&self, cbs: Cbs) {
        let deadline = self.shared.config.operation_timeout;
        if timeout(deadline, cbs.close()).await.is_err() {
            self.kill.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TokenSource;
    use crate::hub::schedule::Slot;
    use crate::hub::tests::config;
    use crate::runtime::clock::{Mono, Unix};
    use std::time::Duration;

    fn at(seconds: f64) -> (Mono, Unix) {
        let since = Duration::from_secs_f64(seconds);
        (Mono::from_start(since), Unix::from_secs(1_000) + since)
    }

    #[test]
    fn one_token_is_minted_per_period() {
        let config = config(1);
        let source = TokenSource::new(&config); // ttl 1 h, renewed at 85 %
        let token = |s| {
            let (now, wall) = at(s);
            source.token(&config, Slot::Primary, now, wall).expiry
        };
        let first = token(0.0);
        assert_eq!(token(1000.0), first);
        assert_eq!(token(2870.0), first, "the earliest renewal is at 80 %");
        let second = token(2881.0);
        assert!(second > first);
        assert_eq!(
            token(3060.0),
            second,
            "other connections get the same new one"
        );
    }

    #[test]
    fn the_life_is_never_cut_by_whole_seconds() {
        let config = config(1);
        let source = TokenSource::new(&config);
        let (now, wall) = at(0.9);
        let token = source.token(&config, Slot::Primary, now, wall);
        assert!(token.expiry.since(wall) >= config.token_ttl);
        assert_eq!(token.ends.since(now), token.expiry.since(wall));
    }

    #[test]
    fn a_wall_clock_that_jumped_past_the_end_means_a_new_token() {
        let config = config(1);
        let source = TokenSource::new(&config);
        let (now, wall) = at(0.0);
        let first = source.token(&config, Slot::Primary, now, wall).expiry;
        let later = wall + Duration::from_secs(7200);
        let second = source.token(&config, Slot::Primary, now, later);
        assert!(second.expiry > first);
        let back = source.token(&config, Slot::Primary, now, wall);
        assert!(back.expiry.since(wall) <= config.token_ttl + Duration::from_secs(1));
    }
}
