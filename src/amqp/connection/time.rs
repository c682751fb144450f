//! What time does to a connection (2.4.5).

use super::{Closed, Connection, Stage};
use crate::amqp::fault::Fault;
use crate::amqp::frame::{self, Kind};
use crate::runtime::clock::Mono;
use fe2o3_amqp_types::definitions::{AmqpError, Error};

impl Connection {
    /// When [`tick`](Self::tick) must be called next, whatever else happens. Asked again after
    /// each turn.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        match self.stage {
            Stage::Over => Mono::far_future(),
            Stage::Up => {
                let idle = self.config.idle_time_out.map(|time| self.heard + time);
                let ping = self.ping.map(|time| self.spoke + time);
                let both = [idle, ping].into_iter().flatten();
                both.min().unwrap_or_else(Mono::far_future)
            }
            _ => self.limit,
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Mono) {
        match self.stage {
            Stage::Over => {}
            Stage::Up => {
                if let Some(idle) = self.config.idle_time_out
                    && now >= self.heard + idle
                {
                    let what = "nothing was heard for the idle time-out";
                    let fault = Fault::connection(AmqpError::ResourceLimitExceeded, what);
                    let error: Error = fault.error();
                    self.flush();
                    self.put_close(Some(error.clone()));
                    self.finish(Closed::Idle, Some(&error));
                    return;
                }
                if let Some(ping) = self.ping
                    && now >= self.spoke + ping
                {
                    // What waits to be written keeps the connection alive as well.
                    self.spoke = now;
                    if self.io.out.is_empty() {
                        let at = frame::begin(&mut self.io.out, Kind::Amqp, 0);
                        frame::finish(&mut self.io.out, at);
                    }
                }
            }
            _ if now >= self.limit => {
                if self.stage == Stage::Open {
                    self.put_close(None);
                }
                self.finish(Closed::Timeout, None);
            }
            _ => {}
        }
    }
}
