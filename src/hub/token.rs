//! Tokens in motion: one keeper per connection.
//!
//! The keeper puts the token and renews it. It owns its own session and links (`cbs`), so that
//! nothing it does can disturb a device's link. It runs on the control thread, so that the data
//! path delays no decision and no deadline of it; only the frames themselves go through the
//! connection's own task.

use super::cbs::{Cbs, CbsError, Home};
use super::driver::Handle;
use super::lane::{Lane, Shared};
use super::mint::{Candidate, NoToken, Token, period};
use super::outcome;
use super::refusals::{self, Class, RefusalCause};
use super::report::within;
use super::schedule::{Action, Plan, Schedule};
use super::tuning;
use crate::runtime::clock::{self, Mono, Unix};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Keeps one connection's token.
pub struct Keeper {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    handle: Handle,
    home: Home,
    schedule: Schedule,
    cbs: Option<Cbs>,
    /// The token the hub took last, without its text.
    held: Option<Held>,
    /// The candidates of the attempt under way.
    candidates: Vec<Candidate>,
    /// Puts that failed one after the other because the links were lost.
    lost_in_a_row: u32,
    news: watch::Receiver<u64>,
}

struct Held {
    /// It had ended by the wall clock when the hub took it: then that clock is wrong, and says
    /// nothing about the token's end.
    was_past: bool,
    expiry: Unix,
    minted: Mono,
    /// From here on only a newer one counts as renewed.
    old_at: Mono,
}

/// Why a token was not put.
enum PutError {
    /// There is none.
    Source(NoToken),
    /// The hub or the connection.
    Cbs(CbsError),
}

impl Keeper {
    /// A keeper for a connection that has just opened.
    pub fn new(shared: Arc<Shared>, lane: Arc<Lane>, handle: Handle, home: Home) -> Self {
        let plan = Plan {
            renew_at: shared.config.renew_at,
            backoff_min: shared.config.backoff_min,
            backoff_max: shared.config.backoff_max,
        };
        let schedule = Schedule::new(plan, clock::mono());
        let news = shared.token_news.subscribe();
        Self {
            shared,
            lane,
            handle,
            home,
            schedule,
            cbs: None,
            held: None,
            candidates: Vec::new(),
            lost_in_a_row: 0,
            news,
        }
    }

    /// Runs until told to stop; the connection's end is noticed by whoever tells it.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let now = clock::mono();
            if let Action::Put(candidate) = self.schedule.action(now) {
                self.note_lateness(now);
                self.put(candidate).await;
                self.publish();
                continue;
            }
            self.compare_clocks(now);
            let Action::Wait(until) = self.schedule.action(now) else {
                continue;
            };
            let wake = until.min(now + tuning::CLOCK_CHECK);
            tokio::select! {
                biased;
                () = sleep(wake.since(now)) => {}
                () = self.lane.suspect.notified() => self.schedule.suspected(clock::mono()),
                Ok(()) = self.news.changed() => self.schedule.news(clock::mono()),
                () = stop.cancelled() => {}
            }
            self.publish();
        }
        if let Some(cbs) = self.cbs.take() {
            self.close(cbs).await;
        }
    }

    /// A wall clock that moved by itself, or past the token's end, means that the token may not
    /// be what the hub thinks it is: put a new one.
    fn compare_clocks(&mut self, now: Mono) {
        let wall = (self.shared.world.wall)();
        let jumped = self.shared.mint.clock_jumped(now, wall);
        let ended = |held: &Held| held.expiry <= wall && !held.was_past;
        let ended = self.held.as_ref().is_some_and(ended);
        if (jumped || ended) && self.schedule.holds_token(now) {
            if jumped {
                tracing::warn!(
                    name: "clock_jumped",
                    connection = self.lane.index,
                    "the wall clock jumped, renewing"
                );
            }
            self.schedule.news(now);
        }
    }

    fn note_lateness(&self, now: Mono) {
        let late = self.schedule.late(now);
        let ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        self.shared.late_ms.fetch_max(ms, Ordering::Relaxed);
        if late > tuning::RENEWAL_LATE {
            tracing::warn!(
                name: "renewal_late",
                connection = self.lane.index,
                late_ms = ms,
                "a renewal was decided late"
            );
        }
    }

    fn publish(&self) {
        let holds = self.schedule.holds_token(clock::mono());
        if self.shared.authorize(&self.lane, holds) && !holds {
            let connection = self.lane.index;
            tracing::warn!(
                name: "token_ended",
                connection,
                "the token ended and could not be renewed"
            );
            self.problem("the token ended and could not be renewed".to_owned());
        }
    }

    fn problem(&self, text: String) {
        self.shared.problem(self.lane.index, text);
    }

    /// Puts a token of the given candidate, and books how that went.
    async fn put(&mut self, candidate: usize) {
        let now = clock::mono();
        if candidate == 0 || candidate >= self.candidates.len() {
            let wall = (self.shared.world.wall)();
            self.candidates = self.shared.mint.candidates(now, wall);
        }
        let Some(candidate) = self.candidates.get(candidate).copied() else {
            self.schedule.failed(now, crate::runtime::random::unit());
            return;
        };
        let result = self.token_and_put(candidate, now).await;
        let (now, roll) = (clock::mono(), crate::runtime::random::unit());
        match result {
            Ok(token) => {
                self.count("accepted");
                self.lost_in_a_row = 0;
                self.problem(String::new());
                self.shared
                    .refusals
                    .succeeded(Class::Token, || self.lane.name());
                self.schedule.accepted(now, token.minted, token.ends, roll);
                self.shared.mint.accepted(candidate);
                let label = candidate.label();
                self.shared.token_accepted(token.expiry, label);
                let life = token.ends.since(token.minted);
                self.held = Some(Held {
                    was_past: token.expiry <= (self.shared.world.wall)(),
                    expiry: token.expiry,
                    minted: token.minted,
                    old_at: token.minted + life.mul_f64(period(&self.shared.config)),
                });
            }
            Err(PutError::Cbs(error @ CbsError::Status { code, .. }))
                if outcome::token_refused(code) =>
            {
                self.count("refused");
                let of = candidate.label();
                self.problem(format!("the hub refused the token of {of}: {error}"));
                self.refused(&error, candidate);
                self.shared.mint.refused(candidate, now);
                self.schedule.refused(now, self.candidates.len(), roll);
            }
            Err(PutError::Cbs(error)) => {
                self.count(error.label());
                self.problem(format!("putting the token failed: {error}"));
                self.refused(&error, candidate);
                self.schedule.failed(now, roll);
                if error.broken()
                    && let Some(cbs) = self.cbs.take()
                {
                    self.close(cbs).await;
                }
            }
            Err(PutError::Source(none)) => {
                self.count("source");
                let cause = match none.ended {
                    true => RefusalCause::TokenExpired,
                    false => RefusalCause::TokenSource,
                };
                self.shared
                    .refusals
                    .refused(cause, &self.lane.name(), &none.words);
                self.problem(none.words);
                self.schedule.failed(now, roll);
            }
        }
    }

    /// Tells why the token was not taken.
    fn refused(&mut self, error: &CbsError, candidate: Candidate) {
        let cause = match error {
            CbsError::Status { code, text } => {
                let signed_here = matches!(candidate, Candidate::Signed(..));
                refusals::of_status(*code, text, signed_here)
            }
            CbsError::Timeout => return, // told when it had lasted long enough
            CbsError::Lost => {
                // Once is how a connection ends; again on the same one is the hub's will.
                self.lost_in_a_row += 1;
                if self.lost_in_a_row < 2 {
                    return;
                }
                RefusalCause::CbsLost
            }
        };
        let words = error.to_string();
        self.shared
            .refusals
            .refused(cause, &self.lane.name(), &words);
    }

    fn count(&self, result: &str) {
        let renewals = &self.shared.metrics.token_renewals;
        renewals.with_label_values(&[result]).inc();
    }

    async fn token_and_put(&mut self, candidate: Candidate, now: Mono) -> Result<Token, PutError> {
        let config = Arc::clone(&self.shared.config);
        let token = self.shared.mint.token(&config, candidate, now).await;
        let token = token.map_err(PutError::Source)?;
        let unchanged = |held: &Held| held.minted == token.minted && held.old_at <= now;
        if self.held.as_ref().is_some_and(unchanged) {
            let message = format!("the token's {} has none newer", candidate.label());
            return Err(PutError::Source(NoToken::from(message)));
        }
        self.put_once(&token).await.map_err(PutError::Cbs)?;
        Ok(token)
    }

    async fn put_once(&mut self, token: &Token) -> Result<(), CbsError> {
        if self.cbs.is_none() {
            self.cbs = Some(self.open().await?);
        }
        let cbs = self.cbs.as_mut().ok_or(CbsError::Lost)?;
        let put = cbs.put(&self.shared.config.audience, &token.text);
        let (shared, lane) = (&self.shared, &self.lane);
        let silent = || {
            shared
                .refusals
                .refused(RefusalCause::CbsSilent, &lane.name(), "")
        };
        let put = within(shared.config.operation_timeout, put, silent);
        put.await.unwrap_or(Err(CbsError::Timeout))
    }

    /// Attaches the `$cbs` pair.
    async fn open(&self) -> Result<Cbs, CbsError> {
        let silent = || {
            let refusals = &self.shared.refusals;
            refusals.refused(RefusalCause::CbsSilent, &self.lane.name(), "");
        };
        let deadline = self.shared.config.operation_timeout;
        let opened = within(deadline, Cbs::open(self.home.clone()), silent).await;
        opened.unwrap_or_else(|_elapsed| {
            self.handle
                .kill("the hub did not answer the attach of $cbs within hub.operation_timeout");
            Err(CbsError::Timeout)
        })
    }

    async fn close(&self, cbs: Cbs) {
        let deadline = self.shared.config.operation_timeout;
        if timeout(deadline, cbs.close()).await.is_err() {
            self.handle
                .kill("the hub did not answer the close of $cbs in time");
        }
    }
}
