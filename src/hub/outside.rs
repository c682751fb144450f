//! Tokens made by somebody else: a file that is rewritten, or a service that is asked.
//!
//! One task for all connections, on the control thread. A file is looked at every second, and a
//! newer token is news for every connection; a service is asked once per period, however many
//! connections want the answer. What is asked for is bounded in size and time.

use super::environment::Wall;
use super::fetch;
use super::mint::{NoToken, Token, period};
use super::sas;
use super::tuning;
use crate::config::secret::Secret;
use crate::config::{HubConfig, TokenSource, TokenUrl, secret_file};
use crate::runtime::clock::{self, Mono};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// What a source is told.
pub enum Ask {
    /// Give the token of this period.
    Token(oneshot::Sender<Result<Token, NoToken>>),
    /// The hub refused the newest one.
    Refused,
}

/// The task's state.
pub struct Outside {
    config: Arc<HubConfig>,
    asks: mpsc::Receiver<Ask>,
    /// Counts tokens that came without having been asked for.
    news: Arc<watch::Sender<u64>>,
    wall: Wall,
    newest: Option<Token>,
    failed: Option<(Mono, NoToken)>,
}

impl Outside {
    /// A source that has no token yet.
    pub fn new(
        config: Arc<HubConfig>,
        asks: mpsc::Receiver<Ask>,
        news: Arc<watch::Sender<u64>>,
        wall: Wall,
    ) -> Self {
        Self {
            config,
            asks,
            news,
            wall,
            newest: None,
            failed: None,
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let config = Arc::clone(&self.config);
        let mut look = interval(tuning::TOKEN_FILE_CHECK);
        loop {
            let ask = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ask) = self.asks.recv() => ask,
                _ = look.tick() => {
                    if let TokenSource::File { path, insecure_permissions } = &config.token_source {
                        // What is wrong is told to whoever asks.
                        drop(self.look(path, *insecure_permissions).await);
                    }
                    continue;
                }
            };
            match ask {
                Ask::Token(reply) => drop(reply.send(self.token(&config).await)),
                Ask::Refused => {
                    if matches!(config.token_source, TokenSource::Url(_)) {
                        self.newest = None;
                    }
                }
            }
        }
    }

    async fn token(&mut self, config: &HubConfig) -> Result<Token, NoToken> {
        match &config.token_source {
            TokenSource::File {
                path,
                insecure_permissions,
            } => {
                self.look(path, *insecure_permissions).await?;
                let token = self.newest.clone().ok_or("the token file was not read")?;
                if token.ends <= clock::mono() {
                    let path = path.display();
                    let words = format!("the token in {path} has ended; its writer is late");
                    return Err(NoToken { ended: true, words });
                }
                Ok(token)
            }
            TokenSource::Url(url) => self.ask(config, url).await,
            TokenSource::Keys => Err("no source outside is configured".into()),
        }
    }

    /// Reads the file; a token it did not hold before is news.
    async fn look(&mut self, path: &Path, insecure: bool) -> Result<(), NoToken> {
        let name = path.to_owned();
        let read = tokio::task::spawn_blocking(move || secret_file::read(&name, insecure));
        let text = read
            .await
            .map_err(|_| "reading the token file failed".to_owned())??;
        let known = self.newest.is_some();
        let path = path.display();
        let unusable = |words| format!("the token in {path} is not usable: {words}");
        let newer = self.take(&text).map_err(|none| none.says(unusable))?;
        if known && newer {
            self.news.send_modify(|news| *news += 1);
        }
        Ok(())
    }

    /// Asks the service, once per period; a failure answers everybody who asks right after it.
    async fn ask(&mut self, config: &HubConfig, url: &TokenUrl) -> Result<Token, NoToken> {
        let now = clock::mono();
        if let Some(token) = &self.newest {
            let life = token.ends.since(token.minted);
            if now.since(token.minted) < life.mul_f64(period(config)) {
                return Ok(token.clone());
            }
        }
        if let Some((at, none)) = &self.failed
            && now.since(*at) < tuning::TOKEN_SERVICE_PAUSE
        {
            return Err(none.clone());
        }
        let sr = sas::encoded(&config.audience);
        let answer = timeout(config.operation_timeout, fetch::token(config, url, &sr));
        let result = match answer.await {
            Ok(Ok(text)) => self.take(&text).map(drop),
            Ok(Err(error)) => Err(error.to_string().into()),
            Err(_elapsed) => Err("no answer within hub.operation_timeout".into()),
        };
        let failed = |words| format!("no token from {url}: {words}");
        let result = result.map_err(|none| none.says(failed));
        self.failed = result.as_ref().err().map(|m| (clock::mono(), m.clone()));
        result?;
        self.newest
            .clone()
            .ok_or_else(|| "the token service gave no token".into())
    }

    /// Takes a token over; whether it is another than before.
    fn take(&mut self, text: &Zeroizing<String>) -> Result<bool, NoToken> {
        if let Some(newest) = &self.newest
            && newest.text.ct_eq(text.as_bytes())
        {
            return Ok(false);
        }
        let expiry = sas::read(text, &self.config.audience)?;
        let (now, wall) = (clock::mono(), (self.wall)());
        if expiry <= wall {
            let words = "it has ended already, or this machine's clock is wrong".to_owned();
            return Err(NoToken { ended: true, words });
        }
        self.newest = Some(Token {
            text: Secret::from(text.as_str()),
            expiry,
            minted: now,
            ends: now + expiry.since(wall),
        });
        Ok(true)
    }
}
